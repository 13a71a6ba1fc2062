"""Behaviour of all readers on a hundred thousand damaged messages, files and bundles.

The targets are those of the tests (``tests/test_*_fuzz.py``), with more inputs.  They
run in separate processes, so that a reader that hangs, crashes in native code
or uses all memory is reported and does not end the run.  Target, seed and index
determine an input; to print one::

    python -m benchmarks.faults.fuzz --show "NDTiff index" 4711 > input.bin
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: the helpers are found from the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# The targets are those of the tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "datasets"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "formats"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "models"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "transport"))

import psutil
from fuzzing import Target, fuzz

from benchmarks.shared.machine import machine
from refocusd.cli.console import console, write_json

MODULES = ("test_wire_fuzz", "test_recording_fuzz", "test_own_files_fuzz", "test_bundle_fuzz")
#: Target of conversations with a running daemon instead of a single reader.
DAEMON = "daemon"
#: Relative numbers of inputs where they are not 1; slow targets get fewer.
WEIGHTS = {"message header": 4.0, "OME-XML": 2.0, "network": 0.03, "bundle description": 0.5}
WEIGHTS |= {"bundle fields": 0.5, "altered network": 0.3, DAEMON: 0.08}
#: Most inputs of one process.
CHUNK = 2000
#: A process that takes longer for one input counts as hung.
HANG_S = 60.0
#: Limit of a process's address space: a larger allocation fails in the process and does not affect the machine.
MEMORY_BYTES = 6 << 30


@dataclass(frozen=True)
class Part:
    """Inputs `first` to `first + rounds` of one target."""

    target: str
    first: int
    rounds: int


def targets() -> dict[str, str]:
    """The module of each target."""
    found = {name: module for module in MODULES for name in import_module(module).TARGETS}
    return found | {DAEMON: "test_wire_fuzz"}


def make(name: str, folder: Path) -> Target:
    """Make a target, whose undamaged inputs are written to `folder`."""
    factory: Callable[[Path], Target] = import_module(targets()[name]).TARGETS[name]
    return factory(folder)


# -- a child: one part -------------------------------------------------------------------


def child(part: Part, seed: int, folder: Path, place: Path) -> dict[str, Any]:
    """Run one part; the file `place` contains the index of the current input."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    process = psutil.Process()
    if part.target == DAEMON:
        return _daemon(part, seed, folder, process)
    with place.open("r+b", buffering=0) as file:

        def before(index: int) -> None:
            file.seek(0)
            file.write(index.to_bytes(8, "little"))

        report = fuzz(
            make(part.target, folder), part.rounds, seed=seed, first=part.first, before=before
        )
    return {
        "outcomes_count": dict(report.outcomes),
        "slowest_ms": round(report.slowest_s * 1e3, 2),
        "most_kib": report.most_bytes // 1024,
        "rss_mib": _peak_mib(process),
        "defects": [{"index": d.index, "what": d.what} for d in report.defects],
    }


def _daemon(part: Part, seed: int, folder: Path, process: psutil.Process) -> dict[str, Any]:
    """Send a part's inputs as messages to one daemon; ends at the first error."""
    module = import_module("test_wire_fuzz")
    conversations = max(5, part.rounds // module.MESSAGES)
    found: dict[str, float] = {"messages": 0, "refusals": 0}
    defects = []
    try:
        found = module.fuzz_daemon(folder, conversations, seed + part.first)
    except Exception as error:  # noqa: BLE001 (any exception is a finding)
        defects.append({"index": part.first, "what": f"{type(error).__name__}: {error}"})
    answered = int(found["refusals"])
    return {
        "outcomes_count": {"refused": answered, "taken": int(found["messages"]) - answered},
        "slowest_ms": 0.0,
        "most_kib": round(max(0.0, found.get("rss_growth_mib", 0.0)) * 1024),
        "rss_mib": _peak_mib(process),
        "defects": defects,
    }


def _peak_mib(process: psutil.Process) -> int:
    if sys.platform == "win32":
        return int(process.memory_info().peak_wset >> 20)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak >> 20 if sys.platform == "darwin" else peak >> 10)


# -- the parent --------------------------------------------------------------------------


