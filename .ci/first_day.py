"""Runs the commands of a user's first day, with a refocusd that was installed from its wheel.

``PYTHON first_day.py FOLDER`` uses the refocusd of that PYTHON, and writes everything into a new FOLDER:
doctor, demo, verify, replay, the daemon with its page and an acquisition through the hook, stop,
export.  It ends at the first command that fails.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

#: Time limit of a command; long, because the machine may be busy with other work.
PATIENCE_S = 300.0
FRAMES = 8


def main() -> None:
    """Run all commands."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True)
    # Keep away from the ledgers of the user who runs this.
    os.environ |= {"REFOCUSD_LEDGERS": str(folder / "ledgers"), "PYTHONUTF8": "0"}
    refocusd("doctor", "--folder", folder)
    refocusd("demo", "--output", folder / "demo", "--times", "2", "--json", folder / "demo.json")
    made = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    expect(Path(made["contact_sheet"]).stat().st_size > 10_000, "the demo made no contact sheet")
    for dataset in made["datasets"]:
        refocusd("verify", dataset)
    raw = Path(made["datasets"][0].removesuffix("_refocused"))
    refocusd("replay", raw, "--output", folder / "replayed", "--fps", "0")
    refocusd("verify", folder / "replayed" / f"{raw.name}_refocused")
    acquired = serve_an_acquisition(folder)
    refocusd("verify", acquired)
    refocusd("export", acquired, "--output", folder / "exported.ome.tif")
    expect((folder / "exported.ome.tif").stat().st_size > FRAMES << 19, "the export is too small")


def refocusd(*arguments: object) -> None:
    """Run one command; its output goes through a pipe, as into a log file, and is shown if it fails."""
    told = " ".join(map(str, arguments))
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "refocusd", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE_S,
        check=False,
    )
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode or "Traceback" in said:
        sys.exit(f"{said}\nrefocusd {told}: exit status {done.returncode}")
    report(f"refocusd {told}: {time.monotonic() - begun:.0f} s")


def serve_an_acquisition(folder: Path) -> Path:
    """Start a daemon, acquire from another process through the hook, read its page, and stop it.

    Returns the folder of the refocused dataset.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["run", "--announce", "--studio", "off", "--endpoint", "tcp://127.0.0.1:0"]
    with (folder / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "refocusd", *command, "--view-port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert daemon.stdout is not None
        endpoint = json.loads(daemon.stdout.readline())["endpoint"]
        subprocess.run(
            [sys.executable, __file__, "--acquire", folder / "data", endpoint],
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=True,
        )
        expect("<html" in page(port, "/"), "the live view has no page")
        expect('"cells' in page(port, "/api/status"), "the live view does not know the acquisition")
        expect("refocusd_" in page(port, "/metrics"), "the live view has no metrics")
        expect('"openapi"' in page(port, "/api/v1/openapi.json"), "the API is not described")
        refocusd("run", "--stop", "--endpoint", endpoint)
        expect(daemon.wait(PATIENCE_S) == 0, f"the daemon ended with {daemon.returncode}")
    except BaseException:
        report((folder / "daemon.log").read_text(encoding="utf-8", errors="replace"))
        raise
    finally:
        daemon.kill()
        daemon.wait()
    report("the daemon, its page, an acquisition and the stop: done")
    return next((folder / "data").glob("*_refocused"))


def acquire(folder: str, endpoint: str) -> None:
    """Acquire as a user's script does."""
    from pycromanager import Acquisition

    import refocusd as product
    from refocusd.demo.microscope import DemoMicroscope

    with DemoMicroscope() as microscope:
        source = product.Source(endpoint)
        hooks = source.hooks(folder, "cells", show_display=False)
        with Acquisition(**hooks) as acquisition:
            acquisition.acquire(microscope.events_snapped(FRAMES // 2, [0.0, 8.0]))
        counts = source.wait(PATIENCE_S)
    expect(counts is not None, "the daemon did not finish the acquisition")
    expect(counts.acquired == counts.final == FRAMES and not counts.failed, str(counts))


def page(port: int, path: str) -> str:
    """A page of the live view, read with the token of the user who started it."""
    told = subprocess.run(
        [sys.executable, "-m", "refocusd", "view", "--print-url", "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    token = {"Authorization": f"Bearer {told.strip().partition('token=')[2]}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=token)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 (http)
                return str(answer.read().decode("utf-8"))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def expect(true: object, otherwise: str) -> None:
    """Exit with a message unless something is true."""
    if not true:
        sys.exit(otherwise)


def report(text: str) -> None:
    """Print a line without delay."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    acquire(*sys.argv[2:]) if sys.argv[1] == "--acquire" else main()
