"""Counts to network units and back, in kernels on the card.

Both round exactly as `refocusd.imaging.normalise.CountsRange` does on the CPU, and the
first fills a tile's rest by reflection as `refocusd.engines.tiling.reflect_into` does.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

from refocusd.engines.cache import EngineCache, EngineKey
from refocusd.engines.tensorrt.edition import INSTALL
from refocusd.errors import EngineError

__all__ = ["BLOCK", "compiled_kernels", "kernel_name", "kernel_source"]

#: Threads of a block, along x and y.
BLOCK = (32, 8)


@functools.cache
def kernel_source() -> str:
    """The kernels in CUDA C++ (``kernels.cu``)."""
    return resources.files(__package__).joinpath("kernels.cu").read_text(encoding="ascii")


def kernel_name(what: str, itemsize: int) -> str:
    """Name of the kernel that does ``normalise`` or ``restore`` for counts of so many bytes."""
    return f"{what}_u{8 * itemsize}"


def compiled_kernels(sm: int, cache: EngineCache | None = None) -> bytes:
    """The kernels as machine code, from the cache or compiled now.

    Parameters
    ----------
    sm : int
        Compute capability as one number, e.g. 89.
    cache : EngineCache, optional

    Raises
    ------
    EngineError
        If NVIDIA's run-time compiler is not installed, or does not know the card.
    """
    key = EngineKey(
        "kernels", hashlib.sha256(kernel_source().encode()).hexdigest(), "nvrtc", f"sm{sm}", ""
    )
    return (cache or EngineCache()).get_or_build(key, lambda: _compiled(sm))


def _compiled(sm: int) -> bytes:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise EngineError(
            f"NVIDIA's run-time compiler (nvrtc) is not installed; install it with: {INSTALL}"
        ) from error
    status, program = nvrtc.nvrtcCreateProgram(kernel_source().encode(), b"refocusd.cu", 0, [], [])
    try:
        # No fused multiply and add: counts round as they do on the CPU.
        options = [f"--gpu-architecture=sm_{sm}".encode(), b"--fmad=false"]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            _, size = nvrtc.nvrtcGetProgramLogSize(program)
            said = b" " * size
            nvrtc.nvrtcGetProgramLog(program, said)
            raise EngineError(
                f"the kernels do not compile for compute capability {sm} ({status.name}: "
                f"{said.decode(errors='replace').strip()[:300]}); install a newer nvidia-cuda-nvrtc"
            )
        status, size = nvrtc.nvrtcGetCUBINSize(program)
        code: bytes = b" " * size
        nvrtc.nvrtcGetCUBIN(program, code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code
