"""The blur that the positions of a plate share, estimated once for all jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.imaging.blur import BlurEstimate, estimate_blur
from refocusd.transport.messages import KnownBlur
from refocusd.worker.blurs import LEAST_UNCERTAINTY

#: Frames of each channel and plane that are looked at, and how many of them must tell their blur.
SAMPLED, MIN_TELLING = 9, 3
#: From the median absolute deviation to the standard deviation of a normal variable.
_NORMAL = 1.4826


def kind_of(key: str) -> str:
    """What a frame has in common with those of other positions: all axes but position and time."""
    shared = {name: at for name, at in json.loads(key).items() if name not in ("position", "time")}
    return json.dumps(shared, separators=(",", ":"))


def plate_blurs(frames: Dataset) -> dict[str, KnownBlur]:
    """The blur of each channel and plane, by frames that lie evenly over the plate.

    A job weighs it against what its own frames tell, as it does a measured PSF.  The uncertainty is
    the spread over the plate: where the positions differ in focus, it says little.

    Parameters
    ----------
    frames : Dataset

    Returns
    -------
    dict of str to KnownBlur
        By `kind_of`; without the kinds of which too few frames tell their blur.
    """
    keys: dict[str, list[str]] = {}
    for key in frames.axes_keys():
        keys.setdefault(kind_of(key), []).append(key)
    told = {kind: _told(frames, _spread(own)) for kind, own in keys.items()}
    return {kind: _median(blurs) for kind, blurs in told.items() if len(blurs) >= MIN_TELLING}


def _spread(keys: Sequence[str]) -> list[str]:
    return [keys[at] for at in np.unique(np.linspace(0, len(keys) - 1, SAMPLED).astype(int))]


def _told(frames: Dataset, keys: Sequence[str]) -> list[BlurEstimate]:
    """Blurs of the frames that tell one; what cannot be read is reported by its job."""
    found = []
    for key in keys:
        with suppress(InputError, OSError):
            found.append(estimate_blur(frames.read(key).pixels))
    return [blur for blur in found if blur is not None]


def _median(blurs: Sequence[BlurEstimate]) -> KnownBlur:
    logs = np.log([blur.sigma_px for blur in blurs])
    spread = _NORMAL * float(np.median(np.abs(logs - np.median(logs))))
    sigma_px = float(np.exp(np.median(logs)))
    return KnownBlur(sigma_px, max(spread, LEAST_UNCERTAINTY), "frames")


def surer(found: KnownBlur | None, blurs: Mapping[str, KnownBlur], key: str) -> KnownBlur | None:
    """What is known of a frame's blur by its microscope, or by its plate if that is surer."""
    shared = blurs.get(kind_of(key))
    if found is None or shared is None:
        return found or shared
    return min(found, shared, key=lambda blur: blur.uncertainty)
