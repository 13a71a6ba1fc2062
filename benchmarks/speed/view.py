"""What the live view costs the pipeline, and whether the memory of an open page grows.

Two measurements, with the real components (daemon, worker, view process, headless Chromium):

cost
    The same stream of frames in turn without the view, with its process but no page, and with
    an open page: frames per second as fast as possible, latency at a fixed rate, and processor
    time of daemon and worker per frame.
soak
    A page that follows frames for an hour (``--minutes``): heap of the page, memory of the
    view's process, frames drawn.

Chromium runs on the same processor cores as the pipeline, as it does for a user.  On few cores
its load therefore slows the pipeline; ``pipeline_cpu_per_frame_ms`` does not include it.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal, get_args

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

if __package__ in (None, ""):  # run as a file: the helpers are found from the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.shared.machine import machine, scratch
from benchmarks.shared.statistics import percentiles
from benchmarks.shared.stream import sample_frames, stream
from refocusd.cli.console import console, messages, write_json
from refocusd.errors import RefocusdError
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.view.process import ViewProcess

Condition = Literal["none", "process", "page"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
_BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
#: Time between two readings of a page's memory, in seconds.
_SOAK_STEP_S = 30.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.view", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--parts", nargs="+", choices=("cost", "soak"), default=["cost", "soak"])
    parser.add_argument("--side", type=int, default=2048, metavar="PX")
    parser.add_argument("--fps", type=float, default=20.0, help="cost: rate for latencies")
    parser.add_argument("--frames", type=int, default=300, help="cost: of one stream")
    parser.add_argument("--rounds", type=int, default=6, help="cost: streams for each condition")
    parser.add_argument("--minutes", type=float, default=60.0, help="soak")
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()))
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    return parser


@contextmanager
def _daemon(folder: Path) -> Iterator[DaemonProcess]:
    flags = ["--backend", "identity", "--ledgers", str(folder / "ledgers")]
    with DaemonProcess(flags, folder / "refocusd.log") as daemon:
        yield daemon


@contextmanager
def _browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        path = own if own.exists() else next(filter(None, map(shutil.which, _BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def _view(endpoint: str) -> Iterator[ViewProcess]:
    with ViewProcess(endpoint, ["--port", "0"]) as view:
        view.settled.wait(30.0)
        yield view


@contextmanager
def _page(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(url)
    # By then its scripts are compiled: the cost of opening a page is not measured.
    page.wait_for_timeout(4000)
    try:
        yield page
    finally:
        context.close()


# -- cost -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Cost:
    """All streams of one condition."""

    fps: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    written_ms: list[float] = field(default_factory=list)
    unaccounted: int = 0


def measure_cost(
    folder: Path, side_px: int, fps: float, frames: int, rounds: int
) -> list[dict[str, Any]]:
    """Streams in turn with and without the view; the order of conditions rotates."""
    pixels = sample_frames(side_px)
    costs: dict[Condition, _Cost] = {condition: _Cost() for condition in CONDITIONS}
    with scratch(folder) as place, _daemon(place) as daemon, _browser() as browser:
        pipeline = [psutil.Process(daemon.process.pid)]
        pipeline += pipeline[0].children()

        def one(condition: Condition, pace: float | None) -> None:
            output = place / "stream_refocused"
            shutil.rmtree(output, ignore_errors=True)
            with ExitStack() as stack:
                if condition != "none":
                    view = stack.enter_context(_view(daemon.endpoint))
                    if condition == "page":
                        stack.enter_context(_page(browser, view.entry))
                before = sum(map(_cpu_s, pipeline))
                done = stream(daemon.endpoint, output, pixels, frames, fps=pace, inline=False)
                spent = sum(map(_cpu_s, pipeline)) - before
            cost = costs[condition]
            cost.unaccounted += done.unaccounted
            if pace is None:
                cost.fps.append(frames / done.seconds)
            else:
                cost.cpu_ms.append(1e3 * spent / frames)
                cost.written_ms += done.written_ms[frames // 10 :]

        one("none", None)
        costs["none"] = _Cost()  # not counted: the first stream touches the ring's memory
        for number in range(rounds):
            turn = itertools.islice(itertools.cycle(CONDITIONS), number % 3, number % 3 + 3)
            for condition in turn:
                one(condition, None)
                one(condition, fps)
                messages.print(f"round {number + 1} of {rounds}: {condition}")
    return [
        {
            "condition": condition,
            "side_px": side_px,
            "frames_per_stream": frames,
            "unpaced_median_frames_per_s": round(statistics.median(cost.fps), 2),
            "unpaced_change_percent": _change(cost.fps, costs["none"].fps),
            "paced_at_frames_per_s": fps,
            "pipeline_cpu_per_frame_ms": round(statistics.median(cost.cpu_ms), 3),
            "pipeline_cpu_change_percent": _change(cost.cpu_ms, costs["none"].cpu_ms),
            **percentiles("written", cost.written_ms),
            "frames_unaccounted": cost.unaccounted,
        }
        for condition, cost in costs.items()
    ]


def _change(values: list[float], without: list[float]) -> float:
    """Median of the paired changes, in percent."""
    pairs = zip(values, without, strict=True)
    return round(statistics.median(100 * (value / base - 1) for value, base in pairs), 2)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# -- soak -----------------------------------------------------------------------------------


def measure_soak(folder: Path, minutes: float) -> dict[str, Any]:
    """Figures of a page that follows 512² frames at 25 frames/s, read every half minute."""
    pixels = sample_frames(512)
    stop = threading.Event()
    looks: list[dict[str, float]] = []
    with scratch(folder) as place, _daemon(place) as daemon, ExitStack() as stack:

        def feed() -> None:
            while not stop.is_set():
                output = place / "stream_refocused"
                shutil.rmtree(output, ignore_errors=True)
                stream(daemon.endpoint, output, pixels, 500, fps=25.0, inline=False)

        view = stack.enter_context(_view(daemon.endpoint))
        browser = stack.enter_context(_browser())
        page = stack.enter_context(_page(browser, view.entry))
        session = page.context.new_cdp_session(page)
        process = psutil.Process(view.pid)
        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        end = time.monotonic() + 60 * minutes
        step_s = min(_SOAK_STEP_S, 6 * minutes)
        while time.monotonic() < end:
            page.wait_for_timeout(1000 * step_s)
            session.send("HeapProfiler.collectGarbage")
            used = session.send("Runtime.getHeapUsage")
            looks.append(
                {
                    "frames_drawn": float(page.locator("#stage").get_attribute("data-drawn") or 0),
                    "heap_mib": (used["usedSize"] + used.get("backingStorageSize", 0)) / 2**20,
                    "view_rss_mib": process.memory_info().rss / 2**20,
                    "view_threads": float(process.num_threads()),
                    "view_cpu_s": _cpu_s(process),
                }
            )
        stop.set()
        feeder.join(60.0)
    # During the first fifth, structures of limited size fill up: plot, log, previews.
    settled = looks[len(looks) // 5 :]
    seconds = (len(settled) - 1) * step_s
    drawn = settled[-1]["frames_drawn"] - settled[0]["frames_drawn"]
    return {
        "minutes": minutes,
        "frames_drawn": looks[-1]["frames_drawn"],
        "drawn_per_s": round(drawn / max(seconds, 1e-9), 2),
        "heap_mib_begin": round(settled[0]["heap_mib"], 3),
        "heap_mib_end": round(settled[-1]["heap_mib"], 3),
        "heap_mib_max": round(max(look["heap_mib"] for look in settled), 3),
        "view_rss_mib_begin": round(settled[0]["view_rss_mib"], 1),
        "view_rss_mib_end": round(settled[-1]["view_rss_mib"], 1),
        "view_threads_max": max(look["view_threads"] for look in settled),
        "view_cpu_percent": round(
            100 * (settled[-1]["view_cpu_s"] - settled[0]["view_cpu_s"]) / max(seconds, 1e-9), 1
        ),
    }


def main() -> int:
    """Measure, print, write."""
    arguments = _parser().parse_args()
    figures: dict[str, Any] = {"machine": machine()}
    try:
        if "cost" in arguments.parts:
            figures["cost"] = measure_cost(
                arguments.folder, arguments.side, arguments.fps, arguments.frames, arguments.rounds
            )
        if "soak" in arguments.parts:
            figures["soak"] = measure_soak(arguments.folder, arguments.minutes)
    except RefocusdError as error:
        messages.print(f"error: {error}")
        return error.exit_status
    console.print_json(data=figures)
    write_json(arguments.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
