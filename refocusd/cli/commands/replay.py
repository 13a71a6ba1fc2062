"""``refocusd replay``: refocus a recorded stack as if it were acquired now.

Sends a TIFF, OME-TIFF, NDTiff or folder of TIFFs through the live path.

examples:
  refocusd replay stack.ome.tif --output out                at the recorded rate
  refocusd replay stack.tif --output out --fps 0            as fast as possible
  refocusd replay BBBC006/ --output out --reference z=16    quality per defocus level
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from refocusd.cli.console import console, note, plain, progress, write_json
from refocusd.cli.figures import figures_table, quality_table
from refocusd.cli.flags import add_setting_flags, daemon_flags, settings_of
from refocusd.datasets.output import note_recording
from refocusd.datasets.run_figures import read_attempts, run_figures
from refocusd.datasets.run_folder import refocused_in
from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.formats.dataset import Dataset, Plan, understood
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.sink import refuse_within
from refocusd.frame import Axes, AxisValue, canonical_axes, counted
from refocusd.imaging.quality import Comparison, best_focus, by_level, compare_frames, focus_score
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.sources.replay import recorded_times_s, replay

JSON = "the figures"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("path", type=Path, help="recording: a file or a folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for <name>_refocused")
    parser.add_argument(
        "--fps",
        type=float,
        help="frames per second; 0 is as fast as possible (default: the recorded rate, if the file has one)",
    )
    parser.add_argument(
        "--reference",
        default="auto",
        metavar="z=N",
        help="in-focus plane to compare with: z=N, auto (by focus score) or none",
    )
    add_setting_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    settings_of(arguments)  # a wrong setting is reported before any work
    with open_dataset(arguments.path) as recording:
        refuse_within(arguments.output, recording.path)
        plan = recording.plan()
        note(understood(recording))
        output: Path = refocused_in(arguments.output, recording.name)
        if output.exists():
            raise OutputError(
                f"{output} exists already; choose another --output, or move it away: nothing is "
                "overwritten"
            )
        times = _times(arguments.fps, plan)
        references = _references(arguments.reference, recording, plan)
        if missing := len(recording.missing_keys()):
            note(f"{counted(missing)} listed but not on disk, and left out")
        with _daemon(arguments) as endpoint, progress() as bar:
            task = bar.add_task(plain(f"refocusing {recording.name}"), total=len(plan))
            counts = replay(
                recording,
                endpoint,
                output,
                times_s=times,
                on_outcome=lambda _: bar.advance(task),
                on_opened=lambda opened: note_recording(Path(opened.output), recording.path),
            )
        figures = run_figures([counts], read_attempts([output]))
        levels = _compare(recording, plan, output, references)
    console.print(figures_table(figures, f"{recording.name} → {output}"))
    if levels:
        console.print(
            quality_table(levels, "planes", "compared with the in-focus plane, raw → refocused")
        )
    write_json(
        arguments.json,
        {
            **figures.as_json(),
            "output": str(output),
            "reference": arguments.reference,
            "levels": [level.as_json("planes") for level in levels],
        },
    )
    return 0 if counts.failed == 0 and counts.final == len(plan) else 1


@contextmanager
def _daemon(arguments: argparse.Namespace) -> Iterator[str]:
    """The address of the daemon to use: the one named by ``--endpoint``, or a new one."""
    if arguments.endpoint:
        yield arguments.endpoint
        return
    with DaemonProcess(daemon_flags(arguments), arguments.output / "refocusd.log") as daemon:
        yield daemon.endpoint


def _times(fps: float | None, plan: Plan) -> list[float] | None:
    if fps is None:
        times = recorded_times_s(plan)
        if times is None:
            note("the recording does not state its rate: it is replayed as fast as possible")
        elif times[-1] > 60:
            note(
                f"at the recorded rate this takes {times[-1] / 60:.1f} minutes; --fps 0 is as fast as "
                "possible"
            )
        return times
    if not 0 <= fps <= 1e5:
        raise ConfigError(f"--fps {fps:g}: it must be 0 (as fast as possible) to 100000")
    return [index / fps for index in range(len(plan))] if fps > 0 else None


def _group(axes: Axes) -> str:
    """Key of the field that a frame shows: frames of one field differ in z only."""
    return canonical_axes({name: value for name, value in axes.items() if name != "z"})


def _references(wanted: str, recording: Dataset, plan: Plan) -> dict[str, AxisValue]:
    """The z of the in-focus plane of each field; empty if nothing is to be compared."""
    stacks: dict[str, dict[AxisValue, int]] = {}
    for index, axes in enumerate(plan.axes):
        if "z" in axes:
            stacks.setdefault(_group(axes), {})[axes["z"]] = index
    if wanted == "none":
        return {}
    if wanted == "auto":
        found: dict[str, AxisValue] = {}
        for group, planes in stacks.items():
            if len(planes) >= 3:
                frames = (recording.read(plan.axes[index]) for index in planes.values())
                found[group] = list(planes)[best_focus([focus_score(f.pixels) for f in frames])]
        return found
    named = re.fullmatch(r"z=(-?[0-9]{1,9})", wanted)
    if named is None:
        raise ConfigError(f"--reference {wanted}: write z=N, auto or none")
    plane = int(named[1])
    found = {group: plane for group, p in stacks.items() if plane in p}
    if not found:
        there = ", ".join(sorted({str(z) for p in stacks.values() for z in p})) or "none"
        raise InputError(f"no frame of {recording.path} has {wanted}; its planes are {there}")
    return found


def _compare(
    recording: Dataset, plan: Plan, output: Path, references: Mapping[str, AxisValue]
) -> list[Comparison]:
    if not references:
        return []
    comparisons: list[Comparison] = []
    with open_dataset(output) as refocused, progress() as bar:
        written = set(refocused.axes_keys())
        task = bar.add_task("comparing with the in-focus plane", total=len(plan))
        for axes in plan.axes:
            bar.advance(task)
            key = canonical_axes(axes)
            reference = references.get(_group(axes))
            if reference is None or key not in written:
                continue
            truth_key = canonical_axes({**axes, "z": reference})
            truth = recording.read(truth_key).pixels
            raw = recording.read(key).pixels
            level = float(int(axes["z"]) - int(reference))
            comparisons.append(
                compare_frames(level, raw, refocused.read(key).pixels, truth, register=True)
            )
    return by_level(comparisons)
