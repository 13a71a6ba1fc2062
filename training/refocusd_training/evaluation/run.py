"""The three ways to evaluate a bundle, from data to tables, files and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from refocusd.models.bundle import load_bundle
from refocusd_training.evaluation.cases import channel_cases, deep_cases, held_out_cases
from refocusd_training.evaluation.defocus import evaluate_defocus
from refocusd_training.evaluation.methods import Method, OnnxMethod
from refocusd_training.evaluation.page import Frames, write_page
from refocusd_training.evaluation.pair import (
    REAL_DEFINITION,
    Pair,
    evaluate_pairs,
    pair_of_files,
)
from refocusd_training.evaluation.report import print_table, write_csv, write_json
from refocusd_training.evaluation.results import Result, evaluate, exposure_of, methods_of
from refocusd_training.evaluation.summary import DEFINITION

__all__ = ["Outputs", "run_held_out", "run_own_pair", "run_protocol"]

#: Name and ONNX file of a rival.
Named = tuple[str, Path]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where results go, beside the terminal; None for nowhere.

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
    rivals: Sequence[Named] = (),
    limit: int | None = None,
    deconvolve: bool = True,
) -> list[Result]:
    """BBBC006 as it is published on; see `refocusd_training.evaluation.protocol`."""
    from refocusd_training.evaluation.protocol import (
        bbbc006_pairs,
        planes_of,
        protocol_definition,
        training_of,
    )

    trained = training_of(load_bundle(bundle))
    planes = planes_of(planes, trained)
    pairs = bbbc006_pairs(data, planes=planes, limit=limit, trained=trained)
    methods = _columns(bundle, rivals, deconvolve=deconvolve, oracles=True)
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
    """One pair of frames of one's own: all figures that need neither optics nor defocus."""
    pair = pair_of_files(raw, truth, channel=stain, pixel_um=pixel_um)
    methods = _columns(bundle, rivals, deconvolve=deconvolve, oracles=False)
    return _give_pairs(bundle, [pair], methods, outputs, REAL_DEFINITION)


def _columns(
    bundle: str, rivals: Sequence[Named], *, deconvolve: bool, oracles: bool
) -> list[Method]:
    columns = [OnnxMethod(name, path) for name, path in rivals]
    return methods_of(bundle, deconvolve=deconvolve, oracles=oracles, rivals=columns)


def _give_pairs(
    bundle: str,
    pairs: Sequence[Pair],
    methods: Sequence[Method],
    outputs: Outputs,
    definition: str,
) -> list[Result]:
    results = evaluate_pairs(pairs, methods)
    by_key = {(pair.specimen, abs(pair.defocus_um or 0.0)): pair for pair in pairs}
    known = all(pair.defocus_um is not None for pair in pairs)
    further: dict[str, object] = {"definition": definition}
    if optics := {pair.channel: asdict(pair.optics) for pair in pairs if pair.optics}:
        further["nominal_optics"] = optics
    _give(
        bundle,
        results,
        outputs,
        lambda result: by_key[result.specimen, result.defocus_um if known else 0.0].exposure,
        methods,
        definition,
        further,
        simulated=False,
    )
    return results


def _give(
    bundle: str,
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
        title = f"{load_bundle(bundle).model_id}: evaluation"
        write_page(outputs.page, results, frames, methods, title=title, definition=definition)
        Console().print(f"page: {outputs.page / 'index.html'}")
