"""The blur that the positions of a plate share, measured once for all jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from refocusd.engines.engine import BlurEngine, Engine
from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.imaging.blur import BlurEstimate
from refocusd.transport.messages import KnownBlur
from refocusd.worker.blurs import LEAST_UNCERTAINTY

#: Frames of each channel and plane that are measured, and how many of them must have a measurable blur.
SAMPLED, MIN_TELLING = 9, 3
#: From the median absolute deviation to the standard deviation of a normal variable.
_NORMAL = 1.4826


def kind_of(key: str) -> str:
    """What a frame has in common with those of other positions: all axes but position and time."""
    shared = {name: at for name, at in json.loads(key).items() if name not in ("position", "time")}
    return json.dumps(shared, separators=(",", ":"))


def plate_blurs(frames: Dataset, engines: Mapping[str, Engine]) -> dict[str, KnownBlur]:
    """The blur of each channel and plane, measured in frames that are spread evenly over the plate.

    A job weighs it against the blur of its own frames, as it does a measured PSF.  The uncertainty is
    the spread over the plate: it is large where the positions differ in focus.

    Parameters
    ----------
    frames : Dataset
    engines : mapping of str to Engine
        By channel, as `refocusd.worker.session.Prepared` has them.

    Returns
    -------
    dict of str to KnownBlur
        By `kind_of`; without the kinds in which the blur of too few frames can be measured.
    """
    keys: dict[str, list[str]] = {}
    for key in frames.axes_keys():
        keys.setdefault(kind_of(key), []).append(key)
    found = {}
    for kind, own in keys.items():
        engine = engines.get(str(json.loads(kind).get("channel", "")), engines[""])
        if isinstance(engine, BlurEngine):
            blurs = _measured(engine, frames, _spread(own))
            if len(blurs) >= MIN_TELLING:
                found[kind] = _median(blurs)
    return found


def _spread(keys: Sequence[str]) -> list[str]:
    return [keys[at] for at in np.unique(np.linspace(0, len(keys) - 1, SAMPLED).astype(int))]


def _measured(engine: BlurEngine, frames: Dataset, keys: Sequence[str]) -> list[BlurEstimate]:
    """The blurs that can be measured; a job reports the frames that cannot be read."""
    found = []
    for key in keys:
        with suppress(InputError, OSError):
            pixels = frames.read(key).pixels
            found.append(engine.refocus(pixels, np.empty_like(pixels)).blur)
    return [blur for blur in found if blur is not None]


def _median(blurs: Sequence[BlurEstimate]) -> KnownBlur:
    logs = np.log([blur.sigma_px for blur in blurs])
    spread = _NORMAL * float(np.median(np.abs(logs - np.median(logs))))
    sigma_px = float(np.exp(np.median(logs)))
    return KnownBlur(sigma_px, max(spread, LEAST_UNCERTAINTY), "frames")


def surer(found: KnownBlur | None, blurs: Mapping[str, KnownBlur], key: str) -> KnownBlur | None:
    """What is known of a frame's blur from its microscope, or from its plate if that is more certain."""
    shared = blurs.get(kind_of(key))
    if found is None or shared is None:
        return found or shared
    return min(found, shared, key=lambda blur: blur.uncertainty)
