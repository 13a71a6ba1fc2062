"""Another program repeatedly holds the daemon's files for a moment, and nothing is lost."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from ledgers import final_states
from live import opened, pump_until, quick_settings, running, source, stack
from numpy.typing import NDArray
from refusals import HOLDERS, Held, Refusals

from refocusd.daemon.daemon import Daemon
from refocusd.datasets.run_folder import LEDGER_COPY, made_by, notes_of
from refocusd.formats.open_dataset import open_dataset
from refocusd.ledger import Ledger, marked
from refocusd.transport import messages as wire

FRAMES = 8


def acquired(daemon: Daemon, output: Path, frames: NDArray[np.uint16]) -> wire.Counts:
    """Run an acquisition, and return its counts."""
    with source(daemon) as connection:
        upload = opened(connection, output)
        assert not upload.refused, upload.reason
        for number, frame in enumerate(frames):
            pump_until(upload, lambda: upload.credit > 0)
            axes = f'{{"time":{number}}}'
            assert upload.submit(frame, axes, "{}", time.perf_counter_ns())
        upload.close(len(frames))
        pump_until(upload, lambda: upload.closed)
        assert upload.closed is not None
        return upload.closed.counts


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("sink", ["ndtiff", "ome-zarr"])
def test_fifty_refused_renames_and_deletes_lose_no_frame_and_refuse_no_acquisition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str, holder: type[Refusals | Held]
) -> None:
    refusals = holder(monkeypatch, seed=1)
    outputs: dict[Path, wire.Counts] = {}
    with running(quick_settings(tmp_path, sink=sink)) as daemon:
        while refusals.count < 50:
            output = tmp_path / f"out_{len(outputs)}"
            outputs[output] = acquired(daemon, output, stack(FRAMES, seed=len(outputs)))
    monkeypatch.undo()
    assert marked(tmp_path / "ledgers") == []
    for seed, (output, counts) in enumerate(outputs.items()):
        assert counts == wire.Counts(acquired=FRAMES, passed_through=FRAMES)
        with open_dataset(output) as dataset:
            written = {key: dataset.read(key).pixels for key in dataset.axes_keys()}
        assert len(written) == FRAMES
        for number, frame in enumerate(stack(FRAMES, seed=seed)):
            np.testing.assert_array_equal(written[f'{{"time":{number}}}'], frame)
        with Ledger(notes_of(output) / LEDGER_COPY, read_only=True) as ledger:
            (acquisition,) = ledger.acquisitions()
            assert set(final_states(ledger, made_by(output)["run"], acquisition)) == set(written)
    left = [path for path in tmp_path.rglob("*") if path.suffix in (".new", ".part")]
    assert left == []