class Run:
    """A child process that runs one part."""

    def __init__(self, part: Part, seed: int, folder: Path) -> None:
        self.part = part
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._place = self._folder / "index"
        self._place.write_bytes(part.first.to_bytes(8, "little"))
        (self._folder / "files").mkdir()
        command = [sys.executable, __file__, "--seed", str(seed), "--child", part.target]
        command += [str(part.first), str(part.rounds), str(self._folder)]
        self._said = (self._folder / "said").open("w+", encoding="utf-8", errors="replace")
        self._log = (self._folder / "log").open("w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(command, stdout=self._said, stderr=self._log)
        self._index = -1
        self._since = time.monotonic()

    def hangs(self) -> bool:
        """Whether it has taken too long for one input."""
        index = int.from_bytes(self._place.read_bytes(), "little")
        if index != self._index:
            self._index, self._since = index, time.monotonic()
        patience = HANG_S * 10 if self.part.target == DAEMON else HANG_S
        return time.monotonic() - self._since > patience

    def result(self) -> tuple[dict[str, Any] | None, int, str]:
        """Its figures (None if it crashed), the index of its last input, and the end of its error output."""
        index = int.from_bytes(self._place.read_bytes(), "little")
        texts = []
        for file in (self._said, self._log):
            file.seek(0)
            texts.append(file.read())
            file.close()
        if self.process.returncode == 0:
            return json.loads(texts[0].splitlines()[-1]), index, ""
        return None, index, " ".join(texts[1].split())[-300:]


def run_all(parts: list[Part], seed: int, processes: int, folder: Path) -> dict[str, Any]:
    """Run all parts, `processes` at a time; figures by target, and the defects."""
    waiting, running = deque(parts), list[Run]()
    figures: dict[str, dict[str, Any]] = {}
    defects: list[dict[str, Any]] = []
    while waiting or running:
        while waiting and len(running) < processes:
            running.append(Run(waiting.popleft(), seed, folder))
        time.sleep(0.05)
        for run in list(running):
            hung = run.process.poll() is None and run.hangs()
            if hung:
                run.process.kill()
                run.process.wait()
            if run.process.poll() is None:
                continue
            running.remove(run)
            part = run.part
            found, index, words = run.result()
            into = figures.setdefault(part.target, _nothing())
            if found is None:
                status = "hung" if hung else f"ended with status {run.process.returncode}"
                what = f"its process {status}: {words}"
                found = _nothing() | {"defects": [{"index": index, "what": what}]}
                found["outcomes_count"] = {"killed its process": 1}
                # The other inputs of this part are run again: those before and after that one.
                end = part.first + part.rounds
                for first, last in ((part.first, index), (index + 1, end)):
                    if last > first and part.target != DAEMON:
                        waiting.appendleft(Part(part.target, first, last - first))
            _add(into, found)
            defects += [
                {"target": part.target, "seed": seed, **defect} for defect in found["defects"]
            ]
            for defect in found["defects"]:
                console.print(f"{part.target} {defect['index']}: {defect['what']}", markup=False)
    for into in figures.values():
        into["inputs_count"] = sum(into["outcomes_count"].values())
    return {"targets": figures, "defects": defects}


def _nothing() -> dict[str, Any]:
    return {"outcomes_count": {}, "slowest_ms": 0.0, "most_kib": 0, "rss_mib": 0}


def _add(into: dict[str, Any], found: dict[str, Any]) -> None:
    counted = Counter(into["outcomes_count"]) + Counter(found["outcomes_count"])
    into["outcomes_count"] = dict(sorted(counted.items()))
    for name in ("slowest_ms", "most_kib", "rss_mib"):
        into[name] = max(into[name], found[name])


def plan(names: list[str], rounds: int) -> list[Part]:
    """Parts of at most `CHUNK` inputs each, with at least `rounds` inputs in total."""
    weights = {name: WEIGHTS.get(name, 1.0) for name in names}
    parts = []
    for name, weight in weights.items():
        inputs = max(50, -(-round(rounds * weight) // round(sum(weights.values()) + 0.5)))
        parts += [
            Part(name, first, min(CHUNK, inputs - first)) for first in range(0, inputs, CHUNK)
        ]
    missing = rounds - sum(part.rounds for part in parts)
    if missing > 0:  # by rounding: the fastest target gets more
        fastest = max(names, key=lambda name: weights[name])
        first = max(part.first + part.rounds for part in parts if part.target == fastest)
        parts.append(Part(fastest, first, missing))
    return parts


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if there was a defect."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults.fuzz", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100_000, help="inputs of all targets")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", choices=sorted(targets()), metavar="TARGET")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--show", nargs=2, metavar=("TARGET", "INDEX"), help="print one input")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        name, first, rounds, folder = options.child
        part = Part(name, int(first), int(rounds))
        found = child(part, options.seed, Path(folder) / "files", Path(folder) / "index")
        sys.stdout.write("\n" + json.dumps(found) + "\n")
        return 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if options.show:
            target = make(options.show[0], Path(folder))
            sys.stdout.buffer.write(target.draw(options.seed, int(options.show[1])))
            return 0
        begun = time.monotonic()
        about = machine()
        parts = plan(options.targets or list(targets()), options.rounds)
        found = run_all(parts, options.seed, options.processes, Path(folder))
    inputs = sum(into["inputs_count"] for into in found["targets"].values())
    figures = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": about,
        "seed": options.seed,
        "inputs_count": inputs,
        "took_s": round(time.monotonic() - begun, 1),
        **found,
    }
    write_json(options.json, figures)
    for name, into in found["targets"].items():
        console.print(f"{name}: {into}", markup=False, highlight=False)
    console.print(f"{inputs} inputs, {len(found['defects'])} defects", highlight=False)
    return 1 if found["defects"] else 0


if __name__ == "__main__":
    sys.exit(main())
