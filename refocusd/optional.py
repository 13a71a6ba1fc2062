"""Imports the packages of the extras, which the base install lacks, when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from refocusd.errors import ConfigError


def need(package: str, user: str, extra: str) -> Any:
    """Import a package of an extra.

    Parameters
    ----------
    package : str
        Or a module of it.
    user : str
        What needs it, for the message.
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
