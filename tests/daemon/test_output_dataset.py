"""An output that is opened again: whose frames it holds, and what became of them before."""

from __future__ import annotations

import uuid
from pathlib import Path

import msgspec
import numpy as np
import pytest
from broker_model import ENGINE, FACTS
from live import quick_settings

from refocusd.config import Settings
from refocusd.daemon.output.dataset import OutputDataset
from refocusd.daemon.output.jobs import OpenOutput, RecordFrames, WriteFrame
from refocusd.datasets.identity import FrameMark, Recording
from refocusd.datasets.run_folder import LEDGER_COPY
from refocusd.errors import OutputError
from refocusd.frame import checksum
from refocusd.ledger import Ledger, ledger_path
from refocusd.profiles.applied import Applied
from refocusd.transport import messages as wire
from refocusd.transport.ring import Slot

SIDE = 32
RUN = "r" * 16
FRAME = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return quick_settings(tmp_path)


@pytest.fixture
def message(tmp_path: Path) -> wire.Open:
    """As a hook announces an acquisition: it knows no fingerprint yet."""
    raw = str(tmp_path / "cells_1")
    return wire.Open(str(uuid.uuid4()), "cells_1", SIDE, SIDE, "uint16", raw, "", "{}")


def opened(settings: Settings, message: wire.Open) -> OutputDataset:
    return OutputDataset.open(settings, OpenOutput(message, RUN, ENGINE, Applied()))


def write(output: OutputDataset, time: int) -> object:
    """Write a frame, as the writer does; which earlier state it replaces."""
    submit = wire.Submit(
        *(output.message.acquisition, f'{{"time":{time}}}', Slot(4096, FRAME.nbytes)),
        checksum(FRAME),
        "{}",
        0,
    )
    job = WriteFrame(1, submit, checksum(FRAME), FACTS, ENGINE, None)
    output.write(FRAME, job, *job.outcome)
    return output.record_written(job, *job.outcome).replaces


def record(output: OutputDataset, state: str, *times: int) -> tuple[int, int, int]:
    """Record frames without pixels: how many are new, replace a failure, had their state."""
    axes = tuple(f'{{"time":{time}}}' for time in times)
    said = output.record(
        RecordFrames(output.message.acquisition, axes, state, "why")  # type: ignore[arg-type]
    )
    return len(said.axes), said.replaced if said.replaces else 0, said.known


def of_frame(message: wire.Open, pixels: np.ndarray) -> wire.Open:
    """The same announcement with the fingerprint of a first frame."""
    mark = FrameMark(SIDE, SIDE, "uint16", f"{checksum(pixels):016x}")
    recording = msgspec.json.encode(Recording(frames={'{"time":0}': mark})).decode()
    return msgspec.structs.replace(message, recording=recording)


def test_a_recording_made_again_under_its_name_is_not_added_to_the_output(
    settings: Settings, message: wire.Open, tmp_path: Path
) -> None:
    """Its daemon died before the output had a copy of the ledger; a follower comes with the next."""
    output = opened(settings, message)
    write(output, 0)
    output.sink.close()
    output.ledger.close()
    assert not list(tmp_path.glob(f"**/{LEDGER_COPY}"))
    with pytest.raises(OutputError, match=r"another recording.*frame .*move .* away"):
        opened(settings, of_frame(message, FRAME + 1))
    again = opened(settings, of_frame(message, FRAME))
    assert again.before == {"refocused": 1}
    again.close(None)


def test_what_became_of_frames_before_is_known_when_they_come_again(
    settings: Settings, message: wire.Open
) -> None:
    output = opened(settings, message)
    assert record(output, "failed", 0, 1) == (2, 0, 0)
    assert record(output, "skipped", 2) == (1, 0, 0)
    output.close(None)
    output = opened(settings, message)
    assert output.before == {"failed": 2, "skipped": 1}
    assert write(output, 0) == "failed"
    assert write(output, 2) == "skipped"
    assert record(output, "skipped", 0, 1, 2) == (1, 1, 2)
    assert record(output, "skipped", 1) == (0, 0, 1)
    output.close(3)
    with Ledger(ledger_path(settings.ledgers, message.acquisition), read_only=True) as ledger:
        states = [ledger.state_of(RUN, message.acquisition, f'{{"time":{n}}}') for n in range(3)]
    assert states == ["refocused", "skipped", "refocused"]


def test_nothing_is_kept_in_memory_of_frames_that_are_skipped(
    settings: Settings, message: wire.Open
) -> None:
    """A channel that is not refocused is as long as the others."""
    output = opened(settings, message)
    held = {name: _size(getattr(output, name)) for name in OutputDataset.__slots__}
    for first in range(0, 2000, 500):
        assert record(output, "skipped", *range(first, first + 500))[0] == 500
    assert {name: _size(getattr(output, name)) for name in OutputDataset.__slots__} == held
    output.close(None)


def _size(value: object) -> int:
    return len(value) if isinstance(value, (set, dict, list, tuple)) else 0
