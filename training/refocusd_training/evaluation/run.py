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
from refocusd_training.evaluation.measures.defocus import evaluate_defocus
from refocusd_training.evaluation.methods import (
    REFOCUSED,
    EngineMethod,
    Method,
    OnnxMethod,
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

#: Name and ONNX file of a rival.
Named = tuple[str, Path]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of all evaluations: further columns, fewer frames, files of results.

    Parameters
    ----------
    rivals : sequence of (name, ONNX file)
        Further networks.
    limit : int or None
        At most this many specimens, fields, or planes of a stack.
    deconvolve : bool
        Also deconvolve, which takes most of the time.
    json, csv : Path or None
        Files for the results, which are also printed.
    page : Path or None
        Folder of the page.
    """

    rivals: Sequence[Named] = ()
    limit: int | None = None
    deconvolve: bool = True
    json: Path | None = None
    csv: Path | None = None
    page: Path | None = None

    def methods(self, bundle: str, *, oracles: bool = True) -> list[Method]:
        """All columns for a bundle."""
        return methods_of(
            bundle, deconvolve=self.deconvolve, oracles=oracles, rivals=self.rival_methods()
        )

    def rival_methods(self) -> list[Method]:
        """A column for each rival."""
        return [OnnxMethod(name, path) for name, path in self.rivals]


def run_held_out(
    bundle: str, data: Path, options: Options, *, channels: Sequence[Named] = ()
) -> list[Result]:
    """Evaluate a bundle on simulated frames of the test side, with microscopes that training never drew.

    Parameters
    ----------
    bundle : str
        Folder, or the name of a shipped bundle.
    data : Path
        Folder of the test images.
    options : Options
    channels : sequence of (name, folder)
        Sharp images of further channels.

    Raises
    ------
    InputError, BundleError, OutputError
    """
    cases = held_out_cases(data, limit=options.limit)
    flat = list(cases)
    cases += deep_cases(cases)
    for name, folder in channels:
        cases += channel_cases(name, folder)[: options.limit]
    columns = options.rival_methods()
    results = evaluate(bundle, cases, deconvolve=options.deconvolve, rivals=columns)
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
        options,
        lambda result: exposure_of(by_key[result.specimen, result.setting], result.defocus_um),
        options.methods(bundle) if options.page else [],
        DEFINITION,
        further,
        simulated=True,
    )
    return results


def run_protocol(
    bundle: str,
    data: Path,
    options: Options,
    *,
    planes: Sequence[int] | None = None,
    scaled: bool = False,
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
    pairs = bbbc006_pairs(data, planes=planes, limit=options.limit, trained=trained)
    methods = options.methods(bundle)
    if scaled:
        return _give_pairs(bundle, pairs, methods, options, scaled_definition(), scaled_quality)
    return _give_pairs(bundle, pairs, methods, options, protocol_definition(planes))


def run_own_pair(
    bundle: str, raw: Path, truth: Path, options: Options, *, stain: str, pixel_um: float
) -> list[Result]:
    """Evaluate a user's own pair with all figures that need neither optics nor defocus."""
    pair = pair_of_files(raw, truth, channel=stain, pixel_um=pixel_um)
    methods = options.methods(bundle, oracles=False)
    return _give_pairs(bundle, [pair], methods, options, REAL_DEFINITION)


def run_stacks(
    engines: Sequence[str], data: Path, options: Options, *, notes: Path | None = None
) -> list[Result]:
    """Evaluate engines on every plane of real stacks; see `refocusd_training.evaluation.stacks`.

    Parameters
    ----------
    engines : sequence of str
        Backends by name (``deconvolution``), shipped bundles, or folders of bundles; the page shows
        the worst frames of the first.
    data : Path
        Folder of the stacks.
    options : Options
    notes : Path, optional
        TOML file with facts that the stacks' files do not state.

    Raises
    ------
    InputError, BundleError, EngineError, ConfigError, OutputError
    """
    pairs = stack_pairs(data, read_notes(notes) if notes else None, limit=options.limit)
    with ExitStack() as stack:
        methods: list[Method] = []
        for name in engines:
            engine = stack.enter_context(closing(build_engine(name, _options(name))))
            methods.append(EngineMethod(Path(name).name, engine, as_written=True))
        methods += options.rival_methods()
        if options.deconvolve:
            methods += stack_methods()
        return _give_pairs(None, pairs, methods, options, STACKS_DEFINITION)


def _options(engine: str) -> EngineOptions:
    """Options for a backend by its name; anything else is a bundle, in f32, which every machine has."""
    if engine in get_args(Backend):
        return EngineOptions(cast("Backend", engine))
    return EngineOptions(precision="f32")


def _give_pairs(
    bundle: str | None,
    pairs: Sequence[Pair],
    methods: Sequence[Method],
    options: Options,
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
        options,
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
    options: Options,
    frames: Frames,
    methods: Sequence[Method],
    definition: str,
    further: Mapping[str, object],
    *,
    simulated: bool,
) -> None:
    print_table(results, definition=definition)
    if options.json:
        write_json(options.json, bundle, results, further=further, simulated=simulated)
    if options.csv:
        write_csv(options.csv, results)
    if options.page:
        title = f"{load_bundle(bundle).model_id if bundle else 'real stacks'}: evaluation"
        judged = REFOCUSED if bundle else methods[0].name
        write_page(
            options.page,
            results,
            frames,
            methods,
            title=title,
            definition=definition,
            judged=judged,
        )
        Console().print(f"page: {options.page / 'index.html'}")
