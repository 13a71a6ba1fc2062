"""Messages that come twice, late, out of order or much too late, and wrong answers.

The daemon, the socket, the ring and the files are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aftermath import assert_whole
from bad_workers import Fault, environment
from live import Upload, opened, pump_until, stack
from rig import ROUNDS, FaultyDaemon, until
from test_flow import Raw

from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.frame import checksum
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection

FRAMES = 40
#: Maximum number of earlier messages that come again, and of messages held back at a time.
REMEMBERED, HELD = 30, 6


class Unruly(Connection):
    """A source whose messages come twice, change places, or come again much later."""

    rng: Random | None = None

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint, "source")
        self._held: list[wire.Message] = []
        self._past: list[wire.Message] = []
        #: What was done, so that a test can check that anything was.
        self.deeds = {"twice": 0, "held": 0, "past": 0}

    def send(self, message: wire.Message, pixels: Any = None) -> bool:
        if self.rng is None or isinstance(message, wire.Ping):
            return super().send(message, pixels)
        self._past = [*self._past, message][-REMEMBERED:]
        deed = self.rng.choice(["", "", "", "twice", "held", "past"])
        if deed == "held" and len(self._held) < HELD:
            self._held.append(message)
            self.deeds["held"] += 1
            return True
        sent = super().send(message)
        if deed == "twice":
            super().send(message)
            self.deeds["twice"] += 1
        elif deed == "past":
            super().send(self.rng.choice(self._past))
            self.deeds["past"] += 1
        if self._held and self.rng.random() < 0.5:
            super().send(self._held.pop(self.rng.randrange(len(self._held))))
        return sent

    def calm_down(self) -> None:
        """Send what was held back, and behave normally from then on."""
        self.rng = None
        while self._held:
            super().send(self._held.pop())


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Raw]:
    written = Raw(tmp_path / "data", stack(FRAMES))
    yield written
    written.dataset.close()


def saved_of(raw: Raw) -> dict[str, int]:
    raw.dataset.finish()
    with closing(NDTiffReader(raw.path)) as reader:
        assert len(reader.axes_keys()) == FRAMES
    return {f'{{"time":{n}}}': checksum(pixels) for n, pixels in enumerate(raw.frames)}


def submit_all(raw: Raw, upload: Upload, order: list[int]) -> None:
    """Submit each frame once it is on disk, if there is credit; the others are left to raw."""
    for number in order:
        raw.write(max(0, number + 1 - raw.written))
        for _ in range(20):
            if upload.credit:
                raw.submit(upload, number)
                break
            upload.pump(0.05)
        while upload.pump():
            pass


@pytest.mark.parametrize("number", range(2 * ROUNDS))
def test_a_source_whose_messages_come_twice_late_and_out_of_order(
    tmp_path: Path, raw: Raw, number: int
) -> None:
    rng = Random(f"messages {number}")
    with FaultyDaemon(tmp_path) as daemon, Unruly(daemon.endpoint) as connection:
        connection.welcome(90.0)
        upload = opened(connection, tmp_path, raw=str(raw.path), output_="", report=False)
        # `Open` and `Hello` may come again in the middle.
        connection._past = [connection._hello, _announcement(upload, raw)]
        connection.rng = rng
        numbers = list(range(FRAMES))
        for start in range(0, FRAMES, 8):
            some = numbers[start : start + 8]
            rng.shuffle(some)
            numbers[start : start + 8] = some
        submit_all(raw, upload, numbers)
        upload.miss([f'{{"time":{rng.randrange(FRAMES)}}}'], "failed", "this test says so")
        connection.send(wire.Behind(upload.acquisition, 3, FRAMES))
        upload.close(FRAMES)
        connection.calm_down()
        upload.close(FRAMES)
        pump_until(upload, lambda: upload.closed)
        assert all(connection.deeds.values())
        assert daemon.ready()
    assert assert_whole(raw.path, tmp_path, saved_of(raw)) == FRAMES


def _announcement(upload: Upload, raw: Raw) -> wire.Open:
    height, width = raw.frames.shape[1:]
    dtype: wire.DType = "uint16"
    return wire.Open(
        acquisition=upload.acquisition,
        name="test",
        height=height,
        width=width,
        dtype=dtype,
        raw=str(raw.path),
        output="",
        summary=json.dumps({}),
    )


@pytest.mark.parametrize(
    ("fault", "flags", "trace"),
    [
        ("shape", {"REFOCUSD_INLINE": "true"}, "without its pixels"),
        ("late", {"REFOCUSD_TASK_TIMEOUT_S": "0.5"}, "holds one frame too long"),
        ("memory", {}, "memory"),
    ],
    ids=["half a frame", "late", "no memory"],
)
def test_a_worker_that_answers_wrongly(
    tmp_path: Path, raw: Raw, fault: Fault, flags: dict[str, str], trace: str
) -> None:
    bad = environment(fault, every=15, late_s=2.0)
    with FaultyDaemon(tmp_path, environment={**bad, **flags}) as daemon:
        with Connection(daemon.endpoint, "source") as connection:
            connection.welcome(90.0)
            upload = opened(connection, tmp_path, raw=str(raw.path), output_="", report=False)
            submit_all(raw, upload, list(range(FRAMES)))
            upload.close(FRAMES)
            pump_until(upload, lambda: upload.closed)
        until(daemon.ready, "a worker")
        assert trace in daemon.log.read_text(encoding="utf-8"), "nothing went wrong"
    assert assert_whole(raw.path, tmp_path, saved_of(raw)) == FRAMES
