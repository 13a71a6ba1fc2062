"""Refocuses one frame, judges the result, and decides what is written."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from refocusd.config import Untrusted
from refocusd.engines.deconvolution import DeconvolutionEngine
from refocusd.engines.engine import BlurEngine, Engine, Refocused
from refocusd.engines.verdict import Judge, Judgement, flux_ratio, judge_of, shipped_judge
from refocusd.errors import RefocusdError
from refocusd.frame import Pixels
from refocusd.imaging.blur import estimate_blur
from refocusd.imaging.field_evidence import FieldEvidence, examine_field
from refocusd.imaging.normalise import check_frame, counts_range
from refocusd.imaging.optics import Optics
from refocusd.imaging.pair_evidence import PairEvidence, examine_pair
from refocusd.imaging.quality import focus_score
from refocusd.imaging.tiles import sharp_part, weights_outside
from refocusd.imaging.trust_map import AS_ACQUIRED, CELL_PX, trust_map, trust_shape
from refocusd.profiles.hot_pixels import HotPixels
from refocusd.transport.messages import FocusOptics, FrameFacts
from refocusd.worker.blurs import Stream

if TYPE_CHECKING:
    from refocusd.imaging.defocus import DefocusEstimate


log = logging.getLogger(__name__)

#: A part whose blur is wider than this is not in focus, px.
_SHARP_PX = 2.2
Written = Literal["refocused", "deconvolved", "raw", "nothing"]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The part of a calibration profile that applies to a frame: the profile's id, and the hot pixels."""

    profile: str
    hot_pixels: HotPixels


@dataclass(frozen=True, slots=True)
class _Made:
    """The pixels that are written for a frame, and how they came about."""

    refocused: Refocused
    written: Written
    said: Judgement
    pair: PairEvidence | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """How a frame is to be refocused; see `refocus_frame`."""

    engine: Engine
    pass_in_focus: bool
    untrusted: Untrusted
    focus: FocusOptics | None
    stream: Stream | None


def refocus_frame(
    engine: Engine,
    raw: Pixels,
    out: Pixels,
    *,
    pass_in_focus: bool = True,
    untrusted: Untrusted = "deconvolve",
    focus: FocusOptics | None = None,
    calibrated: Calibrated | None = None,
    stream: Stream | None = None,
    trust: NDArray[np.uint8] | None = None,
) -> FrameFacts:
    """Refocus one frame, and describe the result.

    Parameters
    ----------
    engine : Engine
    raw : ndarray of uint8 or uint16, shape (height, width)
    out : ndarray, same shape and dtype
        Filled with what is to be written: the refocused frame, the raw one if there is nothing
        to refocus and `pass_in_focus` is set, or what `untrusted` says.
    pass_in_focus : bool
        Whether a frame that is in focus, or has no structure, is written unchanged.
    untrusted : str
        What is written if the result is not trusted, see `refocusd.config.Settings`.
    focus : FocusOptics, optional
        Estimate the defocus as well, with these optics.
    calibrated : Calibrated, optional
        Its hot pixels are replaced in what the engine sees, and so in the percentiles that
        normalise the frame.  The camera's offset is not a lower bound of these percentiles:
        networks are trained on frames whose darkest percent is below it, because of noise.
    stream : Stream, optional
        The blur of earlier frames; it learns from this one.
    trust : ndarray of uint8, shape `refocusd.imaging.trust_map.trust_shape`, optional
        Filled with the trust map of what is written.

    Returns
    -------
    FrameFacts

    Raises
    ------
    EngineError
        If `raw` or `out` has another shape or dtype, or the engine fails.
    """
    begun = time.perf_counter()
    if trust is not None:
        trust.fill(AS_ACQUIRED)
    if engine.description.backend == "identity":
        facts = _path_alone(engine.refocus(raw, out).engine_ms)
    else:
        check_frame(raw, out)
        hot = calibrated.hot_pixels if calibrated else None
        seen = hot.repaired(raw) if hot else raw
        field = examine_field(seen)
        task = _Task(engine, pass_in_focus, untrusted, focus, stream)
        part = _part_in_focus(seen, field) if pass_in_focus else None
        if field is not None and part is not None:
            facts = _refocus_part(task, raw, seen, out, field, part, trust)
        else:
            facts = _refocus_whole(task, raw, seen, out, field, trust)
    return msgspec.structs.replace(
        facts,
        worker_ms=(time.perf_counter() - begun) * 1e3,
        calibration=calibrated.profile if calibrated else None,
    )


