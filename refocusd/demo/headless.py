"""Runs Micro-Manager's core in this process, without its GUI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refocusd.errors import ConfigError
from refocusd.optional import need


@contextmanager
def headless_core(
    config: str | Path, adapters: str | Path | None = None, *, buffer_mb: int = 1024
) -> Iterator[Any]:
    """Start a core, and stop it afterwards.

    Parameters
    ----------
    config : str or Path
        Hardware configuration; a plain name is searched for in the folder of adapters.
    adapters : Path, optional
        Folder of Micro-Manager's device adapters; by default those of the package
        `mm-test-adapters`.
    buffer_mb : int
        MMCore's circular buffer, MiB.

    Raises
    ------
    ConfigError
        If a core is running in this process, there are no adapters, or the configuration
        does not load.
    """
    if adapters is None:
        adapters = need("mm_test_adapters", "a demo microscope", "demo").device_adapter_path()
    # These take seconds to import, and are needed only with a microscope.
    from mmpycorex.launcher import is_java_active, is_pymmcore_active
    from pycromanager import Core, start_headless

    if is_pymmcore_active() or is_java_active():
        raise ConfigError(
            "a Micro-Manager core is running in this process already: use it as it is, or close it "
            "(pycromanager.stop_headless()) first"
        )
    try:
        start_headless(
            mm_app_path=str(adapters),
            config_file=str(config),
            python_backend=True,
            buffer_size_mb=buffer_mb,
        )
    except Exception as error:
        with suppress(Exception):
            _stop()
        raise ConfigError(
            f"the configuration {config} does not load with the adapters in {adapters}: {error}; the "
            'adapters must fit pymmcore, as those of pip install --upgrade "refocusd[demo]" do'
        ) from error
    try:
        yield Core()
    finally:
        _stop()


def _stop() -> None:
    from pycromanager import stop_headless
    from pycromanager.acquisition.acq_eng_py.internal.engine import Engine

    stop_headless()
    # pycromanager 1.0.2 keeps its engine, and the next core in this process would fail with it.
    if hasattr(Engine, "singleton"):
        del Engine.singleton
