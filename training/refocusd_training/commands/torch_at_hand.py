"""Checks that torch is installed, which the base install lacks."""

from __future__ import annotations

from refocusd.errors import ConfigError

__all__ = ["needs_torch"]


def needs_torch() -> None:
    """Refuse a command that needs torch where there is none.

    Raises
    ------
    ConfigError
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "torch is not installed, and training needs it: pip install 'refocusd[train]'"
        ) from error
