"""Refocuses images too large for memory, in tiles with one blur and one range of counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from refocusd.cluster.tiles_done import SlideBegun, TileDone, TilesDone
from refocusd.config import Settings
from refocusd.engines.deconvolution import DeconvolutionEngine, psf_width
from refocusd.engines.engine import Engine, Refocused
from refocusd.engines.scaled import ScaledEngine, careful
from refocusd.errors import EngineError
from refocusd.formats.dataset import ReadPart
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate
from refocusd.imaging.deconvolve import SCALE_PX, WholeImage, deconvolve
from refocusd.imaging.hot_pixels import without_hot_pixels
from refocusd.imaging.normalise import CountsRange
from refocusd.imaging.reduction import Reduction
from refocusd.transport.messages import FrameFacts
from refocusd.worker.refocus import refocus_frame

#: Reductions are multiples of 1 / STEPS, so that all tiles share one grid of reduced pixels.
STEPS = 16
#: Pairs: up to this reduction, a tile has this side, in reduced px.  `Reduction` keeps these lengths, and
#: they are multiples of the sizes that networks accept.
SIDES = ((2.0, 1440), (5.0, 720), (math.inf, 480))
#: Surroundings of a tile, in reduced px: a network's receptive field, and what is reflected at its border.
HALO = 96 + 16
#: Number of parts, along each side, in which the blur is measured, and the side of a part, px.
SAMPLED, SAMPLE_PX = 4, 1024

#: Writes pixels, given with their rows and columns.
WritePart = Callable[[Pixels, slice, slice], None]


@dataclass(frozen=True, slots=True)
class TilePlan:
    """How an image is cut: windows of one size on one grid, each of which covers one region.

    Parameters
    ----------
    step_px : int
        Windows start at multiples of this, which is a whole number of reduced pixels and of the
        network's strides.
    side_px : int
        Side of a window.
    halo_px : int
        Smallest margin between a region and the edge of its window, except at the border of the image.
    region_px : (int, int)
        Height and width of a region.
    """

    step_px: int
    side_px: int
    halo_px: int
    region_px: tuple[int, int]

    @classmethod
    def of(cls, numerator: int, multiple: int, file_px: tuple[int, int]) -> TilePlan:
        """The plan for a reduction by `numerator` / `STEPS`; if possible, regions are whole files."""
        factor = numerator / STEPS
        side = next(side for most, side in SIDES if factor <= most)
        step = numerator * multiple // math.gcd(numerator * multiple, STEPS)
        halo = math.ceil(HALO * factor)
        most_px = side * numerator // STEPS - 2 * halo - step
        rows, columns = (most_px // size * size if size <= most_px else most_px for size in file_px)
        return cls(step, side * numerator // STEPS, halo, (rows, columns))

    def window(self, start: int, length: int) -> int:
        """Where the window of a region starts, in an image of this length."""
        around = self.halo_px
        last = -(-max(0, length - self.side_px) // self.step_px) * self.step_px
        return min(max(0, start - around) // self.step_px * self.step_px, last)


def refocus_slide(
    engine: Engine,
    form: PageFormat,
    file_px: tuple[int, int],
    read: ReadPart,
    write: WritePart,
    settings: Settings,
    done: TilesDone,
) -> FrameFacts:
    """Refocus an image one tile at a time, with memory for a few tiles.

    Blur, range of counts and verdict come from a sample of its parts, and are the same for the whole image:
    tiles with blurs of their own would have visible seams between them.

    Parameters
    ----------
    engine : Engine
        One that works at the scale of the blur, `DeconvolutionEngine` or `IdentityEngine`.
    form : PageFormat
        Format of the image.
    file_px : (int, int)
        Height and width of the part that one file of the output holds.
    read, write : callable
    settings : Settings
    done : TilesDone
        Tiles that an earlier job has written; those that are written now are added.

    Returns
    -------
    FrameFacts
        Facts of the sample, with the range of counts, time and clipped pixels of the whole image.

    Raises
    ------
    EngineError
        If the engine is of another kind, or fails.
    InputError, OutputError
        From `read` and `write`.
    """
    if done.begun is None:
        facts = _begin(engine, form, read, settings, done)
        if done.begun is None:
            written = "nothing" if facts.written == "nothing" else "raw"
            if written == "raw":
                _copy(form, file_px, read, write)
            return msgspec.structs.replace(facts, written=written)
    begun = done.begun
    refocused, multiple = _by_parts(engine, begun)
    plan = TilePlan.of(begun.numerator, multiple, file_px)
    window = np.empty((plan.side_px, plan.side_px), form.dtype)
    out = np.empty_like(window)
    for rows, columns in _regions(form, plan.region_px):
        if (rows.start, columns.start) in done.tiles:
            continue
        top = plan.window(rows.start, form.height)
        left = plan.window(columns.start, form.width)
        seen = read(
            slice(top, min(top + plan.side_px, form.height)),
            slice(left, min(left + plan.side_px, form.width)),
        )
        missing = [(0, plan.side_px - side) for side in seen.shape]
        window[:] = np.pad(seen, missing, mode="symmetric")
        told = refocused(window, out)
        made = out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        write(made, rows, columns)
        done.add(TileDone(rows.start, columns.start, told.clipped, told.engine_ms))
    return msgspec.structs.replace(
        begun.facts,
        offset=begun.offset,
        scale=begun.scale,
        engine_ms=sum(tile.engine_ms for tile in done.tiles.values()),
        clipped=sum(tile.clipped for tile in done.tiles.values()),
    )


def _begin(
    engine: Engine, form: PageFormat, read: ReadPart, settings: Settings, done: TilesDone
) -> FrameFacts:
    """Judge an image from a sample; record what its tiles share, if it is to be refocused."""
    parts = [read(rows, columns) for rows, columns in _sample(form)]
    found = [
        refocus_frame(
            engine,
            part,
            np.empty_like(part),
            pass_in_focus=settings.pass_in_focus,
            untrusted=settings.untrusted,
        )
        for part in parts
    ]
    facts = _of_most(found)
    if facts.written in ("raw", "nothing", "deconvolved") or facts.blur_px is None:
        return facts
    pedestal, iterations = 0.0, 0
    if isinstance(engine, DeconvolutionEngine):
        fine_px = SCALE_PX
        blur, numerator = _blur_of(facts, fine_px, narrowed)
        made = [deconvolve(without_hot_pixels(part), blur.sigma_px) for part in parts]
        # Parts without structure give no information; they need no iterations.
        telling = [each for each in made if each.iterations] or made
        pedestal = float(np.median([each.pedestal for each in telling]))
        iterations = max(1, round(np.median([each.iterations for each in telling])))
    else:
        fine_px = _scaled(engine).grid[0]
        blur, numerator = _blur_of(facts, fine_px, careful)
    counts = _range_of(parts, blur, fine_px)
    reasons = [*facts.reasons, f"judged from {len(found)} parts of a large image"]
    done.begin(
        SlideBegun(
            done.raw_checksum,
            msgspec.structs.replace(facts, reasons=reasons),
            blur.sigma_px,
            blur.uncertainty,
            numerator,
            counts.offset,
            counts.scale,
            pedestal,
            iterations,
        )
    )
    return facts


def _by_parts(
    engine: Engine, begun: SlideBegun
) -> tuple[Callable[[Pixels, Pixels], Refocused], int]:
    """The function that refocuses a part of an image, and the number that its reduced sides must be multiples of."""
    if isinstance(engine, DeconvolutionEngine):
        whole = WholeImage(begun.offset, begun.pedestal, begun.iterations)
        return lambda seen, out: engine.refocus_part(seen, out, begun.sigma_px, whole), 1
    scaled = _scaled(engine)
    return lambda seen, out: scaled.refocus(seen, out, begun.blur, begun.counts), scaled.grid[1]


def _scaled(engine: Engine) -> ScaledEngine:
    if not isinstance(engine, ScaledEngine):
        raise EngineError(
            f"{engine.description.model_id or engine.description.backend} cannot refocus an image in "
            "parts; name a model that works at the scale of the blur, or the backend deconvolution"
        )
    return engine


def _sample(form: PageFormat) -> list[tuple[slice, slice]]:
    """Parts that are spread evenly over the image."""
    rows, columns = (
        [
            slice(int(start), int(start) + min(side, SAMPLE_PX))
            for start in np.unique(np.linspace(0, max(0, side - SAMPLE_PX), SAMPLED).astype(int))
        ]
        for side in (form.height, form.width)
    )
    return [(row, column) for row in rows for column in columns]


def _of_most(found: list[FrameFacts]) -> FrameFacts:
    """The facts of the part with the median blur, among the largest group of parts that were treated alike."""
    telling = [facts for facts in found if facts.blur_px is not None]
    if not telling:
        return found[0]
    ((written, _),) = Counter(facts.written for facts in telling).most_common(1)
    alike = sorted(
        (facts for facts in telling if facts.written == written), key=lambda f: f.blur_px or 0.0
    )
    return alike[(len(alike) - 1) // 2]


def narrowed(blur: BlurEstimate) -> BlurEstimate:
    """The width that `DeconvolutionEngine` undoes for this blur."""
    return replace(blur, sigma_px=psf_width(blur))


def _blur_of(
    facts: FrameFacts, fine_px: float, cautious: Callable[[BlurEstimate], BlurEstimate]
) -> tuple[BlurEstimate, int]:
    """The blur for all tiles, on the grid of `STEPS`, and the reduction times `STEPS`."""
    assert facts.blur_px is not None
    told = BlurEstimate(facts.blur_px, facts.blur_uncertainty or 0.0, "frame")
    width = told if facts.blur_source == "optics" else cautious(told)
    factor = width.sigma_px / fine_px
    numerator = max(STEPS, math.floor(factor * STEPS))
    sigma_px = fine_px * numerator / STEPS if factor > 1 else fine_px * factor
    return replace(width, sigma_px=sigma_px, source="optics"), numerator


def _range_of(parts: list[Pixels], blur: BlurEstimate, fine_px: float) -> CountsRange:
    """Percentiles 1 and 99.9 of all parts together, reduced as the engine reduces them."""
    reduced = [
        Reduction.to_blur(part.shape, blur.sigma_px, fine_px)
        .reduced(part.astype(np.float32))[::2, ::2]
        .ravel()
        for part in parts
    ]
    low, high = np.percentile(np.concatenate(reduced), (1, 99.9))
    return CountsRange(float(low), max(float(high - low), 1.0))


def _copy(form: PageFormat, file_px: tuple[int, int], read: ReadPart, write: WritePart) -> None:
    sides = (min(file_px[0], 4096), min(file_px[1], 4096))
    for rows, columns in _regions(form, sides):
        write(read(rows, columns), rows, columns)


def _regions(form: PageFormat, sides: tuple[int, int]) -> list[tuple[slice, slice]]:
    return [
        (
            slice(top, min(top + sides[0], form.height)),
            slice(left, min(left + sides[1], form.width)),
        )
        for top in range(0, form.height, sides[0])
        for left in range(0, form.width, sides[1])
    ]
