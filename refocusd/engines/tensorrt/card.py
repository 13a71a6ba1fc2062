"""The NVIDIA card of this machine, as CUDA describes it."""

from __future__ import annotations

from dataclasses import dataclass

from refocusd.errors import EngineError

__all__ = ["Card", "find_card"]

#: What cuda-python 13 and TensorRT for RTX 1.7 need.
DRIVER = "580"


@dataclass(frozen=True, slots=True)
class Card:
    """One card.

    Parameters
    ----------
    name : str
    capability : (int, int)
        Compute capability, e.g. (8, 9).
    driver : int
        CUDA version of its driver, e.g. 13000.
    drives_display : bool
        Whether the system stops kernels that run for long, as it does on a card that draws the
        desktop.
    """

    name: str
    capability: tuple[int, int]
    driver: int
    drives_display: bool

    @property
    def sm(self) -> int:
        """The compute capability as one number, e.g. 89."""
        return self.capability[0] * 10 + self.capability[1]


def find_card(index: int = 0) -> Card:
    """Describe a card.

    Raises
    ------
    EngineError
        If there is none, its driver is too old, or cuda-python is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            'cuda-python is not installed; install it with: pip install "refocusd[tensorrt]"'
        ) from error
    status, count = runtime.cudaGetDeviceCount()
    if status != runtime.cudaError_t.cudaSuccess or not count:
        raise EngineError(
            f"no NVIDIA card answers ({status.name}); if there is one, install its driver "
            f"(version {DRIVER} or newer) from nvidia.com/drivers"
        )
    status, driver = runtime.cudaDriverGetVersion()
    status, properties = runtime.cudaGetDeviceProperties(index)
    if status != runtime.cudaError_t.cudaSuccess:
        raise EngineError(f"the NVIDIA card {index} does not answer ({status.name}); restart it")
    attribute = runtime.cudaDeviceAttr.cudaDevAttrKernelExecTimeout
    status, watched = runtime.cudaDeviceGetAttribute(attribute, index)
    name = properties.name
    return Card(
        name.decode(errors="replace") if isinstance(name, bytes) else str(name),
        (int(properties.major), int(properties.minor)),
        int(driver),
        bool(watched),
    )
