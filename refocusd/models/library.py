"""Finds model bundles: those shipped with refocusd, then the user's own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import platformdirs

#: Environment variable that names another folder for the user's models.
ENVIRONMENT = "REFOCUSD_MODELS"
#: Names of models in the user's folder: valid file names on every system (Windows drops a point at the
#: end, and reserves some names for devices).
NAME = re.compile(
    r"(?!(?i:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?"
)
_SHIPPED = Path(__file__).parent / "shipped"
_DESCRIPTIONS = ("rdf.yaml", "refocusd.yaml")


def models_folder() -> Path:
    """The user's model folder, which need not exist: ``REFOCUSD_MODELS``, or one in the user's data."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    return Path(platformdirs.user_data_dir("refocusd", appauthor=False)) / "models"


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(path.parent.name for path in _SHIPPED.glob("*/rdf.yaml"))


def user_bundles() -> list[str]:
    """Names of the bundles in the user's model folder, valid or not."""
    folder = models_folder()
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        entry.name
        for entry in entries
        if NAME.fullmatch(entry.name) and any((entry / name).exists() for name in _DESCRIPTIONS)
    ]


def find_bundle(name: str | Path) -> Path:
    """Folder of the shipped bundle or the user's bundle of this name; otherwise the path itself."""
    text = str(name)
    if text in shipped_bundles():
        return _SHIPPED / text
    if NAME.fullmatch(text) and text in user_bundles():
        return models_folder() / text
    return Path(name)
