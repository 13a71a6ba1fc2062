"""The interface of every network in this package."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from refocusd_training.networks.defocus import DefocusHead


class RefocusNetwork(nn.Module, ABC):
    """Refocuses normalised frames; input and output float, shape (batch, 1, height, width).

    Attributes
    ----------
    size_multiple : int
        Height and width are multiples of this, in px.
    defocus : DefocusHead, optional
        None if defocus is not predicted.
    initialised : str
        Origin of the weights, in words.
    """

    size_multiple: int = 32
    initialised: str = "from the seed"
    # No value here, because a class attribute would hide the module of that name.
    defocus: DefocusHead | None

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Pre-trained parameters, which may be frozen at first; empty if there are none."""
        return []

    @abstractmethod
    def decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Refocused frames, and the deepest features, which a defocus head reads."""

    def forward(self, raw: Tensor) -> Tensor:
        """Return the refocused frames, same shape, same normalised units."""
        return self.decode(raw)[0]

    def forward_with_defocus(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return the refocused frames and their defocus, see `DefocusHead`.

        Raises
        ------
        ValueError
            If the network has no such head.
        """
        if self.defocus is None:
            raise ValueError("this network was built without a defocus head")
        refocused, deepest = self.decode(raw)
        return refocused, self.defocus(deepest)
