"""A stream's blur: prior knowledge, and how its frames change it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from refocusd.demo.specimen import Specimen
from refocusd.engines.deconvolution import DeconvolutionEngine
from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate, estimate_blur
from refocusd.worker.blurs import LEAST_UNCERTAINTY, Blurs
from refocusd.worker.refocus import refocus_frame


@pytest.fixture(scope="module")
def raw() -> Pixels:
    return Specimen().frame("DAPI", 16.0, 10.0, np.random.default_rng(0))


def widths(raw: Pixels, beforehand: BlurEstimate | None, frames: int = 6) -> list[float]:
    """Widths used for the frames of a stream that all have the same blur."""
    blurs, found = Blurs(), []
    for _ in range(frames):
        stream = blurs.of("a", beforehand)
        facts = refocus_frame(
            DeconvolutionEngine(), raw, np.empty_like(raw), untrusted="mark", stream=stream
        )
        assert facts.blur_px is not None
        found.append(facts.blur_px)
    return found


@pytest.mark.parametrize("source", ["memory", "nominal"])
def test_what_is_remembered_or_assumed_fades_as_frames_come(raw: Pixels, source: str) -> None:
    alone = estimate_blur(raw)
    assert alone is not None
    known = BlurEstimate(alone.sigma_px * 1.4, 0.22, source)  # type: ignore[arg-type]
    found = widths(raw, known)
    assert found[0] > 1.05 * alone.sigma_px
    assert all(later <= earlier for earlier, later in pairwise(found))
    assert abs(np.log(found[-1] / alone.sigma_px)) < 0.6 * abs(np.log(found[0] / alone.sigma_px))


def test_a_measured_psf_does_not_fade(raw: Pixels) -> None:
    alone = estimate_blur(raw)
    assert alone is not None
    measured = BlurEstimate(alone.sigma_px * 1.3, 0.08, "profile")
    assert min(widths(raw, measured)) > 1.15 * alone.sigma_px


def test_frames_overrule_what_is_twice_what_they_tell(raw: Pixels) -> None:
    alone = estimate_blur(raw)
    assert alone is not None
    known = BlurEstimate(alone.sigma_px * 2.5, 0.2, "memory")
    assert widths(raw, known, 1) == [pytest.approx(alone.sigma_px)]


def test_what_an_engine_takes_as_it_is_given_counts_once(raw: Pixels) -> None:
    blurs, measured = Blurs(), BlurEstimate(12.0, 0.1, "profile")
    blurs.of("a").learn(BlurEstimate(10.0, 0.1, "frame"), 0.05)
    for _ in range(5):
        stream = blurs.of("a", measured)
        stream.learn(stream.known(raw, 0.05), 0.05)
    told = blurs.of("a").blur
    assert told is not None
    assert told.sigma_px == pytest.approx(10.0)


def uncertainty_after(raw: Pixels, frames: int, focus: float, width_px: float = 10.0) -> float:
    """Uncertainty of a blur that was measured once, at a focus score of 0.05, some frames later."""
    blurs = Blurs()
    blurs.of("a").learn(BlurEstimate(width_px, 0.06, "frame"), 0.05)
    for _ in range(frames):
        stream = blurs.of("a")
        known = stream.known(raw, focus)
        stream.learn(known, focus)
    assert known is not None
    return known.uncertainty


def test_a_blur_stays_certain_while_the_focus_score_stays(raw: Pixels) -> None:
    assert uncertainty_after(raw, 25, focus=0.05) == LEAST_UNCERTAINTY
    assert uncertainty_after(raw, 1000, focus=0.05) > 0.3


def test_a_blur_is_uncertain_as_soon_as_the_focus_score_changes(raw: Pixels) -> None:
    slightly, much = (uncertainty_after(raw, 1, focus=focus) for focus in (0.048, 0.03))
    assert slightly < 0.1
    assert much > 0.3
    # Near focus, the score hardly depends on the blur.
    assert uncertainty_after(raw, 1, focus=0.045, width_px=1.7) > 0.4


def test_without_a_focus_score_a_blur_is_soon_uncertain(raw: Pixels) -> None:
    """Noise alone and very wide blurs have no score."""
    assert uncertainty_after(raw, 25, focus=0.0) > 0.25
