"""Compares an engine with the test tensors of its bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.engines.engine import Engine
from refocusd.engines.scaled import ScaledEngine
from refocusd.errors import BundleError
from refocusd.models.bioimageio import exactly_normalised
from refocusd.models.bundle import ModelBundle, read_frames

#: Tolerances, in network units, for precisions for which a bundle states none.
DEFAULT_TOLERANCE = {"f32": 1e-3, "f16": 1e-2, "bf16": 5e-2, "int8": 1e-1}
#: A tensor and its truth together span this many counts of the 16-bit scale when they are given to an engine.
SPAN = 50000.0
#: Largest stretch (less 1) and shift of a frame relative to the tensor, in network units: our percentiles
#: are whole counts, those of bioimage.io are interpolated.
SAME = 0.02


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """The result for one pair of tensors.

    Parameters
    ----------
    name : str
        ``test`` or ``validation``.
    frames : int
        Number of frames in the tensors.
    largest, p99_9 : float
        Maximum and 99.9th percentile of the absolute differences, in network units.
    tolerance : float
        Limit of `largest`: what the bundle allows, and one count for rounding.
    """

    name: str
    frames: int
    largest: float
    p99_9: float
    tolerance: float

    @classmethod
    def of(
        cls, name: str, differences: list[NDArray[np.floating]], tolerance: float
    ) -> TensorCheck:
        """The check of frames with these absolute differences."""
        apart = np.stack(differences)
        largest, p99_9 = float(apart.max()), float(np.percentile(apart, 99.9))
        return cls(name, len(apart), largest, p99_9, tolerance)

    @property
    def good(self) -> bool:
        """Whether the largest difference is within the tolerance."""
        return self.largest <= self.tolerance


def check_engine(bundle: ModelBundle, engine: Engine) -> list[TensorCheck]:
    """Run the bundle's tensors through an engine.

    Engines take counts.  A tensor's frames are converted to 16-bit counts, and the engine's
    results back to network units with the range by which it normalised them.  If that range
    differs a little from the tensor's, the expected frames are stretched and shifted accordingly.

    Parameters
    ----------
    bundle : ModelBundle
    engine : Engine
        Built from it.

    Returns
    -------
    list of TensorCheck
        One for each pair that the bundle has.

    Raises
    ------
    BundleError
        If it has none, or its tensors are damaged or do not fit its normalisation.
    EngineError
    """
    precision = engine.description.precision
    if bundle.test is None and (bundle.validation is None or isinstance(engine, ScaledEngine)):
        raise BundleError(f"{bundle.folder} has no test tensors to check an engine with")
    tolerance = bundle.tolerance.get(precision, DEFAULT_TOLERANCE.get(precision, 1e-3))
    checks = []
    if isinstance(engine, ScaledEngine):
        return [_check_scaled(bundle, engine, tolerance)]
    if bundle.test is not None:
        raw, expected = (read_frames(path) for path in bundle.test)
        output = bundle.network_output
        expected = (expected - np.float32(output.offset)) / np.float32(output.scale)
        pair = exactly_normalised(bundle, raw), expected
        checks.append(_check("test", bundle, engine, pair, tolerance))
    if bundle.validation is not None:
        raw, expected = (read_frames(path) for path in bundle.validation)
        checks.append(_check("validation", bundle, engine, (raw, expected), tolerance))
    return checks


def _check_scaled(bundle: ModelBundle, engine: ScaledEngine, tolerance: float) -> TensorCheck:
    """Run only the network; everything around it is the same for every backend."""
    assert bundle.test is not None
    seen, expected = read_frames(bundle.test[0], channels=3), read_frames(bundle.test[1])
    apart = [
        np.abs(engine.answer(frame[None]).light - truth[0])
        for frame, truth in zip(seen, expected, strict=True)
    ]
    return TensorCheck.of("test", apart, tolerance)


def _check(
    name: str,
    bundle: ModelBundle,
    engine: Engine,
    pair: tuple[NDArray[np.float32], NDArray[np.float32]],
    tolerance: float,
) -> TensorCheck:
    raw, expected = pair
    if raw.shape != expected.shape:
        raise BundleError(
            f"the {name} tensors of {bundle.folder} are {raw.shape}, {expected.shape}"
        )
    differences = []
    half_count = 0.0
    for frame, truth in zip(raw[:, 0], expected[:, 0], strict=True):
        offset, scale = _counts(bundle, frame, truth)
        counts = np.rint(frame * scale + offset).clip(0, 65535).astype(np.uint16)
        out = np.empty_like(counts)
        seen = engine.refocus(counts, out).counts
        half_count = max(half_count, 0.5 / seen.scale)
        # The network saw stretch * frame + shift.
        stretch, shift = scale / seen.scale, (offset - seen.offset) / seen.scale
        if abs(stretch - 1) > SAME or abs(shift) > SAME:
            raise BundleError(
                f"the {name} tensors of {bundle.folder} are not normalised as its description says "
                f"(stretched {stretch:.3f}, shifted {shift:.3f})"
            )
        # Counts have a floor and a ceiling, beyond which an engine cannot return anything.
        expected_counts = (truth * stretch + shift) * seen.scale + seen.offset
        apart = out.astype(np.float64) - expected_counts.clip(0, 65535)
        differences.append(np.abs(apart) / seen.scale)
    return TensorCheck.of(name, differences, tolerance + 2 * half_count)


def _counts(
    bundle: ModelBundle, frame: NDArray[np.float32], truth: NDArray[np.float32]
) -> tuple[float, float]:
    """Offset and scale with which a frame and its truth become 16-bit counts."""
    if bundle.normalisation == "fixed":
        return bundle.fixed_range.offset, bundle.fixed_range.scale
    low = float(min(frame.min(), truth.min()))
    high = float(max(frame.max(), truth.max()))
    scale = SPAN / max(high - low, 1e-6)
    return float(np.rint((65535 - SPAN) / 2 - low * scale)), scale
