"""The soak test of `benchmarks/`, as short as is meaningful."""

from __future__ import annotations

from pathlib import Path

from benchmarks.soak import soak


def test_killed_workers_lose_no_frame_and_nothing_grows(tmp_path: Path) -> None:
    found = soak(3000, 128, workers=2, kill_every_s=0.3, folder=tmp_path)
    assert found["workers_killed_count"] >= 1
    lost = ("frames_lost", "frames_wrong", "frames_unaccounted", "frames_failed")
    assert {name: found[name] for name in lost} == dict.fromkeys(lost, 0)
    assert found["daemon_threads_count_last"] <= found["daemon_threads_count_first"] + 1
    assert found["daemon_handles_count_last"] <= found["daemon_handles_count_first"] + 4
    assert found["daemon_rss_mib_last"] < found["daemon_rss_mib_first"] + 16
