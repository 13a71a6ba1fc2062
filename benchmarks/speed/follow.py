"""A dataset followed on disk while it is written: whether every frame is done, and the preview's delay.

One process writes an NDTiff dataset exactly as Micro-Manager's Java writer does, at a
camera's rate; a follower in another process finds it and hands its frames to ``refocusd run``
with the pass-through engine; a view asks for the newest frame.  Latency is the time from when a
frame and its index entry are on disk until its preview reaches the view.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import gettempdir
from typing import Any

if __package__ in (None, ""):  # run as a file: the helpers are found from the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.shared.machine import file_system, machine, scratch
from benchmarks.shared.statistics import percentiles
from refocusd import __version__
from refocusd.cli.console import console, messages, write_json
from refocusd.daemon.daemon import daemon_status
from refocusd.errors import RefocusdError, TransportError
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.sources.folders.watcher import Follower
from refocusd.transport.client import Connection
from refocusd.transport.messages import Look, Shown

WRITER = Path(__file__).resolve().parents[2] / "tests" / "support" / "java_ndtiff.py"
RESULT = Path(__file__).resolve().parents[1] / "results" / "follow.json"
GOAL_MS = 200.0
#: How long the daemon may take to close the acquisition after the last frame.
CLOSE_S = 120.0


def _follow(folder: str, endpoint: str, stop: Any) -> None:
    """Follow `folder` until `stop` is set; runs in a separate process, as in `refocusd run`."""
    ended = threading.Event()
    thread = threading.Thread(target=Follower(folder, endpoint).run, args=(ended,))
    thread.start()
    stop.wait()
    ended.set()
    thread.join()


class _View:
    """Notes when the preview of each frame arrives."""

    def __init__(self, endpoint: str) -> None:
        self._connection = Connection(endpoint, "view", version=__version__)
        self._connection.welcome(10.0)
        self.seen: dict[int, int] = {}
        #: The daemon's own measurement: ms from the follower's reading a frame to the disk.
        self.stages: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._connection.send(Look(after=0))
        while not self._stop.is_set():
            said = self._connection.receive(0.1)
            if isinstance(said, Shown):
                now = time.perf_counter_ns()
                if said.live:  # frames that were caught up later have no meaningful latency
                    self.seen.setdefault(json.loads(said.axes)["time"], now)
                    self.stages.setdefault(json.loads(said.axes)["time"], said.latency_ms)
                self._connection.send(Look(after=said.serial))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()


def _measure(folder: Path, frames: int, side: int, fps: float) -> dict[str, Any]:
    data = folder / "data"
    data.mkdir()
    flags = ["--backend", "identity", "--ledgers", str(folder / "ledgers")]
    flags += ["--no-view", "--studio", "off", "--no-live"]  # only the follower is measured
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with DaemonProcess(flags, folder / "daemon.log") as daemon:
        follower = context.Process(target=_follow, args=(str(data), daemon.endpoint, stop))
        follower.start()
        view = _View(daemon.endpoint)
        try:
            times_file = folder / "times.json"
            words = ["ndtiff", data / "run_1", frames, side, fps, "--distinct", 4]
            subprocess.run(
                [sys.executable, str(WRITER), *map(str, words), "--times", str(times_file)],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            about = _closed(daemon.endpoint)
        finally:
            stop.set()
            follower.join(30)
            view.close()
    written = {int(n): at for n, at in json.loads(times_file.read_text("utf-8")).items()}
    late = [(view.seen[n] - at) / 1e6 for n, at in written.items() if n in view.seen]
    taken_s = (max(written.values()) - min(written.values())) / 1e9
    counts = about.counts
    accounted = counts.refocused + counts.passed_through + counts.failed + counts.skipped
    return {
        "frames": frames,
        "side": side,
        "asked_fps": fps,
        "written_fps": round((frames - 1) / taken_s, 2),
        "counts": {name: getattr(counts, name) for name in counts.__struct_fields__},
        "deferred": about.deferred,
        "unaccounted": frames - accounted - counts.pending,
        "previews": len(late),
        **percentiles("preview_latency", late),
        **percentiles("of_which_in_daemon", list(view.stages.values())),
        "within_goal_share": round(sum(ms <= GOAL_MS for ms in late) / max(1, len(late)), 3),
    }


def _closed(endpoint: str) -> Any:
    deadline = time.monotonic() + CLOSE_S
    while time.monotonic() < deadline:
        for about in reversed(daemon_status(endpoint, timeout_s=10.0).details):
            if about.state == "ended":
                return about
        time.sleep(0.2)
    raise TransportError("the daemon did not close the acquisition: see its log")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.follow", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--fps", type=float, default=20.0)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()), help="where to write")
    parser.add_argument("--json", type=Path, default=RESULT)
    arguments = parser.parse_args()
    frames = round(arguments.seconds * arguments.fps)
    about = machine()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    try:
        with scratch(arguments.folder) as folder:
            result = _measure(folder, frames, arguments.side, arguments.fps)
            result["file_system"] = file_system(folder)
    except RefocusdError as error:
        messages.print(f"error: {error}", markup=False)
        return error.exit_status
    after = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    result["load_average"] = {"before": load, "after": after}
    write_json(str(arguments.json), {"machine": about, "goal_ms": GOAL_MS, "follow": result})
    console.print_json(data=result)
    return 0 if result["unaccounted"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
