"""A plate on a cluster whose workers, scheduler and command are killed at random until it is done.

    python -m benchmarks.faults.cluster_kills --kills 200 --json benchmarks/results/cluster-kills-<machine>.json

The scheduler and two workers are Dask's own programs.  They and `refocusd process --cluster` are restarted when
they have ended, as SLURM or systemd would do.  The engine takes 20 ms per frame and returns it unchanged.  At
the end every frame must be listed once and have the pixels of its raw frame, and `refocusd verify` must succeed.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import gettempdir
from typing import Any

if __package__ in (None, ""):  # run as a file: the helpers are found from the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.shared.machine import machine, scratch
from benchmarks.speed.cluster.command import engine_takes
from benchmarks.speed.cluster.plates import write_plate
from refocusd.cli.console import console, messages, write_json
from refocusd.formats.ome_zarr.mirror.layout import listed
from refocusd.formats.open_dataset import open_dataset

#: Relative frequencies with which the programs are killed.
VICTIMS = {"worker": 8, "scheduler": 1, "command": 1}
#: Frames of the plate per kill, and the longest time without a new frame, s.
FRAMES_PER_KILL, PATIENCE_S = 40, 600.0


@dataclass
class _Programs:
    """Programs that are restarted when they have ended, until the command has succeeded."""

    commands: dict[str, Sequence[str]]
    log: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def begin(self, name: str) -> None:
        with self.log.open("ab") as log:
            self.running[name] = subprocess.Popen(self.commands[name], stdout=log, stderr=log)

    def keep(self) -> bool:
        """Start or restart programs that do not run; returns whether the command has succeeded."""
        for name in self.commands:
            status = self.running[name].poll() if name in self.running else -1
            if name == "command" and status == 0:
                return True
            if status is not None:
                self.begin(name)
        return False

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def end(self) -> None:
        for each in self.running.values():
            each.kill()
            each.wait()


def under_fire(
    folder: Path, kills: int, seed: int = 0, note: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """Refocus a plate while programs are killed; its figures.

    Parameters
    ----------
    folder : Path
        For the plate, its output, the ledgers and the log.
    kills : int
        Number of kills; the plate has `FRAMES_PER_KILL` frames for each.
    seed : int
    note : callable, optional
        Called with a line of text after each kill.

    Raises
    ------
    AssertionError
        If no new frame is done for `PATIENCE_S`.
    """
    raw = write_plate(folder / "plate.zarr", kills * FRAMES_PER_KILL, (48, 64))
    out, ledgers = folder / "plate_refocused.zarr", folder / "ledgers"
    frames = kills * FRAMES_PER_KILL
    address = f"tcp://127.0.0.1:{_free_port()}"
    dask = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--no-dashboard",
        "--no-jupyter",
    ]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard"]
    worker += ["--nthreads", "1", "--no-nanny", "--local-directory", str(folder / "dask")]
    ours = [sys.executable, "-m", "refocusd"]
    where = ["--ledgers", str(ledgers)]
    process = ["process", str(raw), "--cluster", address, "--backend", "identity", *where]
    programs = _Programs(
        {
            "scheduler": [*dask, "--host", address],
            "worker 1": worker,
            "worker 2": worker,
            "command": [*ours, *process],
        },
        folder / "programs.log",
    )
    random, killed = Random(seed), Counter[str]()
    victims = random.choices(list(VICTIMS), list(VICTIMS.values()), k=kills)
    begun = time.monotonic()
    with engine_takes(), _ended(programs):
        before, since = 0, time.monotonic()
        while not programs.keep():
            time.sleep(0.05)
            done = _lines(out)
            if done > before:
                since = time.monotonic()
            assert time.monotonic() - since < PATIENCE_S, f"{done} frames: see {programs.log}"
            # A few frames after the last kill, so that work is in progress.
            if killed.total() < kills and done - before >= random.randint(1, FRAMES_PER_KILL // 2):
                kind = victims[killed.total()]
                name = f"worker {random.randint(1, 2)}" if kind == "worker" else kind
                programs.kill(name)
                killed[kind] += 1
                before = done
                note(f"{killed.total()} kills, {done} of {frames} frames")
    took_s = time.monotonic() - begun
    verified = subprocess.run(
        [*ours, "verify", str(raw), *where], capture_output=True, text=True, check=False
    )
    lost, wrong = _compared(raw, out)
    return {
        "frames": frames,
        "kills": dict(killed),
        "frames_lost": lost,
        "frames_wrong": wrong,
        "frames_twice": _lines(out) - (frames - lost),
        "verify_status": verified.returncode,
        "took_s": round(took_s, 1),
    }


@contextlib.contextmanager
def _ended(programs: _Programs) -> Iterator[None]:
    try:
        yield
    finally:
        programs.end()


def _lines(out: Path) -> int:
    return sum(place.read_bytes().count(b"\n") for _, place in listed(out))


def _compared(raw: Path, out: Path) -> tuple[int, int]:
    """Numbers of frames that are missing in the output, and that differ from raw."""
    wrong = 0
    with open_dataset(raw) as before, open_dataset(out) as after:
        there = set(after.axes_keys())
        for key in before.axes_keys():
            if key in there:
                wrong += not np.array_equal(before.read(key).pixels, after.read(key).pixels)
        return len(before) - len(there), wrong


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a frame was lost, wrong or done twice."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.cluster_kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", type=Path, default=Path(gettempdir()), help="folder to write to")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    about = machine()
    with scratch(options.disk) as folder:
        found = under_fire(
            folder, options.kills, options.seed, lambda text: messages.print(text, markup=False)
        )
    for name, value in found.items():
        console.print(f"{name}: {value}", markup=False)
    write_json(options.json, {"machine": about, "cluster_kills": found})
    bad = ("frames_lost", "frames_wrong", "frames_twice", "verify_status")
    return 1 if any(found[name] for name in bad) else 0


if __name__ == "__main__":
    sys.exit(main())
