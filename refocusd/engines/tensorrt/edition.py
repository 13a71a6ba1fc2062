"""Which TensorRT is installed, and whether it can work on this machine.

There are two editions with one Python API.  *TensorRT for RTX* (``tensorrt_rtx``) comes
from the ordinary package index and runs on GeForce and RTX cards from Turing on; it builds
engines without a card, which run on any card from Ampere on.  The full one (``tensorrt``)
runs on the others too, and builds for the card at hand.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from refocusd.engines.tensorrt.card import Card, find_card
from refocusd.errors import EngineError

__all__ = ["INSTALL", "RTX", "Edition", "choose_edition", "load_edition", "probe"]

#: What installs the edition that runs on acquisition PCs, on Linux and on Windows.
INSTALL = 'pip install "refocusd[tensorrt]"'
RTX = "tensorrt_rtx"
FULL = "tensorrt"
#: Compute capabilities on the list of TensorRT for RTX 1.7.
RTX_CAPABILITIES = {(7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)}
TURING = (7, 5)


@dataclass(frozen=True, slots=True)
class Edition:
    """A TensorRT that is installed.

    Parameters
    ----------
    name : {"tensorrt_rtx", "tensorrt"}
        Its Python module.
    version : str
    module : module
        Loaded.
    """

    name: str
    version: str
    module: Any

    @property
    def rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return self.name == RTX

    def target(self, card: Card | None) -> str:
        """What engines are built for, as the cache's key says it.

        Parameters
        ----------
        card : Card, optional
            None: any card that engines of the RTX edition run on unless told otherwise.
        """
        if self.rtx:
            return "sm75" if card is not None and card.capability == TURING else "sm80+"
        assert card is not None
        return f"{card.name} sm{card.sm} driver {card.driver}"


def choose_edition(card: Card | None) -> str:
    """Name of the edition to take for a card, of those that are installed.

    Raises
    ------
    EngineError
        If none is installed, or none knows the card.
    """
    installed = [name for name in (RTX, FULL) if importlib.util.find_spec(name) is not None]
    if card is not None and card.capability not in RTX_CAPABILITIES:
        if FULL in installed:
            return FULL
        raise EngineError(
            f"TensorRT for RTX does not run on {card.name} (compute capability "
            f"{card.capability[0]}.{card.capability[1]}); set backend to cuda, or install the full "
            "TensorRT: pip install tensorrt"
        )
    if not installed:
        raise EngineError(f"TensorRT is not installed; install it with: {INSTALL}")
    if card is None and RTX not in installed:
        raise EngineError(
            f"the full TensorRT builds engines only on the card that runs them; install: {INSTALL}"
        )
    return installed[0]


def load_edition(card: Card | None) -> Edition:
    """Load the edition for a card.

    Raises
    ------
    EngineError
        If none is installed or knows the card, or it does not load.
    """
    name = choose_edition(card)
    try:
        module = importlib.import_module(name)
        version = str(module.__version__)
    except (ImportError, OSError, AttributeError) as error:
        raise EngineError(f"{name} does not load ({error}); install it again: {INSTALL}") from error
    return Edition(name, version, module)


def probe() -> str:
    """Why TensorRT does not work on this machine, and what installs it; empty if it does."""
    try:
        load_edition(find_card())
        # Counts become network units in kernels of ours.
        if importlib.util.find_spec("cuda.bindings.nvrtc") is None:
            raise EngineError(f"cuda-python is not installed; install it with: {INSTALL}")
    except EngineError as error:
        return str(error)
    return ""
