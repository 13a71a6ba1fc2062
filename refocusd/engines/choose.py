"""The engine that the settings ask for."""

from __future__ import annotations

from refocusd.config import EngineOptions
from refocusd.engines.bundle import load_bundle
from refocusd.engines.engine import Engine
from refocusd.engines.identity import IdentityEngine
from refocusd.engines.openvino import OpenVinoEngine

__all__ = ["build_engine"]


def build_engine(model: str, options: EngineOptions) -> Engine:
    """Build an engine on this machine.

    Parameters
    ----------
    model : str
        Name of a bundle that refocusd knows, or a bundle's folder.
    options : EngineOptions

    Raises
    ------
    BundleError, EngineError
    """
    if options.backend == "identity":
        return IdentityEngine()
    return OpenVinoEngine(load_bundle(model), options)
