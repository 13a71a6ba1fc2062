"""The shared ring: one block of memory that the daemon owns and peers attach to.

Frames of 8 MiB cross a loopback socket at about 300 a second and a shared
block at about 900, so on one host the pixels stay here and only their place
(a `Slot`) crosses the socket.

The block is anonymous: it has no name in any file system, so nothing is left
behind when every process that holds it is gone, however they ended.  On Linux
it is a ``memfd`` that peers of the same user open through ``/proc``; on
Windows a page-file mapping found by a random tag.  Python's own
`multiprocessing.shared_memory` is not used: before 3.13 a reader's exit
unlinks the block under the owner.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import struct
import sys
import threading
from bisect import insort
from typing import Annotated, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from refocusd.errors import TransportError

#: Regions start on page boundaries, so that no two frames share a page.
PAGE = 4096
MAGIC = b"refocusd"


class RingAddress(msgspec.Struct, frozen=True):
    """What a peer needs to attach: sent in the daemon's welcome.

    Parameters
    ----------
    pid, handle : int
        Process that owns the block and its descriptor there (Linux).
    tag : str
        Name of the mapping (Windows), and on both systems the random word at
        the start of the block that proves it is the right one.
    nbytes : int
        Size of the block.
    """

    pid: int
    handle: int
    tag: Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z-]{0,64}$")]
    nbytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 46)]


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """Room for one frame: `nbytes` of raw pixels, then as many refocused ones.

    Parameters
    ----------
    offset : int
        Where the raw pixels start, in bytes from the start of the ring.
    nbytes : int
        Bytes of one frame.
    """

    offset: int
    nbytes: int

    @property
    def refocused_offset(self) -> int:
        """Where the refocused pixels start (on a page of their own)."""
        return self.offset + _pages(self.nbytes)

    @property
    def span(self) -> int:
        """Bytes of the ring that the slot takes."""
        return 2 * _pages(self.nbytes)


class SharedRing:
    """A block of shared memory, created by the daemon or attached by a peer.

    Use as a context manager, or call `close`.

    Raises
    ------
    TransportError
        From `create` if the memory cannot be allocated; from `attach` if the
        block is gone, or belongs to another user or host; from `view` if the
        pixels would lie outside the ring.
    """

    def __init__(self, block: mmap.mmap, address: RingAddress, handle: int = -1) -> None:
        self.address = address
        self._block = block
        self._handle = handle

    @classmethod
    def create(cls, nbytes: int) -> SharedRing:
        """Allocate a ring of at least `nbytes`; pages are taken when first written."""
        nbytes = _pages(nbytes) + PAGE
        tag = secrets.token_hex(16)
        handle = -1
        try:
            if sys.platform == "win32":
                block = mmap.mmap(-1, nbytes, tagname=f"refocusd-{tag}")
            else:
                handle = os.memfd_create("refocusd-ring", os.MFD_CLOEXEC)
                os.fchmod(handle, 0o600)  # a memfd begins with 0777
                os.ftruncate(handle, nbytes)
                block = mmap.mmap(handle, nbytes)
        except (OSError, AttributeError, OverflowError) as error:
            raise TransportError(
                f"there is no shared memory of {nbytes / 2**20:.0f} MiB for the ring ({error}); "
                "set a smaller ring_mib"
            ) from error
        header = _header(tag, nbytes)
        block[: len(header)] = header
        return cls(block, RingAddress(os.getpid(), handle, tag, nbytes), handle)

    @classmethod
    def attach(cls, address: RingAddress) -> SharedRing:
        """Map the ring that another process of this host owns."""
        try:
            if sys.platform == "win32":
                block = mmap.mmap(-1, address.nbytes, tagname=f"refocusd-{address.tag}")
            else:
                path = f"/proc/{address.pid}/fd/{address.handle}"
                handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    block = mmap.mmap(handle, address.nbytes)
                finally:
                    os.close(handle)
        except (OSError, ValueError, OverflowError) as error:
            raise TransportError(
                f"the daemon's ring (process {address.pid}) cannot be attached: {error}; "
                "a peer must run on the same host and as the same user"
            ) from error
        # Windows creates a new, empty mapping if none has that name.
        header = _header(address.tag, address.nbytes)
        if block[: len(header)] != header:
            block.close()
            raise TransportError(
                f"what process {address.pid} offers as its ring is another block of memory; "
                "restart this side"
            )
        return cls(block, address)

    def view(self, offset: int, shape: tuple[int, int], dtype: str) -> NDArray[np.generic]:
        """Pixels at `offset`, without a copy.

        Parameters
        ----------
        offset : int
            Bytes from the start of the ring.
        shape : tuple of int
            (height, width).
        dtype : str
            ``"uint8"`` or ``"uint16"``.

        Returns
        -------
        ndarray of that dtype and shape, backed by the ring
        """
        kind = np.dtype(dtype)
        end = offset + shape[0] * shape[1] * kind.itemsize
        if offset < PAGE or end > self.address.nbytes:
            raise TransportError(f"bytes {offset}-{end} lie outside the ring")
        return np.ndarray(shape, kind, buffer=self._block, offset=offset)

    def close(self) -> None:
        """Release the mapping; the memory is freed when the last peer has done so."""
        # If a view still exists, the mapping is released with it.
        with contextlib.suppress(BufferError):
            self._block.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class SlotAllocator:
    """Which parts of a ring are free: first fit over a sorted list of gaps."""

    def __init__(self, nbytes: int) -> None:
        self._gaps: list[tuple[int, int]] = [(PAGE, nbytes - PAGE)]
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        """Bytes that no slot holds."""
        return sum(size for _, size in self._gaps)

    @property
    def largest(self) -> int:
        """Bytes of the largest gap."""
        return max((size for _, size in self._gaps), default=0)

    def take(self, frame_nbytes: int) -> Slot | None:
        """A slot for a frame of `frame_nbytes`, or None if no gap is large enough."""
        slot = Slot(0, frame_nbytes)
        with self._lock:
            for index, (start, size) in enumerate(self._gaps):
                if size >= slot.span:
                    if size == slot.span:
                        del self._gaps[index]
                    else:
                        self._gaps[index] = (start + slot.span, size - slot.span)
                    return Slot(start, frame_nbytes)
        return None

    def give(self, slot: Slot) -> None:
        """Return a slot; neighbouring gaps are joined."""
        with self._lock:
            insort(self._gaps, (slot.offset, slot.span))
            joined: list[tuple[int, int]] = []
            for start, size in self._gaps:
                if joined and sum(joined[-1]) == start:
                    joined[-1] = (joined[-1][0], joined[-1][1] + size)
                else:
                    joined.append((start, size))
            self._gaps = joined


def _header(tag: str, nbytes: int) -> bytes:
    return MAGIC + tag.encode("ascii") + struct.pack("<Q", nbytes)


def _pages(nbytes: int) -> int:
    return -(-nbytes // PAGE) * PAGE
