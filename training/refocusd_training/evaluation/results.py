"""Runs every method on every frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from refocusd.engines.runtimes.openvino import engine_threads
from refocusd.imaging.quality import Quality, compare, register, shifted
from refocusd.models.bundle import load_bundle
from refocusd_training.evaluation.cases import LEVELS_UM, NUCLEI, Case, scene_of
from refocusd_training.evaluation.measures.figures import Figures, Truth
from refocusd_training.evaluation.methods import (
    INPUT,
    REFOCUSED,
    Exposure,
    Method,
    bundle_methods,
    oracle_methods,
    user_methods,
    was_in_focus,
)

#: Names of the microscope for frames that were not simulated: pairs, and planes of stacks.
AS_TAKEN, THROUGH_FOCUS = "as taken", "through focus"
#: Name of the frames that a user gets: the worker passes frames through that are in focus already.
AS_WRITTEN = "as written"
#: Channels whose frames show nuclei that are counted.
NUCLEAR_CHANNELS = frozenset({NUCLEI, "w1", "hoechst", "dapi"})

#: Compares a restored frame with the truth, in counts.
Judge = Callable[[NDArray[Any], NDArray[Any]], Quality]


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one method on one frame.

    Parameters
    ----------
    specimen, group, setting : str
        Image, its origin, and the microscope.
    defocus_um : float
        Magnitude; NaN if it is not known.
    method : str
    quality : Quality
    figures : Figures
    seconds : float
        Wall time of the method.
    channel : str
    unchanged : bool
        Whether the method returned the raw frame.
    """

    specimen: str
    group: str
    setting: str
    defocus_um: float
    method: str
    quality: Quality
    figures: Figures
    seconds: float
    channel: str = NUCLEI
    unchanged: bool = False


def methods_of(
    bundle: Path | str, *, deconvolve: bool, oracles: bool, rivals: Sequence[Method] = ()
) -> list[Method]:
    """All methods of an evaluation, in the order of their columns.

    Parameters
    ----------
    bundle : Path or str
        Folder, or the name of a shipped bundle.
    deconvolve : bool
        Also deconvolve, which takes most of the time.
    oracles : bool
        Also deconvolve with the true PSF.
    rivals : sequence of Method
        Methods for further columns.
    """
    methods = [*bundle_methods(load_bundle(bundle)), *rivals]
    if deconvolve:
        methods += user_methods()
        if oracles:
            methods += oracle_methods()
    return methods


def measure(
    exposure: Exposure,
    methods: Iterable[Method],
    frame: tuple[str, str, str, float],
    *,
    channel: str,
    simulated: bool = True,
    judge: Judge | None = None,
) -> list[Result]:
    """Apply every method to one frame; the frame itself is the first result.

    Parameters
    ----------
    exposure : Exposure
    methods : iterable of Method
    frame : (str, str, str, float)
        Specimen, group, setting and defocus, as in `Result`.
    channel : str
        Channel of the frame; nuclei are counted only in those of nuclear stains.
    simulated : bool
        Whether the truth is the noise-free frame of the same scene.  A truth from a camera has its own
        noise, and each result is first shifted onto it (`refocusd.imaging.quality.register`).
    judge : callable, optional
        Replaces `refocusd.imaging.quality.compare`; then nothing is shifted.
    """
    truth = Truth(
        exposure.truth,
        exposure.pixel_um,
        nuclear=channel.lower() in NUCLEAR_CHANNELS,
        noisy=not simulated,
    )

    def judged(method: str, image: NDArray[Any], seconds: float) -> Result:
        unchanged = np.array_equal(image, exposure.raw)
        if not simulated and judge is None:
            image = shifted(image, register(image, exposure.truth))
        if judge is None:
            quality = compare(image, exposure.truth, register=False)
        else:
            quality = judge(image, exposure.truth)
        figures = truth.compare(image)
        return Result(*frame, method, quality, figures, seconds, channel, unchanged)

    found = [judged(INPUT, exposure.raw, 0.0)]
    for method in methods:
        begun = time.perf_counter()
        # As many threads as the engine uses, because times are compared.
        with scipy.fft.set_workers(engine_threads()):
            image = method.refocus(exposure)
        found.append(judged(method.name, image, time.perf_counter() - begun))
        if method.name == REFOCUSED:
            passed = was_in_focus(exposure.raw, np.asarray(image))
            found.append(replace(found[0 if passed else -1], method=AS_WRITTEN))
    return found


def exposure_of(case: Case, defocus_um: float) -> Exposure:
    """The simulated frame of a case at a level, with its true optics."""
    scene = scene_of(case, defocus_um)
    optics = case.setting.optics
    return Exposure(scene.raw, scene.truth, scene.range, optics.pixel_um, optics, defocus_um)


def evaluate(
    bundle: Path | str,
    cases: Sequence[Case],
    *,
    levels: Iterable[float] = LEVELS_UM,
    deconvolve: bool = True,
    rivals: Sequence[Method] = (),
) -> list[Result]:
    """Apply every method to every case at every level.

    Parameters
    ----------
    bundle : Path or str
        Folder, or the name of a shipped bundle.
    cases : sequence of Case
    levels : iterable of float
        Defocus in micrometres.
    deconvolve : bool
        Also deconvolve, which takes most of the time.
    rivals : sequence of Method
        Further columns.
    """
    methods = methods_of(bundle, deconvolve=deconvolve, oracles=True, rivals=rivals)
    results: list[Result] = []
    frames = [(case, level) for level in levels for case in cases]
    for case, level in track(frames, "evaluating", console=Console(stderr=True)):
        frame = (case.specimen, case.group, case.setting.name, level)
        results += measure(exposure_of(case, level), methods, frame, channel=case.channel)
    return results
