"""The ways to evaluate a bundle, from data to tables, files and a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast, get_args

from rich.console import Console

from refocusd.config import Backend, EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.models.bundle import load_bundle
from refocusd_training.evaluation.cases import channel_cases, deep_cases, held_out_cases
from refocusd_training.evaluation.defocus import evaluate_defocus
from refocusd_training.evaluation.methods import (
    REFOCUSED,
    Method,
    OnnxMethod,
    WrittenMethod,
    stack_methods,
)
from refocusd_training.evaluation.page import Frames, write_page
from refocusd_training.evaluation.pair import (
    REAL_DEFINITION,
    Pair,
    evaluate_pairs,
    pair_of_files,
)
from refocusd_training.evaluation.report import print_table, write_csv, write_json
from refocusd_training.evaluation.results import Judge, Result, evaluate, exposure_of, methods_of
from refocusd_training.evaluation.stacks import STACKS_DEFINITION, read_notes, stack_pairs
from refocusd_training.evaluation.summary import DEFINITION

__all__ = ["Outputs", "run_held_out", "run_own_pair", "run_protocol", "run_stacks"]

#: Name and ONNX file of a rival.
Named = tuple[str, Path]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Files for results, beside the terminal; None for none.

    Parameters
    ----------
    json, csv : Path or None
        Files.
    page : Path or None
        Folder.
    """

    json: Path | None = None
    csv: Path | None = None
    page: Path | None = None


def run_held_out(
    bundle: str,
    data: Path,
    outputs: Outputs,
    *,
    channels: Sequence[Named] = (),
    rivals: Sequence[Named] = (),
    limit: int | None = None,
    deconvolve: bool = True,
) -> list[Result]:
    """Simulated frames of the test side through microscopes that training never drew.

    Parameters
    ----------
    bundle : str
        Folder, or the name of a shipped bundle.
    data : Path
        Folder of the test images.
    outputs : Outputs
    channels : sequence of (name, folder)
        Sharp images of further channels.
    rivals : sequence of (name, ONNX file)
    limit : int, optional
        At most so many specimens a channel.
    deconvolve : bool

    Raises
    ------
    InputError, BundleError, OutputError
    """
    cases = held_out_cases(data, limit=limit)
    flat = list(cases)
    cases += deep_cases(cases)
    for name, folder in channels:
        cases += channel_cases(name, folder)[:limit]
    columns = [OnnxMethod(name, path) for name, path in rivals]
    results = evaluate(bundle, cases, deconvolve=deconvolve, rivals=columns)
    by_key = {(case.specimen, case.setting.name): case for case in cases}
    further: dict[str, object] = {}
    accuracy = evaluate_defocus(load_bundle(bundle), flat)
    if accuracy is not None:
        further["defocus"] = accuracy.document()
        Console().print(
            f"defocus: {accuracy.accuracy:.1%} of 11 classes, {accuracy.within_one:.1%} within one, "
            f"mean absolute error {accuracy.mae_um:.2f} um"
        )
    _give(
        bundle,
        results,
        outputs,
        lambda result: exposure_of(by_key[result.specimen, result.setting], result.defocus_um),
        methods_of(bundle, deconvolve=deconvolve, oracles=True, rivals=columns)
        if outputs.page
        else [],
        DEFINITION,
        further,
        simulated=True,
    )
    return results


def run_protocol(
    bundle: str,
    data: Path,
    outputs: Outputs,
    *,
    planes: Sequence[int] | None = None,
    scaled: bool = False,
    rivals: Sequence[Named] = (),
    limit: int | None = None,
    deconvolve: bool = True,
) -> list[Result]:
    """Run the published protocol on BBBC006; see `refocusd_training.evaluation.protocol`.

    Parameters
    ----------
    scaled : bool
        Planes 2, 6 and 10, and figures of frames that are each scaled by their own minimum and
        maximum (`scaled_quality`).
    """
    from refocusd_training.evaluation.protocol import (
        PLANES,
        bbbc006_pairs,
        planes_of,
        protocol_definition,
        scaled_definition,
        scaled_quality,
        training_of,
    )

    trained = training_of(load_bundle(bundle))
    planes = PLANES if scaled else planes_of(planes, trained)
    pairs = bbbc006_pairs(data, planes=planes, limit=limit, trained=trained)
    methods = _columns(bundle, rivals, deconvolve=deconvolve, oracles=True)
    if scaled:
        return _give_pairs(bundle, pairs, methods, outputs, scaled_definition(), scaled_quality)
    return _give_pairs(bundle, pairs, methods, outputs, protocol_definition(planes))


