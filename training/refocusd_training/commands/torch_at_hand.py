"""Checks that torch is installed, which the base install lacks."""

from __future__ import annotations

from refocusd.optional import need


def needs_torch() -> None:
    """Refuse a command that needs torch if it is not installed.

    Raises
    ------
    ConfigError
    """
    need("torch", "training", "train")
