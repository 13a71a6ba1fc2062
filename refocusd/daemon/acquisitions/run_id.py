"""Identifies a run by everything that determines the pixels of its frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from refocusd.config import Settings
from refocusd.transport.messages import Engines


def models_of(engine: Engines) -> str:
    """Identity of the models of a run: the sha256 of each."""
    channels = {name: about.model_sha256 for name, about in engine.channels.items()}
    return models_named({"": engine.model_sha256 or engine.backend, **channels})


def models_named(sums: Mapping[str, str]) -> str:
    """The same, from the sha256 of each channel's model; "" stands for all other channels."""
    channels = sorted(item for item in sums.items() if item[0])
    return sums[""] + (json.dumps(channels) if channels else "")


def run_id(engine: Engines, settings: Settings, calibration: str | None = None) -> str:
    """Id of a run: a hash of models, settings that change pixels, and calibration.

    Device and precision are not part of it: a run that was started on one computer may be
    finished on another, and each frame's metadata name the engine that made it.

    Parameters
    ----------
    engine : Engines
        Engines of any worker of the run.
    settings : Settings
    calibration : str, optional
        Content key of the calibration profiles.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    parts: list[object] = [models_of(engine), settings.pass_in_focus, calibration]
    policies = [settings.untrusted, sorted(settings.channel_untrusted.items())]
    # Default values are left out, so that runs of versions without these settings keep their ids.
    if policies != [Settings().untrusted, []]:
        parts.append(policies)
    blur = [settings.blur_px, settings.defocus_um, settings.na]
    if any(blur):
        parts.append(blur)
    if settings.psf:
        parts.append(hashlib.sha256(Path(settings.psf).read_bytes()).hexdigest())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
