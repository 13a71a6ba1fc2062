"""Every error that refocusd raises on purpose, as one tree.

::

    RefocusdError
    ├── ConfigError      a setting, a flag or an environment variable is wrong
    ├── InputError       a path, a recording or a frame cannot be used
    ├── OutputError      the output exists already, or the disk cannot take it
    │   └── DiskFullError    the disk is full: try again once there is room
    ├── BundleError      a model bundle is missing, corrupt or does not match
    ├── EngineError      an engine cannot be built or did not return a usable frame
    │   └── DeviceLostError  the card fails every call: only a new process gets it back
    ├── TransportError   no daemon, no free port, or a peer with another protocol
    ├── WorkerError      the worker process cannot be kept alive
    └── LedgerError      the record of what happened to each frame cannot be kept

A message says what happened, to which thing, and what to do about it.  The
command line prints it without a traceback and exits with `exit_status`.
"""

from __future__ import annotations


class RefocusdError(Exception):
    """Base of all errors that refocusd raises on purpose."""

    #: Exit status of a command that ends with this error.
    exit_status: int = 2


class ConfigError(RefocusdError):
    """A setting is unknown, out of range or contradicts another."""


class InputError(RefocusdError):
    """A path, a recording or a frame cannot be used as it is."""


class OutputError(RefocusdError):
    """Output exists already, or cannot be written where it was asked for."""


class DiskFullError(OutputError):
    """The disk is full, or the reserve for the raw data is touched."""


class BundleError(RefocusdError):
    """A model bundle is missing, incomplete, altered or of another kind."""


class EngineError(RefocusdError):
    """An engine cannot be built, or returned something that is not a frame."""


class DeviceLostError(EngineError):
    """The card fails every call from now on: only a new process gets it back."""


class TransportError(RefocusdError):
    """A socket cannot be bound or reached, or the peer speaks another protocol."""


class WorkerError(RefocusdError):
    """A worker process cannot be started or kept alive."""


class LedgerError(RefocusdError):
    """The ledger cannot be opened, read or written."""
