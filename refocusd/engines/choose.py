"""The engine that the settings ask for, or the best that works here."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from refocusd.config import Backend, EngineOptions
from refocusd.engines.deconvolution import DeconvolutionEngine
from refocusd.engines.engine import Engine, Network
from refocusd.engines.identity import IdentityEngine
from refocusd.engines.scaled import ScaledEngine
from refocusd.engines.verdict import judge_of
from refocusd.errors import EngineError
from refocusd.imaging.blur import KNOWN, KNOWN_FORM, BlurEstimate
from refocusd.imaging.psf_shape import read_psf
from refocusd.models.bundle import ModelBundle, load_bundle

log = logging.getLogger(__name__)

NO_CARD = "there is no NVIDIA card, or no driver for it"


def available_backends() -> dict[Backend, str]:
    """Every backend that runs networks, best first, with the reason why it does not work here.

    The reason says what is missing and how to install it, and is empty if the backend works.  Only the
    driver is asked for a card, and torch is loaded only if there is one.
    """
    return {
        "tensorrt": _why_not_on_a_card("tensorrt"),
        "cuda": _why_not_on_a_card("cuda"),
        "openvino": _why_no_openvino(),
    }


def build_engine(model: str, options: EngineOptions) -> Engine:
    """Build an engine on this machine.

    Parameters
    ----------
    model : str
        Name of a bundle that refocusd knows, or a bundle's folder.
    options : EngineOptions
        With backend ``auto``, the best one that works is used; the log says which, and why
        the better ones were not.

    Raises
    ------
    BundleError, EngineError
    """
    if options.backend == "identity":
        return IdentityEngine()
    if options.backend == "deconvolution":
        return DeconvolutionEngine(stated_blur(options))
    bundle = load_bundle(model)
    judge_of(bundle.verdict)  # a file that cannot be read is reported now, not with the first frame
    if options.backend != "auto":
        return _build(options.backend, bundle, options)
    return best_engine(bundle, options, available_backends())


def stated_blur(options: EngineOptions) -> BlurEstimate | None:
    """The blur of every frame that the settings state; None if they state none.

    Raises
    ------
    InputError
        If the file of the PSF cannot be used.
    """
    if not options.psf:
        return BlurEstimate(options.blur_px, KNOWN, "optics") if options.blur_px else None
    psf = read_psf(Path(options.psf))
    return BlurEstimate(options.blur_px or psf.sigma_px, KNOWN_FORM, "optics", psf.shape)


def best_engine(
    bundle: ModelBundle, options: EngineOptions, backends: Mapping[Backend, str]
) -> Engine:
    """Build the first of `available_backends` that works and takes the bundle.

    Raises
    ------
    EngineError
        The error of the last backend, if none of them works.
    """
    *better, last = backends
    for name in better:
        if why_not := backends[name]:
            log.info("backend %s: %s", name, why_not)
            continue
        try:
            engine = _build(name, bundle, options)
        except EngineError as error:
            log.warning("backend %s: %s", name, error)
            continue
        log.info("backend %s on %s", name, engine.description.device)
        return engine
    return _build(last, bundle, options)


def _build(backend: str, bundle: ModelBundle, options: EngineOptions) -> Engine:
    """Import a backend, which may load a library of gigabytes, and build its engine."""
    if bundle.fine_sigma_px is not None:
        module, name = _NETWORKS[backend]
        network: Network = getattr(importlib.import_module(module), name)(bundle, options)
        return ScaledEngine(bundle, network, stated_blur(options))
    module, name = _ENGINES[backend]
    engine: Engine = getattr(importlib.import_module(module), name)(bundle, options)
    return engine


_ENGINES = {
    "openvino": ("refocusd.engines.runtimes.openvino", "OpenVinoEngine"),
    "tensorrt": ("refocusd.engines.runtimes.tensorrt", "TensorRtEngine"),
    "cuda": ("refocusd.engines.runtimes.torch", "TorchEngine"),
}

#: Backends that run networks at the scale of the blur.
_NETWORKS = {
    "openvino": ("refocusd.engines.runtimes.openvino", "OpenVinoScaleNetwork"),
    "tensorrt": ("refocusd.engines.runtimes.tensorrt", "tensorrt_scale_network"),
    "cuda": ("refocusd.engines.runtimes.torch", "TorchScaleNetwork"),
}


def count_cards() -> int:
    """Number of NVIDIA cards that the driver reports; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value


def _why_no_openvino() -> str:
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed; install it with: pip install openvino"
    return ""


def _why_not_on_a_card(backend: str) -> str:
    if not count_cards():
        return NO_CARD
    why: str = importlib.import_module(_ENGINES[backend][0]).probe()
    return why
