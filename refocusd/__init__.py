"""refocusd: out-of-focus microscope frames made sharp while they are acquired.

A frame goes ``source → transport → worker → engine → sink``; the ledger knows
where it is at every moment.  Imports run one way, in the layers that `pyproject.toml` lists
(continuous integration checks this):

================  ==================================================================================
`__main__`        ``python -m refocusd``: the same as the ``refocusd`` command
`backoff`         Waits between attempts: each twice as long as the one before, with jitter
`config`          Settings: defaults < ``refocusd.toml`` < environment ``REFOCUSD_*`` < flags
`errors`          Every error that refocusd raises on purpose, as one tree
`files`           Files replaced, deleted and written whole, although another program may hold them for a moment
`frame`           A frame: one 2-D image of a camera, its axes and its metadata
`optional`        Imports optional packages, which only the extras install, when they are needed
`toml_value`      Values as TOML writes them, for the settings file, the help texts and the guide
`bench/`          Measures engines: speed, memory and quality, and speed relative to the machine's limit
`cli/`            The command line; `commands` has one module for each sub-command
`cluster/`        Whole screens on a cluster: OME-Zarr stores refocused by the workers of Dask
`daemon/`         The daemon: one on an acquisition PC
`datasets/`       A raw dataset with its refocused datasets and ledgers: found, reconciled, verified
`demo/`           The demo: a simulated specimen under a real Micro-Manager core
`doctor/`         ``refocusd doctor``: checks everything that a run needs, changes nothing, and says what to do
`engines/`        Model bundles, and what runs them
`formats/`        Frames on disk: one folder per format, each with its layout, readers and writer
`imaging/`        Arithmetic on frames: optics, defocus, normalisation, quality.  No files, no sockets
`ledger/`         The durable record of what became of every frame
`models/`         Describes, checks, installs and finds model bundles.  Nothing in a bundle is ever executed
`napari_plugin/`  The plugin for napari: a reader of refocused datasets, and a dock widget of the running daemon
`processes/`      Child processes: started, supervised, and ended with their parent
`profiles/`       Calibration profiles in use: which profile applies to a frame, and what it changes
`sources/`        Sources of frames; each drives a `refocusd.transport.session.Session`
`transport/`      How frames travel: messages, the shared ring, and the client side of the wire
`view/`           The live view: a web page, metrics and health, in a process of its own
`worker/`         The process that owns one device: ``python -m refocusd.worker`` or ``refocusd worker``
================  ==================================================================================
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from refocusd.errors import RefocusdError
from refocusd.frame import Frame

if TYPE_CHECKING:
    from refocusd.sources.focus_limits import FocusLimits
    from refocusd.sources.pycromanager import Source
    from refocusd.sources.pymmcore_plus import MDAOutput, attach_mda

__all__ = [
    "FocusLimits",
    "Frame",
    "MDAOutput",
    "RefocusdError",
    "Source",
    "__version__",
    "attach_mda",
]

try:
    __version__ = version("refocusd")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    # The hooks need sockets; `import refocusd` alone should cost nothing.
    if name == "Source":
        from refocusd.sources.pycromanager import Source

        return Source
    if name == "FocusLimits":
        from refocusd.sources.focus_limits import FocusLimits

        return FocusLimits
    if name in ("MDAOutput", "attach_mda"):
        from refocusd.sources import pymmcore_plus

        return getattr(pymmcore_plus, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
