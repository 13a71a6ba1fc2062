"""Imports optional packages, which only the extras install, when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from refocusd.errors import ConfigError


def need(package: str, user: str, extra: str) -> Any:
    """Import a package of an extra.

    Parameters
    ----------
    package : str
        The package, or a module of it.
    user : str
        What needs it; named in the error.
    extra : str
        The extra of refocusd that installs it.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"{package.partition('.')[0]} is not installed, and {user} needs it: "
            f'pip install "refocusd[{extra}]"'
        ) from error