def _refocus_whole(
    task: _Task,
    raw: Pixels,
    seen: Pixels,
    out: Pixels,
    field: FieldEvidence | None,
    trust: NDArray[np.uint8] | None,
) -> FrameFacts:
    """Refocus a frame as a whole; the engine sees `seen`."""
    # A hot pixel is the sharpest structure in a frame, and would make it appear in focus.
    focus_before = focus_after = focus_score(seen)
    defocus = None
    judge = judge_of(task.engine.description.verdict)
    nothing = judge.nothing_to_refocus(field) if task.pass_in_focus else None
    if nothing is not None:
        np.copyto(out, raw)
        made = _Made(Refocused(counts_range(seen), 0.0, 0), "raw", nothing)
    else:
        refocused = _through(task.engine, seen, out, task.stream, focus_before)
        # The facts describe the engine's result, before anything replaces it.
        defocus = _defocus(seen, out, task.focus) if task.focus is not None else None
        made = _judged(judge, refocused, field, seen, out, task.pass_in_focus)
        if made.said.verdict == "untrusted" and task.untrusted != "mark":
            made = _in_its_place(made, task, field, seen, out)
        if made.written in ("raw", "nothing"):
            np.copyto(out, raw)
        else:
            focus_after = focus_score(out)
    if trust is not None and made.pair and made.written in ("refocused", "deconvolved"):
        least = judge.doubtful if judge.likely_wrong(made.said) else 0.0
        trust[:] = trust_map(raw.shape, made.pair, made.said.error_chance or 0.0, least)
    facts = _facts(made, field, judge, seen, out)
    return msgspec.structs.replace(
        facts,
        focus_before=focus_before,
        focus_after=focus_after,
        defocus_um=defocus.distance_um if defocus else None,
        defocus_uncertainty_um=defocus.uncertainty_um if defocus else None,
        defocus_confidence=defocus.confidence if defocus else 0.0,
    )


def _facts(
    made: _Made, field: FieldEvidence | None, judge: Judge, seen: Pixels, out: Pixels
) -> FrameFacts:
    """Facts of the pixels that are written, without times, focus scores and defocus."""
    blur, pair = made.refocused.blur, made.pair
    own = made.written not in ("raw", "nothing")
    interval = None
    judge = judge if made.written == "refocused" else shipped_judge()
    if own and field is not None and pair is not None and not judge.likely_wrong(made.said):
        interval = judge.interval.of(pair.expected_error * field.contrast, pair.stated_px)
    counts = made.refocused.counts
    return FrameFacts(
        offset=counts.offset,
        scale=counts.scale,
        engine_ms=made.refocused.engine_ms,
        worker_ms=0.0,
        focus_before=0.0,
        focus_after=0.0,
        flux_ratio=flux_ratio(seen, out, counts.offset) if own else 1.0,
        clipped=made.refocused.clipped if own else 0,
        verdict=made.said.verdict,
        blur_px=blur.sigma_px if blur else None,
        blur_uncertainty=blur.uncertainty if blur else None,
        blur_source=blur.source if blur else None,
        written=made.written,
        reasons=list(made.said.reasons),
        error_chance=made.said.error_chance,
        contrast=field.contrast if field else None,
        noise=field.noise if field else None,
        clipped_share=field.clipped if field else None,
        unexplained=pair.unexplained if pair else None,
        residual_chi2=pair.chi2 if pair else None,
        worst_flux_change=pair.worst_flux if pair else None,
        expected_error=made.refocused.expected_error if made.written == "refocused" else None,
        interval_counts=interval[0] if interval else None,
        interval_share=interval[1] if interval else None,
    )


def _through(
    engine: Engine, seen: Pixels, out: Pixels, stream: Stream | None, focus: float
) -> Refocused:
    """The engine's result; an engine that needs the blur gets it from the stream."""
    if stream is None or not isinstance(engine, BlurEngine):
        return engine.refocus(seen, out)
    refocused = engine.refocus(seen, out, stream.known(seen, focus))
    return replace(refocused, blur=stream.learn(refocused.blur, focus))


def _part_in_focus(seen: Pixels, field: FieldEvidence | None) -> NDArray[np.bool_] | None:
    """The tiles that are in focus while the others are not; None if there is no such part."""
    part = sharp_part(field.focus) if field is not None else None
    if field is None or part is None:
        return None
    # Points look sharper than discs, so the blurs of both parts decide.
    inside, outside = (
        estimate_blur(seen[_place(tiles, field.tile_px, seen.shape)]) for tiles in (part, ~part)
    )
    if inside is None or outside is None:
        return None
    return part if inside.sigma_px < min(_SHARP_PX, 0.6 * outside.sigma_px) else None


def _place(
    tiles: NDArray[np.bool_], tile_px: int, shape: tuple[int, ...], margin: int = 0
) -> tuple[slice, slice]:
    """The pixels of the smallest rectangle that contains some tiles, with a margin in tiles."""
    found = []
    for axis, side in enumerate(shape):
        at = np.flatnonzero(tiles.any(axis=1 - axis))
        last = int(at[-1]) + 1 + margin
        # The last tile extends to the edge of the frame.
        end = side if last >= tiles.shape[axis] else last * tile_px
        found.append(slice(max(0, int(at[0]) - margin) * tile_px, end))
    return found[0], found[1]


