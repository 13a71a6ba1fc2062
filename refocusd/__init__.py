"""refocusd: out-of-focus microscope frames made sharp while they are acquired.

A frame goes ``source → transport → worker → engine → sink``; the ledger knows
where it is at every moment.  The rooms, from the bottom up (each may import
only what stands before it; continuous integration checks this):

=============  ==============================================================
`errors`       every error raised on purpose, as one tree
`frame`        a frame, its axes, its metadata
`config`       settings: defaults < file < environment < flags
`optics`       the defocus of a microscope, from NA and wavelength
`quality`      PSNR, SSIM, Pearson, focus score
`transport`    messages, the shared ring, the client side of the wire
`engines`      model bundles and what runs them
`sinks`        refocused frames on disk
`ledger`       the durable record of every frame's fate
`sources`      where frames come from: pycromanager hooks, recordings
`worker`       the process that owns one device
`daemon`       broker, supervisor, writer, catch-up
`demo`         a simulated microscope on a real MMCore
`cli`          the command line
=============  ==============================================================
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from refocusd.errors import RefocusdError
from refocusd.frame import Frame

if TYPE_CHECKING:
    from refocusd.sources.pycromanager import Source

__all__ = ["Frame", "RefocusdError", "Source", "__version__"]

try:
    __version__ = version("refocusd")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    # The hook's room needs sockets; `import refocusd` alone should cost nothing.
    if name == "Source":
        from refocusd.sources.pycromanager import Source

        return Source
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