def run_own_pair(
    bundle: str,
    raw: Path,
    truth: Path,
    outputs: Outputs,
    *,
    stain: str,
    pixel_um: float,
    rivals: Sequence[Named] = (),
    deconvolve: bool = True,
) -> list[Result]:
    """Evaluate a user's own pair with all figures that need neither optics nor defocus."""
    pair = pair_of_files(raw, truth, channel=stain, pixel_um=pixel_um)
    methods = _columns(bundle, rivals, deconvolve=deconvolve, oracles=False)
    return _give_pairs(bundle, [pair], methods, outputs, REAL_DEFINITION)


def run_stacks(
    engines: Sequence[str],
    data: Path,
    outputs: Outputs,
    *,
    notes: Path | None = None,
    rivals: Sequence[Named] = (),
    limit: int | None = None,
    deconvolve: bool = True,
) -> list[Result]:
    """Every plane of real through-focus stacks; see `refocusd_training.evaluation.stacks`.

    Parameters
    ----------
    engines : sequence of str
        Backends by name (``deconvolution``), shipped bundles, or folders of bundles; the worst
        frames of the first are shown.
    data : Path
        Folder of the stacks.
    outputs : Outputs
    notes : Path, optional
        TOML file with what the stacks' files do not say.
    rivals : sequence of (name, ONNX file)
    limit : int, optional
        At most so many planes a stack.
    deconvolve : bool
        Also Richardson-Lucy, with the nominal PSF and with the estimated blur.

    Raises
    ------
    InputError, BundleError, EngineError, ConfigError, OutputError
    """
    pairs = stack_pairs(data, read_notes(notes) if notes else None, limit=limit)
    with ExitStack() as stack:
        methods: list[Method] = []
        for name in engines:
            engine = stack.enter_context(closing(build_engine(name, _options(name))))
            methods.append(WrittenMethod(Path(name).name, engine))
        methods += [OnnxMethod(name, path) for name, path in rivals]
        if deconvolve:
            methods += stack_methods()
        return _give_pairs(None, pairs, methods, outputs, STACKS_DEFINITION)


def _options(engine: str) -> EngineOptions:
    """A backend by its name; anything else is a bundle, in the precision that every machine has."""
    if engine in get_args(Backend):
        return EngineOptions(cast("Backend", engine))
    return EngineOptions(precision="f32")


def _columns(
    bundle: str, rivals: Sequence[Named], *, deconvolve: bool, oracles: bool
) -> list[Method]:
    columns = [OnnxMethod(name, path) for name, path in rivals]
    return methods_of(bundle, deconvolve=deconvolve, oracles=oracles, rivals=columns)


def _give_pairs(
    bundle: str | None,
    pairs: Sequence[Pair],
    methods: Sequence[Method],
    outputs: Outputs,
    definition: str,
    judge: Judge | None = None,
) -> list[Result]:
    results = evaluate_pairs(pairs, methods, judge)
    by_key = {
        (pair.group, pair.specimen, abs(pair.defocus_um or 0.0)): pair.exposure for pair in pairs
    }
    further: dict[str, object] = {"definition": definition}
    by_set = {pair.channel if bundle else pair.group: pair.optics for pair in pairs}
    if optics := {name: asdict(known) for name, known in by_set.items() if known}:
        further["nominal_optics"] = optics
    _give(
        bundle,
        results,
        outputs,
        lambda result: by_key[
            result.group,
            result.specimen,
            0.0 if math.isnan(result.defocus_um) else result.defocus_um,
        ],
        methods,
        definition,
        further,
        simulated=False,
    )
    return results


def _give(
    bundle: str | None,
    results: Sequence[Result],
    outputs: Outputs,
    frames: Frames,
    methods: Sequence[Method],
    definition: str,
    further: Mapping[str, object],
    *,
    simulated: bool,
) -> None:
    print_table(results, definition=definition)
    if outputs.json:
        write_json(outputs.json, bundle, results, further=further, simulated=simulated)
    if outputs.csv:
        write_csv(outputs.csv, results)
    if outputs.page:
        title = f"{load_bundle(bundle).model_id if bundle else 'real stacks'}: evaluation"
        judged = REFOCUSED if bundle else methods[0].name
        write_page(
            outputs.page,
            results,
            frames,
            methods,
            title=title,
            definition=definition,
            judged=judged,
        )
        Console().print(f"page: {outputs.page / 'index.html'}")
