"""A bundle's tensors (``.npy``): looked at before they are loaded."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import BundleError
from refocusd.files import reading

#: Pixels of all frames of one tensor.
MAX_PIXELS = 1 << 26


def read_frames(path: Path, channels: int = 1) -> NDArray[np.float32]:
    """Frames of one tensor of a bundle.

    Parameters
    ----------
    path : Path
        ``.npy`` of real numbers, shape (n, channels, height, width).
    channels : int

    Returns
    -------
    ndarray of float32, shape (n, channels, height, width)

    Raises
    ------
    BundleError
        If it is no such file, larger than 64 Mpx, or not finite.
    """
    try:
        with reading(path, BundleError), path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = header(stream)
            pixels = math.prod(shape)
            if len(shape) != 4 or shape[1] != channels or min(shape) < 1 or pixels > MAX_PIXELS:
                raise BundleError(
                    f"{path} has shape {shape}: frames are (n, {channels}, height, width)"
                )
            if dtype.hasobject or dtype.kind not in "fiu":
                raise BundleError(f"{path} holds {dtype}: frames are real numbers")
            if path.stat().st_size != stream.tell() + pixels * dtype.itemsize:
                raise BundleError(f"{path} is shorter or longer than its header states")
            data = np.fromfile(stream, dtype, pixels)
    except BundleError:
        raise
    except Exception as error:
        # numpy's reader of headers raises what its parser raises.
        raise BundleError(f"{path} is not an .npy file ({error})") from error
    frames = data.reshape(shape, order="F" if fortran else "C").astype(np.float32)
    if not np.isfinite(frames).all():
        raise BundleError(f"{path} holds values that are not finite")
    return np.ascontiguousarray(frames)
