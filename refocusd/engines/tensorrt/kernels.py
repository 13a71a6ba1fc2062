"""Counts to network units and back, in kernels on the card.

Both round exactly as `refocusd.imaging.normalise.CountsRange` does on the CPU, and the
first fills a tile's rest by reflection as `refocusd.engines.tiling.reflect_into` does.
"""

from __future__ import annotations

import hashlib

from refocusd.engines.cache import EngineCache, EngineKey
from refocusd.engines.tensorrt.edition import INSTALL
from refocusd.errors import EngineError

__all__ = ["BLOCK", "SOURCE", "compiled_kernels", "kernel_name"]

#: Threads of a block, along x and y.
BLOCK = (32, 8)

SOURCE = r"""
// Where position p lies in a line of `filled` pixels, mirrored at its end.
__device__ int reflected(int p, int filled)
{
    if (p < filled) return p;
    if (filled == 1) return 0;
    const int period = 2 * (filled - 1);
    p %= period;
    return p < period - p ? p : period - p;
}

#define KERNELS(name, counts_t, top)                                                         \
extern "C" __global__ void normalise_##name(                                                 \
    const counts_t* frame, int frame_width, int row, int column, int rows, int columns,      \
    float offset, float inverse_scale, float* tile, int tile_height, int tile_width)         \
{                                                                                            \
    const int x = blockIdx.x * blockDim.x + threadIdx.x;                                     \
    const int y = blockIdx.y * blockDim.y + threadIdx.y;                                     \
    if (x >= tile_width || y >= tile_height) return;                                         \
    const long long from = (long long)(row + reflected(y, rows)) * frame_width               \
                         + column + reflected(x, columns);                                   \
    const float counts = (float)frame[from];                                                 \
    tile[(long long)y * tile_width + x] =                                                    \
        __fmul_rn(__fsub_rn(counts, offset), inverse_scale);                                 \
}                                                                                            \
                                                                                             \
extern "C" __global__ void restore_##name(                                                   \
    const float* tile, int tile_width, int top_row, int left_column,                         \
    counts_t* frame, int frame_width, int row, int column, int rows, int columns,            \
    float offset, float scale, unsigned int* tally)                                          \
{                                                                                            \
    const int x = blockIdx.x * blockDim.x + threadIdx.x;                                     \
    const int y = blockIdx.y * blockDim.y + threadIdx.y;                                     \
    if (x >= columns || y >= rows) return;                                                   \
    float value = tile[(long long)(top_row + y) * tile_width + left_column + x];             \
    value = rintf(__fadd_rn(__fmul_rn(value, scale), offset));                               \
    if (!(value - value == 0.0f)) {                                                          \
        atomicAdd(tally + 1, 1u);  /* neither NaN nor infinity */                            \
        value = 0.0f;                                                                        \
    } else if (value < 0.0f || value > top) {                                                \
        atomicAdd(tally, 1u);                                                                \
        value = value < 0.0f ? 0.0f : top;                                                   \
    }                                                                                        \
    frame[(long long)(row + y) * frame_width + column + x] = (counts_t)value;                \
}

KERNELS(u8, unsigned char, 255.0f)
KERNELS(u16, unsigned short, 65535.0f)
"""


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
    key = EngineKey("kernels", hashlib.sha256(SOURCE.encode()).hexdigest(), "nvrtc", f"sm{sm}", "")
    return (cache or EngineCache()).get_or_build(key, lambda: _compiled(sm))


def _compiled(sm: int) -> bytes:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise EngineError(
            f"NVIDIA's run-time compiler (nvrtc) is not installed; install it with: {INSTALL}"
        ) from error
    status, program = nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"refocusd.cu", 0, [], [])
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
