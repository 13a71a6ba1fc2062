"""Finds or starts the microscope that a measurement runs on, and restores its state."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refocusd.demo.headless import headless_core
from refocusd.errors import ConfigError

#: Port of Micro-Manager's pycromanager server.
JAVA_PORT = 4827


def microscope_core() -> Any:
    """The running core: of this process, or Micro-Manager's over its server.

    Raises
    ------
    ConfigError
        If there is neither.
    """
    # Seconds to import, and only needed with a microscope.
    from mmpycorex.launcher import is_pymmcore_active
    from pycromanager import Core

    if not is_pymmcore_active() and not _listens(JAVA_PORT):
        raise ConfigError(
            f"no microscope was found: nothing listens on port {JAVA_PORT}. Start Micro-Manager and "
            "tick Tools > Options > Run server on port 4827, or give --mm-config and --adapters, or "
            "measure from recordings with --from-recording"
        )
    try:
        return Core()
    except Exception as error:
        raise ConfigError(
            f"Micro-Manager does not answer ({error}): wait until it is idle, or restart it"
        ) from error


def strings(vector: Any) -> list[str]:
    """Convert a list of names from Micro-Manager: a tuple in Python, a StrVector over the bridge."""
    if hasattr(vector, "size"):
        return [str(vector.get(index)) for index in range(vector.size())]
    return [str(item) for item in vector]


def _listens(port: int) -> bool:
    # If nothing answers, the clients wait forever or fail obscurely.
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def open_microscope(
    mm_config: str | Path | None = None, adapters: str | Path | None = None
) -> Iterator[Any]:
    """Yield a core: the running one, or one started in this process.

    Parameters
    ----------
    mm_config : Path, optional
        Hardware configuration to start; a plain name is looked for among `adapters`.
        None: the running core.
    adapters : Path, optional
        Folder of Micro-Manager's device adapters; by default those of the package
        `mm-test-adapters`.

    Raises
    ------
    ConfigError
        If there is no microscope, or the configuration does not load.
    """
    if mm_config is None:
        yield microscope_core()
        return
    with headless_core(mm_config, adapters) as core:
        yield core


@contextmanager
def restored(core: Any) -> Iterator[None]:
    """Restore stage, exposure, shutter and channel on leaving."""
    stage, shutter, group = (
        core.get_focus_device(),
        core.get_shutter_device(),
        core.get_channel_group(),
    )
    exposure = core.get_exposure()
    z = core.get_position(stage) if stage else None
    automatic = core.get_auto_shutter() if shutter else None
    is_open = core.get_shutter_open() if shutter else None
    preset = core.get_current_config(group) if group else ""
    try:
        yield
    finally:
        # If one device refuses, the others must still be restored.
        if preset:
            with suppress(Exception):
                core.set_config(group, preset)
        with suppress(Exception):
            core.set_exposure(exposure)
        if shutter:
            with suppress(Exception):
                core.set_shutter_open(is_open)
                core.set_auto_shutter(automatic)
        if z is not None:
            with suppress(Exception):
                core.set_position(stage, z)
                core.wait_for_device(stage)


@contextmanager
def quiet_stage(core: Any) -> Iterator[None]:
    """Switch continuous focus off while a stage is stepped through focus, and on again afterwards."""
    device = core.get_auto_focus_device()
    on = bool(device) and bool(core.is_continuous_focus_enabled())
    if on:
        core.enable_continuous_focus(False)
    try:
        yield
    finally:
        if on:
            core.enable_continuous_focus(True)


def ask(question: str, *, yes: bool) -> None:
    """Wait until the person at the microscope agrees.

    Parameters
    ----------
    question : str
        Question about what was done, or is about to be done.
    yes : bool
        Do not ask (``--yes``).

    Raises
    ------
    ConfigError
        If the answer is no, or nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask on: give --yes once this is so")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("stopped: nothing else was moved")
