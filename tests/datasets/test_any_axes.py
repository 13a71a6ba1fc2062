"""All axes of pycromanager, Micro-Manager or useq are read, refocused, verified and exported."""

from __future__ import annotations

import itertools
import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import useq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import quick_settings, running
from pycromanager import multi_d_acquisition_events
from recordings_on_disk import write_ndtiff

from refocusd.daemon.daemon import Daemon
from refocusd.datasets.dataset import find_dataset
from refocusd.datasets.verify import check_run
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import SinkKind
from refocusd.formats.tiff.ome_export import export
from refocusd.formats.tiff.ome_export_plan import plan_export
from refocusd.frame import canonical_axes
from refocusd.sources.cameras import DistinctAxes
from refocusd.sources.from_disk import submit_frames
from refocusd.sources.pymmcore_plus import _axes
from refocusd.transport import messages as wire

Axes = dict[str, Any]
NAMES = ["DAPI", "dapi", "Cy5/far red", "φ-蛍光", "0"]
MOST = 40


@st.composite
def by_pycromanager(draw: st.DrawFn) -> list[Axes]:
    """Axes of `multi_d_acquisition_events`, each of them present or not."""
    told: dict[str, Any] = {"order": draw(st.sampled_from(["tpcz", "tpzc", "ptzc"]))}
    if draw(st.booleans()):
        told |= {"num_time_points": draw(st.integers(1, 3))}
    if draw(st.booleans()):
        step = draw(st.sampled_from([2.0, 0.5]))
        told |= {"z_start": -step, "z_end": draw(st.integers(-1, 1)) * step, "z_step": step}
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
        told |= {"channel_group": "Channel", "channels": names}
    if draw(st.booleans()):
        places = draw(st.integers(1, 2))
        told |= {"xy_positions": np.arange(2.0 * places).reshape(places, 2)}
        if draw(st.booleans()):
            told |= {"position_labels": [f"A{n}" for n in range(places)]}
    return [dict(event["axes"]) for event in multi_d_acquisition_events(**told)]


@st.composite
def by_useq(draw: st.DrawFn) -> list[Axes]:
    """Axes that our source gives to a sequence's events: grids, named positions, channel groups."""
    told: dict[str, Any] = {}
    if draw(st.booleans()):
        told["time_plan"] = {"interval": 0, "loops": draw(st.integers(1, 3))}
    if draw(st.booleans()):
        told["z_plan"] = {"range": draw(st.integers(0, 4)), "step": 2.0}
    if draw(st.booleans()):
        groups = draw(st.lists(st.sampled_from(["Channel", "Lamp"]), min_size=1, max_size=2))
        told["channels"] = [{"group": g, "config": "DAPI"} for g in dict.fromkeys(groups)]
        told["channels"] += [{"config": "GFP", "do_stack": draw(st.booleans())}]
    grid = useq.GridRowsColumns(rows=draw(st.integers(1, 2)), columns=2)
    if draw(st.booleans()):
        inner = useq.MDASequence(grid_plan=grid)
        told["stage_positions"] = [(0.0, 0.0, 0.0), useq.Position(x=1, y=1, z=0, sequence=inner)]
    elif draw(st.booleans()):
        told["grid_plan"] = grid
    distinct = DistinctAxes()
    events = useq.MDASequence(**told)
    return [dict(distinct.of(_axes(event, n))) for n, event in enumerate(events)]


@st.composite
def by_micromanager(draw: st.DrawFn) -> list[Axes]:
    """Axes of Micro-Manager's GUI: numbers, even for channels; negative planes; rows, columns."""
    named = st.sampled_from(["time", "z", "channel", "position", "row", "column"])
    names = draw(st.lists(named, min_size=1, max_size=4, unique=True))
    along = []
    for name in names:
        first = draw(st.integers(-2, 1)) if name in ("z", "row", "column") else 0
        along.append(range(first, first + draw(st.integers(1, 3))))
    return [dict(zip(names, place, strict=True)) for place in itertools.product(*along)]


#: What scripts add: the camera, their own axis, numbers that do not start at 0.
by_scripts = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "time": st.integers(0, 5),
            "z": st.integers(-3, 3),
            "channel": st.sampled_from(NAMES),
            "camera": st.sampled_from(["Cam-1", "Cam-2"]),
            "position": st.sampled_from(["Pos0", "Pos1"]),
            "tile": st.integers(0, 1),
        },
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module", params=["ndtiff", "ome-zarr"])
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    sink: SinkKind = request.param
    place = tmp_path_factory.mktemp(sink)
    with running(quick_settings(place, sink=sink)) as started:
        yield started


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(several=st.one_of(by_pycromanager(), by_micromanager(), by_useq(), by_scripts).filter(bool))
def test_every_frame_is_accounted_for_and_comes_out_at_its_place(
    daemon: Daemon, several: list[Axes]
) -> None:
    axes = list({canonical_axes(one): one for one in several}.values())[:MOST]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pixels = {
            canonical_axes(one): np.full((16, 20), 1 + n, np.uint16) for n, one in enumerate(axes)
        }
        raw = write_ndtiff(folder / "raw", [(one, pixels[canonical_axes(one)], {}) for one in axes])
        frames = stack.enter_context(open_dataset(raw))
        assert set(frames.axes_keys()) == set(pixels)
        closed = submit_frames(
            frames,
            frames.axes_keys(),
            daemon.endpoint,
            wire.Open(
                acquisition=str(uuid.uuid4()),
                name=frames.name,
                height=16,
                width=20,
                dtype="uint16",
                raw=frames.catch_up_from,
                output=str(folder / "raw_refocused"),
                summary=json.dumps(frames.summary),
            ),
            acquired=len(axes),
            live=False,
        )
        assert closed.counts == wire.Counts(acquired=len(axes), passed_through=len(axes))
        found = find_dataset(raw, daemon.settings.ledgers)
        (output,) = found.outputs
        check = check_run(found, output, daemon.settings.ledgers, pixels=True, running=False)
        assert check.clean, check.as_json()
        assert check.report.compared == check.report.raw_compared == len(axes)
        refocused = stack.enter_context(open_dataset(output.path))
        plan = plan_export(refocused, folder / "x" / "x.ome.tif", fill=True, overwrite=False)
        (folder / "x").mkdir()
        export(plan, refocused)
        exported: dict[str, Any] = {}
        for file in plan.files:
            whole = tifffile.imread(file.path).reshape(*file.sizes, 16, 20)
            exported |= {key: whole[place] for place, key in file.keys.items()}
        assert {key: int(image[0, 0]) for key, image in exported.items()} == {
            key: int(image[0, 0]) for key, image in pixels.items()
        }
