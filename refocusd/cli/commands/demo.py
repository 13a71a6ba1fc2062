"""``refocusd demo``: try refocusd on a simulated microscope with a real MMCore.

Runs real pycromanager acquisitions (snapped and hardware-sequenced) of real
nuclei imaged through focus by a simulator, refocuses every frame live, and
shows the result.

examples:
  refocusd demo --output demo                 tables, datasets and demo/contact-sheet.png
  refocusd demo --output demo --times 2       the same, quicker
  refocusd demo --output demo --sink ome-zarr --json demo.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path

from refocusd.cli.console import console, progress, say, write_json
from refocusd.cli.figures import figures_table, quality_table
from refocusd.cli.flags import add_setting_flags, daemon_flags, settings_of
from refocusd.datasets.run_figures import read_attempts, run_figures
from refocusd.datasets.run_folder import refocused_path
from refocusd.demo.microscope import DemoMicroscope, Event
from refocusd.demo.sheet import SheetRow, contact_sheet, defocus_label
from refocusd.demo.specimen import Specimen
from refocusd.errors import OutputError, WorkerError
from refocusd.formats.disk_space import check_free_space, free_space_needed
from refocusd.formats.open_dataset import open_dataset
from refocusd.imaging.quality import Comparison, by_level, compare_frames
from refocusd.optional import need
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.sources.pycromanager import Source
from refocusd.transport.messages import Counts

#: Stage positions of the demo, relative to the specimen's focal plane.
DEFOCUS_UM = (-32.0, -16.0, -8.0, -4.0, 0.0, 4.0, 8.0, 16.0, 32.0)
SHEET_DEFOCUS_UM = (0.0, 8.0, -16.0, 32.0)
CHANNELS = ("DAPI", "Cy5")
#: Time limit for the frames that are left when the acquisition has ended.
DRAIN_S = 120.0


JSON = "the figures"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument("--times", type=int, default=4, help="time points per acquisition")
    add_setting_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    settings_of(arguments)  # a wrong setting is reported before any work
    need("matplotlib", "the contact sheet", "demo")
    output: Path = arguments.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(
            f"{output} is not an empty folder; choose another --output: nothing is overwritten"
        )
    specimen = Specimen()
    focal_um = specimen.focus.at()
    stage_um = [focal_um + defocus for defocus in DEFOCUS_UM]
    output.mkdir(parents=True, exist_ok=True)
    with (
        DaemonProcess(daemon_flags(arguments), output / "refocusd.log") as daemon,
        DemoMicroscope(specimen) as microscope,
    ):
        scans = {
            "snapped": microscope.events_snapped(arguments.times, stage_um, CHANNELS),
            "sequenced": microscope.events_sequenced(arguments.times, stage_um, CHANNELS),
        }
        frame_nbytes = specimen.shape[0] * specimen.shape[1] * 2
        planned = sum(map(len, scans.values()))
        # Twice: raw and refocused.
        check_free_space(output, 2 * free_space_needed(frame_nbytes, planned))
        done = [_acquire(name, scans[name], output, daemon.endpoint) for name in scans]
    datasets = [refocused_path(raw) for raw, _ in done]
    figures = run_figures([counts for _, counts in done], read_attempts(datasets))
    comparisons, rows = _compare(specimen, scans.values(), [raw for raw, _ in done])
    sheet = contact_sheet(
        rows,
        output / "contact-sheet.png",
        title="refocusd demo: nuclei, live from Micro-Manager",
        pixel_um=specimen.pixel_um,
        caption="Real nuclei (BBBC038, CC0); defocus and camera are simulated.",
    )
    levels = by_level(comparisons)
    console.print(figures_table(figures, "acquired with MMCore's demo camera, refocused live"))
    console.print(
        quality_table(levels, "µm", "compared with the known in-focus plane, raw → refocused")
    )
    say(f"raw and refocused datasets, contact sheet: {output}")
    say(f"picture: {sheet}")
    write_json(
        arguments.json,
        {
            **figures.as_json(),
            "contact_sheet": str(sheet),
            "datasets": [str(dataset) for dataset in datasets],
            "levels": [level.as_json("um") for level in levels],
        },
    )
    total = figures.counts
    return 0 if total.failed == 0 and total.final == planned else 1


def _acquire(name: str, events: list[Event], output: Path, endpoint: str) -> tuple[Path, Counts]:
    """Run one real acquisition with our hooks; return its raw dataset and its frame counts."""
    from pycromanager import Acquisition

    source = Source(endpoint, expected=len(events))
    with progress() as bar:
        task = bar.add_task(f"acquiring ({name})", total=len(events))
        hooks = source.hooks(
            str(output),
            name,
            image_saved_fn=lambda axes, dataset: bar.advance(task),  # noqa: ARG005
            show_display=False,
        )
        with Acquisition(**hooks) as acquisition:
            acquisition.acquire(events)
            dataset = acquisition.get_dataset()
        bar.update(task, description=f"refocusing the remaining frames ({name})")
        counts = source.wait(DRAIN_S)
    if counts is None:
        raise WorkerError(
            f"the daemon did not finish {name}; see {output / 'refocusd.log'}. The raw frames are "
            f"in {dataset.path}"
        )
    return Path(dataset.path), counts


def _compare(
    specimen: Specimen, scans: Collection[list[Event]], raws: list[Path]
) -> tuple[list[Comparison], list[SheetRow]]:
    focal_um = specimen.focus.at()
    truths = {channel: specimen.truth(channel) for channel in CHANNELS}
    comparisons: list[Comparison] = []
    rows: dict[float, SheetRow] = {}
    with progress() as bar:
        task = bar.add_task("comparing with the truth", total=sum(map(len, scans)))
        for events, path in zip(scans, raws, strict=True):
            with (
                open_dataset(path) as raw,
                open_dataset(refocused_path(path)) as refocused,
            ):
                z_um = {event["axes"]["z"]: event["z"] for event in events}
                for key in refocused.axes_keys():
                    bar.advance(task)
                    axes = json.loads(key)
                    defocus = round(z_um[axes["z"]] - focal_um, 3)
                    before, after = raw.read(key).pixels, refocused.read(key).pixels
                    truth = truths[axes["channel"]]
                    compared = compare_frames(abs(defocus), before, after, truth, register=False)
                    comparisons.append(compared)
                    if defocus in SHEET_DEFOCUS_UM and axes["channel"] == CHANNELS[0]:
                        row = SheetRow(
                            defocus_label(defocus),
                            before,
                            after,
                            truth,
                            float(compared.before[0]),
                            float(compared.after[0]),
                        )
                        rows.setdefault(defocus, row)
    return comparisons, [rows[level] for level in SHEET_DEFOCUS_UM if level in rows]
