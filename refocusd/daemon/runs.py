"""What names a run: the things that decide the pixels of every frame in it."""

from __future__ import annotations

import hashlib
import json

from refocusd.config import Settings
from refocusd.transport.messages import EngineInfo

__all__ = ["run_id"]


def run_id(engine: EngineInfo, settings: Settings, calibration: str | None = None) -> str:
    """Name of a run: model, settings that change pixels, calibration.

    Not the device or the precision: a run begun on one machine is finished on
    another, and each frame's metadata name the engine that made it.

    Parameters
    ----------
    engine : EngineInfo
        Of any worker of the run.
    settings : Settings
    calibration : str, optional
        Content key of the calibration profile.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    model = engine.model_sha256 or engine.backend
    made_by = [model, settings.pass_in_focus, calibration]
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