def _refocus_part(
    task: _Task,
    raw: Pixels,
    seen: Pixels,
    out: Pixels,
    field: FieldEvidence,
    part: NDArray[np.bool_],
    trust: NDArray[np.uint8] | None,
) -> FrameFacts:
    """Refocus the part that is out of focus, and leave the other part unchanged."""
    # The surroundings within a tile belong to the blur.
    place = _place(~part, field.tile_px, raw.shape, margin=1)
    cut: Pixels = seen[place].copy()
    made = np.empty_like(cut)
    cells = np.full(trust_shape(cut.shape), AS_ACQUIRED, np.uint8)
    facts = _refocus_whole(task, cut, cut, made, examine_field(cut), cells)
    np.copyto(out, raw)
    if facts.written in ("raw", "nothing"):
        return facts
    weights = weights_outside(part, field.tile_px, raw.shape)[place]
    blended = raw[place] + weights * (made.astype(np.float32) - raw[place])
    np.copyto(out[place], np.rint(blended), casting="unsafe")
    if trust is not None:
        # Tiles start at the borders of cells.
        row, column = (each.start // CELL_PX for each in place)
        trust[row : row + cells.shape[0], column : column + cells.shape[1]] = cells
        tiles = (np.arange(n) * CELL_PX // field.tile_px for n in trust.shape)
        rows, columns = (np.minimum(t, n - 1) for t, n in zip(tiles, part.shape, strict=True))
        trust[part[rows][:, columns]] = AS_ACQUIRED
    kept = float(part.mean())
    return msgspec.structs.replace(
        facts,
        kept_share=kept,
        focus_before=focus_score(seen),
        focus_after=focus_score(out),
        flux_ratio=flux_ratio(seen, out, facts.offset),
        reasons=[*facts.reasons, f"in focus already: {kept:.0%} of the frame, kept as it is"],
    )


def _judged(
    judge: Judge,
    refocused: Refocused,
    field: FieldEvidence | None,
    seen: Pixels,
    out: Pixels,
    pass_in_focus: bool,
) -> _Made:
    """Judge an engine's result."""
    if field is None:
        return _Made(refocused, "refocused", Judgement("doubtful", ("too small to judge",)))
    pair = examine_pair(
        field, seen, out, refocused.blur, refocused.expected_error, refocused.interval
    )
    if pass_in_focus and judge.in_focus(pair):
        said = Judgement("passed_through", ("already in focus",))
        return _Made(refocused, "raw", said, pair)
    return _Made(refocused, "refocused", judge.of_pair(field, pair), pair)


def _in_its_place(
    made: _Made, task: _Task, field: FieldEvidence | None, seen: Pixels, out: Pixels
) -> _Made:
    """Make what is written instead of a result that is not trusted."""
    if task.untrusted == "skip":
        return replace(made, written="nothing")
    same = task.engine.description.backend == "deconvolution"
    if task.untrusted == "pass" or field is None or same:
        return replace(made, written="raw")
    # What was known of the blur beforehand is valid for the deconvolution too.  A blur that the engine
    # measured on this frame belongs to a result that is not trusted.
    known = made.refocused.blur or (task.stream.known(seen) if task.stream else None)
    if known is not None and known.source == "frame":
        known = None
    found = DeconvolutionEngine().refocus(seen, out, known)
    deconvolved = _judged(shipped_judge(), found, field, seen, out, True)
    if deconvolved.written == "raw" or deconvolved.said.verdict == "untrusted":
        return replace(made, written="raw")
    reasons = (*made.said.reasons, *deconvolved.said.reasons)
    engine_ms = made.refocused.engine_ms + deconvolved.refocused.engine_ms
    return replace(
        deconvolved,
        refocused=replace(deconvolved.refocused, engine_ms=engine_ms),
        written="deconvolved",
        said=Judgement("doubtful", tuple(dict.fromkeys(reasons)), deconvolved.said.error_chance),
    )


def _path_alone(engine_ms: float) -> FrameFacts:
    """Facts of a frame for which only the data path is measured: nothing is said about the image."""
    return FrameFacts(
        *(0.0, 1.0, engine_ms, 0.0, 0.0, 0.0, 1.0, 0, "passed_through"),
        written="raw",
    )


def _defocus(raw: Pixels, out: Pixels, about: FocusOptics) -> DefocusEstimate | None:
    """The defocus, if it can be estimated.  A failed estimate never costs a frame."""
    # SciPy's transforms are needed only here.
    from refocusd.imaging.defocus import estimate_defocus

    try:
        optics = msgspec.structs.asdict(about)
        measured = optics.pop("measured")
        estimate = estimate_defocus(raw, out, Optics(**optics), measured=measured)
    except (RefocusdError, ArithmeticError, ValueError) as error:
        log.warning("no estimate of the defocus: %s", error)
        return None
    return estimate if estimate.confidence > 0 else None
