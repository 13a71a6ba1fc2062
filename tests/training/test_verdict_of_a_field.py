"""What is said of a real field of a plate, out of focus as the plate's microscope shows it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from refocusd_training.blur.frames import load_sharp
from refocusd_training.simulate.blur import best_focus_um
from refocusd_training.trust.examples import relative_error
from scipy.signal import fftconvolve

from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.imaging.optics import Optics, defocus_psf
from refocusd.worker.refocus import refocus_frame


@pytest.mark.parametrize("defocus_um", [10.0, 14.0])
def test_a_good_result_is_trusted_though_the_field_is_brighter_and_smoother_than_most(
    defocus_um: float, test_data: Path
) -> None:
    light = next(
        i.light for i in load_sharp([test_data / "bbbc006" / "in_focus_w1"]) if "a03" in i.name
    )
    truth = 800.0 * light.astype(np.float64)
    optics = Optics(0.51, 0.461, pixel_um=0.645, spherical_waves=-1.17, apodisation=0.39)
    psf = defocus_psf(optics, best_focus_um(optics) - defocus_um)
    seen = fftconvolve(np.pad(truth, psf.shape[0] // 2, mode="symmetric"), psf, mode="valid")
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.maximum(seen, 0.5) * 2) / 2 + 100 + rng.normal(0, 3, seen.shape)
    raw = np.rint(counts).astype(np.uint16)
    out = np.empty_like(raw)
    with closing(build_engine("live-fluorescence", EngineOptions("openvino", "f32"))) as engine:
        facts = refocus_frame(engine, raw, out)
    assert relative_error(out, truth.astype(np.float32)) < 0.05
    assert facts.verdict == "trusted"
