"""The verdict on a real field of a plate, defocused like the plate's microscope."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from refocusd_training.blur.frames import load_sharp
from refocusd_training.simulate.blur import best_focus_um
from refocusd_training.trust.examples import relative_error
from scipy.signal import fftconvolve

from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.frame import Pixels
from refocusd.imaging.optics import Optics, defocus_psf
from refocusd.transport.messages import FrameFacts
from refocusd.worker.refocus import refocus_frame


def field_of_a_plate(folder: Path, defocus_um: float) -> tuple[Pixels, NDArray[np.float32]]:
    """A field as the plate's microscope images it out of focus, and in focus."""
    light = next(image.light for image in load_sharp([folder]) if "a03" in image.name)
    truth = 800.0 * light.astype(np.float64)
    optics = Optics(0.51, 0.461, pixel_um=0.645, spherical_waves=-1.17, apodisation=0.39)
    psf = defocus_psf(optics, best_focus_um(optics) - defocus_um)
    seen = fftconvolve(np.pad(truth, psf.shape[0] // 2, mode="symmetric"), psf, mode="valid")
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.maximum(seen, 0.5) * 2) / 2 + 100 + rng.normal(0, 3, seen.shape)
    return np.rint(counts).astype(np.uint16), truth.astype(np.float32)


def refocused(raw: Pixels) -> tuple[Pixels, FrameFacts]:
    out = np.empty_like(raw)
    with closing(build_engine("live-fluorescence", EngineOptions("openvino", "f32"))) as engine:
        return out, refocus_frame(engine, raw, out)


@pytest.mark.parametrize("defocus_um", [10.0, 14.0])
def test_a_good_result_is_trusted_though_the_field_is_brighter_and_smoother_than_most(
    defocus_um: float, test_data: Path
) -> None:
    raw, truth = field_of_a_plate(test_data / "bbbc006" / "in_focus_w1", defocus_um)
    out, facts = refocused(raw)
    assert relative_error(out, truth) < 0.05
    assert facts.verdict == "trusted"


def test_light_that_the_tail_of_a_psf_throws_into_dim_parts_is_no_fault(test_data: Path) -> None:
    raw, truth = field_of_a_plate(test_data / "bbbc006" / "in_focus_w1", 32.0)
    out, facts = refocused(raw)
    assert facts.written == "refocused"
    assert relative_error(out, truth) < 0.75 * relative_error(raw, truth)
