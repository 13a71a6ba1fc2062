"""One combination, in the process that runs it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

from refocusd.bench.combination import Order, Report
from refocusd.bench.machine import peak_mib
from refocusd.bench.rates import measured_rates
from refocusd.demo.specimen import SAMPLE
from refocusd.engines.choose import build_engine
from refocusd.errors import InputError, RefocusdError
from refocusd.frame import Pixels
from refocusd.worker.refocus import refocus_frame

#: Blur of the sample frame, a standard deviation in px: frames in focus do not reach every network.
SAMPLE_BLUR_PX = 6.0


def sample_frame(shape: tuple[int, int] | None = None) -> Pixels:
    """The shipped sample, out of focus; mirrored at its borders or cut to `shape` (height, width).

    Raises
    ------
    InputError
        If it is missing from the installation.
    """
    try:
        sharp = np.asarray(tifffile.imread(SAMPLE))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the sample picture {SAMPLE} cannot be read ({error}); reinstall refocusd"
        ) from error
    sample = gaussian_filter(sharp, SAMPLE_BLUR_PX, mode="mirror")
    if shape is None:
        return sample
    more = [(0, max(0, wanted - have)) for wanted, have in zip(shape, sample.shape, strict=True)]
    grown = np.pad(sample, more, mode="symmetric")
    return np.ascontiguousarray(grown[: shape[0], : shape[1]])


def measure(order: Order) -> Report:
    """Do what is ordered; what cannot be done is told in `Report.refused`."""
    try:
        return _measure(order)
    except RefocusdError as error:
        return Report(refused=str(error))
    except MemoryError:
        return Report(refused="the memory of this computer does not suffice")


def _measure(order: Order) -> Report:
    wanted = order.combination
    options = wanted.options
    if order.rates:
        rates = measured_rates(options.backend, options.precision, options.threads)
        return Report(rates=rates)
    begun = time.perf_counter()
    engine = build_engine(wanted.model, options)
    try:
        about = engine.description
        for name, asked, got in (
            ("backend", options.backend, about.backend),
            ("precision", options.precision, about.precision),
        ):
            if asked not in ("auto", got) and about.backend != "identity":
                return Report(refused=f"{name} {asked} is not to be had here: it became {got}")
        engine.warm_up(wanted.shape)
        built_s = time.perf_counter() - begun
        raw = sample_frame(wanted.shape)
        out = np.empty_like(raw)
        # Whatever is said of the frame, it is the engine that is measured.
        facts = [
            refocus_frame(engine, raw, out, pass_in_focus=False, untrusted="mark")
            for _ in range(order.warm_frames + order.frames)
        ]
        peak = peak_mib()
        if order.sample:
            small = sample_frame()
            refocused = np.empty_like(small)
            engine.refocus(small, refocused)
            np.save(Path(order.sample), refocused)
    finally:
        engine.close()
    counted = facts[order.warm_frames :]
    return Report(
        engine_ms=[one.engine_ms for one in counted],
        worker_ms=[one.worker_ms for one in counted],
        built_s=built_s,
        peak_mib=peak,
        backend=about.backend,
        precision=about.precision,
        device=about.device,
        key=about.key,
    )
