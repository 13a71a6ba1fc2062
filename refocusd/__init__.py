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
`trust`        what refocused frames tell: distance from focus, which way
`transport`    messages, the shared ring, the client side of the wire
`engines`      model bundles and what runs them
`sinks`        refocused frames on disk
`ledger`       the durable record of every frame's fate
`sources`      where frames come from: pycromanager hooks, recordings
`profiles`     which calibration profile applies, and what it changes
`worker`       the process that owns one device
`attach`       sources beside Micro-Manager: folders followed, its Studio, live mode
`daemon`       broker, supervisor, writer, catch-up
`view`         the live page: raw and refocused, metrics, health
`demo`         a simulated microscope on a real MMCore
`doctor`       what is there, what is missing, what to do
`cli`          the command line
=============  ==============================================================
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from refocusd.errors import RefocusdError
from refocusd.frame import Frame

if TYPE_CHECKING:
    from refocusd.sources.focus_limits import FocusLimits
    from refocusd.sources.pycromanager import Source
    from refocusd.sources.pymmcore_plus import attach_mda

__all__ = ["FocusLimits", "Frame", "RefocusdError", "Source", "__version__", "attach_mda"]

try:
    __version__ = version("refocusd")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    # The hook's room needs sockets; `import refocusd` alone should cost nothing.
    if name == "Source":
        from refocusd.sources.pycromanager import Source

        return Source
    if name == "FocusLimits":
        from refocusd.sources.focus_limits import FocusLimits

        return FocusLimits
    if name == "attach_mda":
        from refocusd.sources.pymmcore_plus import attach_mda

        return attach_mda
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
