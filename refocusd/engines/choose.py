"""The engine that the settings ask for."""

from __future__ import annotations

from refocusd.config import Backend, Precision
from refocusd.engines.bundle import load_bundle
from refocusd.engines.engine import Engine
from refocusd.engines.identity import IdentityEngine
from refocusd.engines.openvino import OpenVinoEngine

__all__ = ["build_engine"]


def build_engine(backend: Backend, model: str, precision: Precision, threads: int) -> Engine:
    """Build an engine on this machine.

    Parameters
    ----------
    backend : {"auto", "openvino", "identity"}
    model : str
        Name of a shipped bundle, or a bundle's folder.
    precision : {"auto", "f32", "bf16"}
    threads : int
        Of a CPU engine; 0 chooses.

    Raises
    ------
    BundleError, EngineError
    """
    if backend == "identity":
        return IdentityEngine()
    return OpenVinoEngine(load_bundle(model), precision, threads)
