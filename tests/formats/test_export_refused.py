"""Exports that are refused, fail or are interrupted: one clear error, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from exported import dataset, pixels_of, refocusd_export
from recordings_on_disk import frames, write_ndtiff, write_tiff

from refocusd.errors import ConfigError, InputError, OutputError, RefocusdError
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import SinkKind, create_sink
from refocusd.formats.tiff.ome_export import export
from refocusd.formats.tiff.ome_export_plan import plan_export

pytestmark = pytest.mark.fast


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe has no place in a folder there")
def test_nothing_beside_an_export_is_mistaken_for_its_own(tmp_path: Path) -> None:
    dataset(tmp_path / "d", "ndtiff", [{"time": 0}])
    os.mkfifo(tmp_path / "x.ome.tif.part")  # opening it would block
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    assert {entry.name for entry in tmp_path.iterdir()} == {"d", "x.ome.tif", "x.ome.tif.part"}
    (tmp_path / "y.ome.tif").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        refocusd_export(tmp_path / "d", "--output", tmp_path / "y.ome.tif", "--overwrite")


@pytest.mark.parametrize("kind", ["ndtiff", "ome-zarr"])
def test_existing_files_are_replaced_only_when_asked(tmp_path: Path, kind: SinkKind) -> None:
    dataset(tmp_path / "d", kind, [{"time": 0, "position": p} for p in (0, 1)])
    (tmp_path / "x_position1.ome.tif").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"x_position1.*exists already.*--overwrite"):
        refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif")
    assert (tmp_path / "x_position1.ome.tif").read_bytes() == b"mine"
    assert not (tmp_path / "x_position0.ome.tif").exists()
    refocusd_export(tmp_path / "d", "--output", tmp_path / "x.ome.tif", "--overwrite")
    assert pixels_of(tmp_path / "x_position1.ome.tif")[0].shape == (1, 1, 1, 24, 32)


def an_empty_one(path: Path) -> None:
    create_sink("ndtiff", path / "d").close()


def a_sparse_one(path: Path) -> None:
    dataset(path / "d", "ndtiff", [{"time": 0}, {"time": 10**9}])


def one_of_two_formats(path: Path) -> None:
    write_ndtiff(path / "d", [({"z": z}, frames(1, side=(24, 32 + z))[0], {}) for z in range(2)])


def a_tiff(path: Path) -> None:
    write_tiff(path / "d", frames(2))


def a_processed_tiff(path: Path) -> None:
    a_tiff(path)
    (path / "d_refocused").mkdir()


def a_folder(path: Path) -> None:
    (path / "d").mkdir()


def a_good_one(path: Path) -> None:
    dataset(path / "d", "ndtiff", [{"time": 0}])


@pytest.mark.parametrize(
    ("prepare", "output", "kind_of_error", "message"),
    [
        (an_empty_one, "x.ome.tif", InputError, "no frame yet"),
        (a_sparse_one, "x.ome.tif", InputError, r"2 frames .* grid of 1000000001 planes"),
        (one_of_two_formats, "x.ome.tif", InputError, r"different formats.*33×24.*32×24"),
        (a_tiff, "x.ome.tif", InputError, "give the folder of a dataset"),
        (a_processed_tiff, "x.ome.tif", InputError, "its refocused frames are in .*d_refocused"),
        (a_folder, "x.ome.tif", InputError, "give the folder of a dataset"),
        (lambda _: None, "x.ome.tif", InputError, "does not exist: give the folder"),
        (a_good_one, "x.tif", ConfigError, r"ends in \.ome\.tif"),
        (a_good_one, ".ome.tif", ConfigError, r"ends in \.ome\.tif"),
        (a_good_one, "d/x.ome.tif", OutputError, "within the dataset"),
        (a_good_one, "file/x.ome.tif", OutputError, r"exporting in .* failed"),
    ],
)
def test_bad_input_is_one_clear_error(
    tmp_path: Path,
    prepare: Callable[[Path], None],
    output: str,
    kind_of_error: type[RefocusdError],
    message: str,
) -> None:
    prepare(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind_of_error, match=message):
        refocusd_export(tmp_path / "d", "--output", tmp_path / output, "--fill")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    import resource

    dataset(
        tmp_path / "d", "ndtiff", [{"time": t, "position": p} for t in range(9) for p in (0, 1)]
    )
    output = tmp_path / "out" / "x.ome.tif"
    refocusd_export(tmp_path / "d", "--output", output)
    before = {name: name.read_bytes() for name in output.parent.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 5000, 9 * 1536 + 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            # The limit would also hit the captured progress bar, so the command is not used.
            with (
                open_dataset(tmp_path / "d") as reader,
                pytest.raises(OutputError, match="the disk is full"),
            ):
                export(plan_export(reader, output, fill=False, overwrite=True), reader)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert {name: name.read_bytes() for name in output.parent.iterdir()} == before


def test_a_frame_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    dataset(tmp_path / "d", "ndtiff", [{"time": t} for t in range(4)])
    with open_dataset(tmp_path / "d") as reader:
        plan = plan_export(reader, tmp_path / "x.ome.tif", fill=False, overwrite=False)
        stack = tmp_path / "d" / "NDTiffStack.tif"
        stack.write_bytes(stack.read_bytes()[:-3000])
        with pytest.raises(InputError, match="copy the dataset again"):
            export(plan, reader)
    assert {name.name for name in tmp_path.iterdir()} == {"d"}


def test_an_interrupted_export_leaves_nothing_behind(tmp_path: Path) -> None:
    dataset(tmp_path / "d", "ndtiff", [{"time": t} for t in range(4)])
    steps: list[int] = []

    def interrupt() -> None:
        steps.append(len(steps))
        if len(steps) == 6:
            raise KeyboardInterrupt

    with open_dataset(tmp_path / "d") as reader:
        plan = plan_export(reader, tmp_path / "x.ome.tif", fill=False, overwrite=False)
        assert plan.steps == 8
        with pytest.raises(KeyboardInterrupt):
            export(plan, reader, interrupt)
        assert {name.name for name in tmp_path.iterdir()} == {"d"}
        export(plan, reader, lambda: steps.append(0))
    assert len(steps) == 6 + plan.steps
    assert pixels_of(tmp_path / "x.ome.tif")[0].shape[0] == 4


def test_the_command_says_its_error_in_one_line(tmp_path: Path) -> None:
    arguments = ["export", str(tmp_path / "nothing"), "--output", str(tmp_path / "x.ome.tif")]
    done = subprocess.run(
        [sys.executable, "-m", "refocusd", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "does not exist" in done.stderr
