"""The NVIDIA card of this machine, as described by its driver."""

from __future__ import annotations

from dataclasses import dataclass

from refocusd.errors import EngineError


@dataclass(frozen=True, slots=True)
class Card:
    """One card.

    Parameters
    ----------
    name : str
    capability : (int, int)
        Compute capability, e.g. (8, 9).
    driver : str
        Version, e.g. ``580.82.07``.
    free_mib : int
        Free memory, MiB.
    draws_display : bool
        Whether the card draws the desktop: the system then stops kernels that run for long.
    """

    name: str
    capability: tuple[int, int]
    driver: str
    free_mib: int
    draws_display: bool

    @property
    def sm(self) -> str:
        """The compute capability in NVIDIA's short form, e.g. ``sm89``."""
        return f"sm{self.capability[0]}{self.capability[1]}"


def find_card(bus_id: str = "") -> Card:
    """Describe a card.

    Parameters
    ----------
    bus_id : str
        PCI bus id of the card; empty for the first card.

    Raises
    ------
    EngineError
        If there is none, or its driver does not answer.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            handle = (
                pynvml.nvmlDeviceGetHandleByPciBusId(bus_id)
                if bus_id
                else pynvml.nvmlDeviceGetHandleByIndex(0)
            )
            return Card(
                str(pynvml.nvmlDeviceGetName(handle)),
                tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
                str(pynvml.nvmlSystemGetDriverVersion()),
                int(pynvml.nvmlDeviceGetMemoryInfo(handle).free) >> 20,
                bool(pynvml.nvmlDeviceGetDisplayActive(handle)),
            )
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise EngineError(
            f"no NVIDIA card answers ({error}); if there is one, install its driver from "
            "nvidia.com/drivers"
        ) from error
