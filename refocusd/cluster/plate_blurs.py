"""The blur that the positions of a plate share, measured once for all jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from refocusd.daemon.acquisitions.blur.shared import MOST_MEASURED, kind_of, pooled
from refocusd.engines.engine import BlurEngine, Engine
from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.transport.messages import KnownBlur


def plate_blurs(frames: Dataset, engines: Mapping[str, Engine]) -> dict[str, KnownBlur]:
    """The blur of each channel and plane, measured in frames that are spread evenly over the plate.

    A job weighs this blur against that of its own frames, as it does with a measured PSF.  The uncertainty
    is the spread over the plate: it is large if the positions differ in focus.

    Parameters
    ----------
    frames : Dataset
    engines : mapping of str to Engine
        The engine of each channel, as in `refocusd.worker.session.Prepared`.

    Returns
    -------
    dict of str to KnownBlur
        By `kind_of`; kinds for which `pooled` gives no blur are missing.
    """
    keys: dict[str, list[str]] = {}
    for key in frames.axes_keys():
        keys.setdefault(kind_of(key), []).append(key)
    found = {}
    for kind, own in keys.items():
        engine = engines.get(str(json.loads(kind).get("channel", "")), engines[""])
        widths = _measured(engine, frames, _spread(own)) if isinstance(engine, BlurEngine) else []
        if shared := pooled(widths):
            found[kind] = shared
    return found


def _spread(keys: Sequence[str]) -> list[str]:
    return [keys[at] for at in np.unique(np.linspace(0, len(keys) - 1, MOST_MEASURED).astype(int))]


def _measured(engine: BlurEngine, frames: Dataset, keys: Sequence[str]) -> list[float]:
    """The widths that can be measured, px; a job reports the frames that cannot be read."""
    found = []
    for key in keys:
        with suppress(InputError, OSError):
            pixels = frames.read(key).pixels
            found.append(engine.refocus(pixels, np.empty_like(pixels)).blur)
    return [blur.sigma_px for blur in found if blur is not None]
