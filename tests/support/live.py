"""Shared by the tests of the live path: settings, recordings, readers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from waiting import PATIENCE_S

from refocusd.config import Settings
from refocusd.daemon.daemon import Daemon
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.transport.session import Session


def quick_settings(tmp_path: Path, **changes: Any) -> Settings:
    """Settings of a daemon on a free port: identity engine, ledgers in `tmp_path`."""
    values: dict[str, Any] = {
        "endpoint": "tcp://127.0.0.1:0",
        "backend": "identity",
        "model": "live-nuclei",
        "ledgers": str(tmp_path / "ledgers"),
        "calibrations": str(tmp_path / "calibrations"),
        "ring_mib": 64,
        "reserve_mib": 1,
        **changes,
    }
    return Settings(**values)


def stack(planes: int, side: int = 64, seed: int = 0) -> NDArray[np.uint16]:
    """Frames that all differ."""
    return np.random.default_rng(seed).integers(100, 4000, (planes, side, side), dtype=np.uint16)


def write_stack(path: Path, frames: NDArray[np.uint16]) -> Path:
    """Write an ImageJ z-stack."""
    tifffile.imwrite(path, frames, imagej=True, metadata={"axes": "ZYX"})
    return path


def keys(dataset: Path) -> list[str]:
    """Canonical axes of the frames in a dataset."""
    with closing(NDTiffReader(dataset)) as reader:
        return reader.axes_keys()


def read_all(dataset: Path) -> dict[str, tuple[NDArray[Any], dict[str, Any]]]:
    """Canonical axes → pixels and metadata."""
    with closing(NDTiffReader(dataset)) as reader:
        frames = {key: reader.read(key) for key in reader.axes_keys()}
        # Metadata are read on first access.
        return {
            key: (frame.pixels, json.loads(json.dumps(dict(frame.metadata))))
            for key, frame in frames.items()
        }


NOBODY = "00000000-0000-4000-8000-000000000000"


@contextmanager
def running(settings: Settings) -> Iterator[Daemon]:
    with Daemon(settings) as daemon:
        daemon.wait_ready()
        yield daemon


class Upload(Session):
    """A session over a connection that the test made and may share."""

    def __init__(
        self,
        connection: Connection,
        open_: wire.Open,
        on_outcome: Callable[[wire.Outcome], None] | None = None,
        on_advice: Callable[[wire.Advice], None] | None = None,
    ) -> None:
        super().__init__(
            connection.endpoint,
            on_outcome=on_outcome,
            on_advice=on_advice,
            connect=lambda: connection,
        )
        self.pump()
        self.announce(open_)


def opened(connection: Connection, output: Path, side: int = 64, **changes: Any) -> Upload:
    """An open acquisition without raw data, with credit."""
    values: dict[str, Any] = {
        "acquisition": str(uuid.uuid4()),
        "name": "test",
        "height": side,
        "width": side,
        "dtype": "uint16",
        "raw": "",
        "output": str(output),
        "summary": "{}",
        "report": True,
    }
    values |= {name.rstrip("_"): value for name, value in changes.items()}
    upload = Upload(connection, wire.Open(**values))
    pump_until(upload, lambda: bool(upload.refused) or upload.credit > 0)
    return upload


def pump_until(upload: Upload, done: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "nothing came in time"
        upload.pump(0.2)


def source(daemon: Daemon, **more: bool) -> Connection:
    connection = Connection(daemon.endpoint, "source", **more)  # type: ignore[arg-type]
    connection.welcome(PATIENCE_S)
    return connection
