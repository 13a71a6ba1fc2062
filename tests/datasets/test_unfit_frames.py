"""Frames that cannot be refocused among others: each is refused by itself, counted and told."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from finished import blurred, refocusd, told, verify
from followed import ended, following, newest
from java_ndtiff import SUMMARY, JavaNDTiff, JavaStack
from live import keys, quick_settings, running
from plates_on_disk import write_image, write_plate
from waiting import until

from refocusd.datasets.dataset import find_dataset
from refocusd.datasets.verify import check_run
from refocusd.errors import InputError
from refocusd.formats.ndtiff.layout import HEADER_BYTES
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.formats.open_dataset import open_dataset
from refocusd.sources.folders.announcement import announcement
from refocusd.transport import messages as wire

SIDE = 64
RGB = np.full((SIDE, SIDE, 3), 7, np.uint8)
TINY = np.full((8, 8), 7, np.uint16)


def key(n: int) -> str:
    return f'{{"time":{n}}}'


def java_ndtiff(folder: Path, odd: dict[int, Any], frames: int = 5) -> Path:
    dataset = JavaNDTiff(folder)
    for n, plane in enumerate(blurred(frames, SIDE)):
        dataset.put({"time": n}, odd.get(n, plane), {"Axes": {"time": n}})
    dataset.finish()
    return folder


def compressed(folder: Path) -> Path:
    """The index says of one frame that its pixels are compressed."""
    dataset = JavaNDTiff(folder)
    for n, plane in enumerate(blurred(5, SIDE)):
        axes, name, place = dataset.put_image({"time": n}, plane, {"Axes": {"time": n}})
        dataset.put_entry(axes, name, (*place[:4], int(n == 2), *place[5:]))
    dataset.finish()
    return folder


def java_stack(folder: Path) -> Path:
    """Image stack of Micro-Manager, one page of which is half as wide as its bytes are long."""
    sizes = {"Frames": 5, "Slices": 1, "Channels": 1, "Positions": 1}
    summary = {name: value for name, value in SUMMARY.items() if name != "ChNames"} | sizes
    path = folder / "run_MMStack_Pos0.ome.tif"
    stack = JavaStack(path, summary, SIDE, 5)
    for n, plane in enumerate(blurred(5, SIDE)):
        if n == 2:
            at = stack._file.tell()
        said = {"FrameIndex": n, "SliceIndex": 0, "ChannelIndex": 0, "PositionIndex": 0}
        stack.put((0, 0, n, 0), plane, said)
    stack._write_at(at + 2 + 8, (SIDE // 2).to_bytes(4, "little"))
    stack.finish()
    return folder


def image_files(folder: Path) -> Path:
    """The names say which frame each is; one file was copied in part."""
    folder.mkdir()
    for n, plane in enumerate(blurred(5, SIDE)):
        tifffile.imwrite(folder / f"img_t{n}.tif", plane)
    (folder / "img_t2.tif").write_bytes((folder / "img_t2.tif").read_bytes()[:3000])
    return folder


def two_pages(folder: Path) -> Path:
    """Files of pymmcore-plus, one of which another program has put a page behind."""
    folder.mkdir()
    (folder / "_useq_MDASequence.json").write_text("{}")
    for n, plane in enumerate(blurred(5, SIDE)):
        tifffile.imwrite(
            folder / f"img_t{n:03}.tif", np.stack([plane] * (1 + (n == 2))), imagej=True
        )
    return folder


def pages(folder: Path, odd: Any) -> Path:
    """A TIFF stack that another program wrote page by page, one of them unlike the others."""
    folder.mkdir()
    with tifffile.TiffWriter(folder / "stack.tif") as writer:
        for n, plane in enumerate(blurred(5, SIDE)):
            writer.write(odd if n == 2 else plane, metadata=None)
    return folder / "stack.tif"


def chain(path: Path, frames: int = 5, **options: Any) -> Path:
    """A TIFF whose directories lie between the pixels, as most programs write it."""
    stack = blurred(frames, SIDE)
    tifffile.imwrite(path, stack, photometric="minisblack", compression="zlib", **options)
    return path


def directories(path: Path) -> list[int]:
    with tifffile.TiffFile(path) as tiff:
        return [int(page.offset) for page in tiff.pages]


def cut_off(path: Path, page: int) -> None:
    """Copy a TIFF up to the middle of the directory of a page."""
    path.write_bytes(path.read_bytes()[: directories(path)[page] + 20])


def led_back(path: Path, page: int) -> None:
    """Have the page before one lead back to the first."""
    data, at = path.read_bytes(), directories(path)
    pointer = at[page].to_bytes(4, "little")
    path.write_bytes(data.replace(pointer, at[0].to_bytes(4, "little")))


def led_nowhere(path: Path, page: int) -> None:
    """Have a page's width lie outside of the file, so that its directory is illegible."""
    data, at = bytearray(path.read_bytes()), directories(path)[page]
    data[at + 2 + 4 : at + 2 + 8] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(data)


def odd_axes(folder: Path) -> Path:
    """A script counts halves, and whole numbers as numpy gives them."""
    dataset = JavaNDTiff(folder)
    for n, plane in zip([0, 1.0, 2.5, 3, 4], blurred(5, SIDE), strict=True):
        dataset.put({"time": n}, plane, {"Axes": {"time": n}})
    dataset.finish()
    return folder


KINDS: dict[str, tuple[Callable[[Path], Path], int, str]] = {
    "RGB": (lambda folder: java_ndtiff(folder, {2: RGB}), 2, "is RGB"),
    "first is RGB": (lambda folder: java_ndtiff(folder, {0: RGB}), 0, "is RGB"),
    "last is RGB": (lambda folder: java_ndtiff(folder, {4: RGB}), 4, "is RGB"),
    "tiny": (lambda folder: java_ndtiff(folder, {2: TINY}), 2, "sides from 16 px"),
    "compressed": (compressed, 2, "of type 1 or compressed"),
    "image stack": (java_stack, 2, "which cannot be"),
    "image files": (image_files, 2, "img_t2.tif is damaged or incomplete"),
    "pages of a file": (two_pages, 2, "img_t002.tif has 2 pages, where one was expected"),
    "odd axes": (odd_axes, 2, "axis 'time' has the value 2.5"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_that_cannot_be_refocused_costs_no_other(tmp_path: Path, kind: str) -> None:
    make, number, why = KINDS[kind]
    raw = make(tmp_path / "raw")
    odd = '{"time":"2.5"}' if make is odd_axes else key(number)
    others = {key(n) for n in range(5) if n != number}
    with open_dataset(raw) as frames:
        assert set(frames) == others | {odd}
        assert [each for each in frames if frames.unfit(each)] == [odd]
    done = refocusd("process", raw, place=tmp_path, COLUMNS="1000")
    assert done.returncode == 1, "a frame that failed is a problem"
    assert "4 frames of 64×64 px uint16" in done.stderr
    assert f"1 frame that cannot be refocused, such as {odd}, which " in done.stderr
    assert why in done.stderr
    output = tmp_path / "raw_refocused"
    assert set(keys(output)) == others

    for path in (raw, output):
        status, said = verify(path, place=tmp_path)
        assert status == 1
        (problem,) = said["runs"][0]["problems"]
        assert (problem["kind"], problem["axes"]) == ("failed", odd)
        assert why in problem["detail"]
        assert said["runs"][0]["states"] == {"failed": 1, "passed_through": 4}


def test_resume_and_export_go_on_without_a_frame_that_cannot_be_refocused(tmp_path: Path) -> None:
    raw, output = java_ndtiff(tmp_path / "raw", {2: RGB}), tmp_path / "raw_refocused"
    assert refocusd("process", raw, place=tmp_path).returncode == 1
    before = verify(raw, place=tmp_path)[1]["runs"][0]
    advice = check_run(
        find_dataset(raw, tmp_path / "ledgers"),
        find_dataset(output, tmp_path / "ledgers").outputs[0],
        tmp_path / "ledgers",
        pixels=False,
        running=False,
    ).advice()
    assert [text[:45] for text in advice] == ["1 frame cannot be refocused as raw has them, "]
    assert refocusd("resume", raw, place=tmp_path).returncode == 1
    assert verify(raw, place=tmp_path)[1]["runs"][0]["states"] == before["states"]
    exported = tmp_path / "out.ome.tif"
    status, said = told("export", output, "--output", exported, "--fill", place=tmp_path)
    assert (status, exported.exists()) == (0, True), said


@pytest.mark.parametrize("number", [0, 2])
def test_a_frame_whose_metadata_are_damaged_costs_no_other(tmp_path: Path, number: int) -> None:
    raw = java_ndtiff(tmp_path / "raw", {})
    with NDTiffReader(raw) as frames:
        place = frames._frames[key(number)]
    with (raw / place.file).open("rb+") as file:
        file.seek(place.metadata_offset)
        file.write(b"\xff\xfe[[")
    done = refocusd("process", raw, place=tmp_path, COLUMNS="1000")
    assert done.returncode == 1
    assert "5 frames of 64×64 px uint16" in done.stderr
    status, said = verify(raw, place=tmp_path)
    assert status == 1
    (problem,) = said["runs"][0]["problems"]
    assert (problem["kind"], problem["axes"]) == ("failed", key(number))
    assert "has no metadata" in problem["detail"]
    with open_dataset(raw, growing=True) as growing:
        assert (
            announcement(growing, growing.first_key()).acquisition == said["runs"][0]["acquisition"]
        )


def test_frames_whose_summary_is_damaged_are_refocused(tmp_path: Path) -> None:
    raw = java_ndtiff(tmp_path / "raw", {})
    with (raw / "run_NDTiffStack.tif").open("rb+") as file:
        file.seek(HEADER_BYTES)
        file.write(b"\xff\xfe[[")
    done = refocusd("process", raw, place=tmp_path, COLUMNS="1000")
    assert done.returncode == 0, done.stderr
    assert "by NDTiff's index, without the summary, which is damaged" in done.stderr
    assert verify(raw, place=tmp_path)[0] == 0


def test_a_recording_without_a_frame_that_can_be_refocused_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    raw = java_ndtiff(tmp_path / "raw", {0: RGB, 1: RGB}, frames=2)
    status, said = told("process", raw, place=tmp_path, COLUMNS="1000")
    assert status == 2
    assert "is RGB" in said
    assert not (tmp_path / "raw_refocused").exists()


def test_what_is_followed_and_what_is_processed_say_the_same_of_such_a_frame(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with running(quick_settings(tmp_path)) as daemon, following(data, daemon.endpoint):
        dataset = JavaNDTiff(data / "run")
        for n, plane in enumerate([RGB, blurred(1)[0], TINY, *blurred(2, seed=1)]):
            dataset.put({"time": n}, plane, {"Axes": {"time": n}})
            if n == 1:
                until(lambda: newest(daemon, "run"), "the follower")
        dataset.finish()
        counts = until(lambda: ended(daemon, "run"))
    assert counts == wire.Counts(acquired=5, passed_through=3, failed=2)
    status, said = verify(data / "run", place=tmp_path)
    (run,) = said["runs"]
    assert (status, run["states"]) == (1, {"failed": 2, "passed_through": 3})
    assert {problem["axes"] for problem in run["problems"]} == {key(0), key(2)}
    done = refocusd("process", data / "run", place=tmp_path)
    assert done.returncode == 1
    assert verify(data / "run", place=tmp_path)[1]["runs"][0]["states"] == run["states"]
    assert len([each for each in data.iterdir() if each.name.startswith("run_refocused")]) == 1


def odd_field(root: Path, field: str) -> str:
    """Make the pixels of one field floating-point, or its axes those of an RGB picture."""
    shutil.rmtree(root / "A/1/1")
    write_image(root / "A/1/1", axes="tyx", levels=1, dtype=field if field != "RGB" else "uint16")
    if field == "RGB":
        document = root / "A/1/1" / "zarr.json"
        said = json.loads(document.read_text())
        axes = said["attributes"]["ome"]["multiscales"][0]["axes"]
        axes.append(axes.pop(0) | {"name": "c", "type": "channel"})
        document.write_text(json.dumps(said))
    return '{"position":"A/1/1"'


@pytest.mark.parametrize(
    ("field", "frames", "why"),
    [("float32", 2, "float32"), ("uint64", 2, "uint64"), ("RGB", 1, "y and x are the last")],
)
@pytest.mark.parametrize("on_cluster", [False, True])
def test_a_field_of_a_plate_that_cannot_be_refocused_costs_no_other(
    tmp_path: Path, field: str, frames: int, why: str, on_cluster: bool
) -> None:
    raw = tmp_path / "plate.zarr"
    write_plate(raw, axes="tyx", levels=1)
    begins = odd_field(raw, field)
    with open_dataset(raw) as dataset:
        unfit = [each for each in dataset if dataset.unfit(each)]
        assert (len(dataset), len(unfit)) == (4 + frames, frames)
        assert all(each.startswith(begins) for each in unfit)
    extra = ("--cluster", "local") if on_cluster else ()
    done = refocusd("process", raw, *extra, place=tmp_path, COLUMNS="1000")
    assert done.returncode == 1, done.stderr
    assert "4 frames of 64×48 px uint16" in done.stderr
    assert f"{frames} frame{'s' * (frames > 1)} that cannot be refocused" in done.stderr
    status, said = verify(raw, place=tmp_path)
    (run,) = said["runs"]
    assert (status, run["states"]) == (1, {"failed": frames, "passed_through": 4})
    assert all(why in each["detail"] for each in run["problems"])
    assert {each["axes"] for each in run["problems"]} == set(unfit)


def test_a_plate_without_a_field_that_can_be_refocused_says_why(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate.zarr", axes="tyx", levels=1, dtype="float32")
    with pytest.raises(InputError, match="A/1/0 has pixels of type float32"):
        open_dataset(tmp_path / "plate.zarr")


def test_a_field_of_another_size_is_refused_by_itself(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate.zarr", axes="tyx", levels=1)
    shutil.rmtree(tmp_path / "plate.zarr" / "A/1/0")
    write_image(tmp_path / "plate.zarr" / "A/1/0", axes="tyx", levels=1, dtype="uint8")
    with open_dataset(tmp_path / "plate.zarr") as frames:
        unfit = {json.loads(each)["position"] for each in frames if frames.unfit(each)}
        assert (len(frames), unfit) == (6, {"A/1/0"})
        assert "where most have 64×48 px uint16" in frames.unfit(next(iter(frames)))


def test_a_well_whose_metadata_cannot_be_read_counts_as_one_frame(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate.zarr", axes="tyx", levels=1)
    (tmp_path / "plate.zarr" / "A/1/zarr.json").write_text("{")
    with open_dataset(tmp_path / "plate.zarr") as frames:
        lost = '{"position":"A/1"}'
        assert [each for each in frames if frames.unfit(each)] == [lost]
        assert "cannot be read as metadata of OME-Zarr" in frames.unfit(lost)
        assert len(frames) == 3


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        (RGB, "is RGB"),
        (np.ones((SIDE, SIDE), np.float32), "32-bit floating-point"),
        (np.ones((32, SIDE), np.uint16), "page 2 of .* is 64×32 px uint16, where most are 64×64"),
        (TINY, "smallest side"),
    ],
)
def test_a_page_of_a_stack_unlike_the_others_costs_none_of_them(
    tmp_path: Path, odd: Any, why: str
) -> None:
    raw = pages(tmp_path / "raw", odd)
    done = refocusd("process", raw, place=tmp_path, COLUMNS="1000")
    assert done.returncode == 1, done.stderr
    assert "4 frames of 64×64 px uint16" in done.stderr
    assert '1 frame that cannot be refocused, such as {"z":2}, which ' in done.stderr
    status, said = verify(raw, place=tmp_path)
    (run,) = said["runs"]
    (problem,) = run["problems"]
    assert (status, run["states"]) == (1, {"failed": 1, "passed_through": 4})
    assert (problem["kind"], problem["axes"]) == ("failed", '{"z":2}')
    assert re.search(why, problem["detail"])


@pytest.mark.parametrize(
    ("options", "axis"),
    [
        ({"metadata": None}, "z"),
        ({"metadata": None, "bigtiff": True, "byteorder": ">"}, "z"),
        ({"metadata": {"axes": "TYX"}}, "time"),
        ({"metadata": {"axes": "TYX"}, "imagej": True}, "time"),
        # Of what its description said nothing is left: tifffile puts it last.
        ({"metadata": {"axes": "TYX"}, "ome": True}, ""),
        ({"metadata": {"axes": "TYX"}, "ome": True, "bigtiff": True}, ""),
    ],
)
def test_pages_before_the_end_of_a_stack_that_was_cut_are_refocused(
    tmp_path: Path, options: dict[str, Any], axis: str
) -> None:
    raw = chain(tmp_path / "raw.tif", **options)
    cut_off(raw, 3)
    # How many pages were behind the end is known only if something else tells.
    lost = [f'{{"{axis or "z"}":{n}}}' for n in range(3, 5 if axis == "time" else 4)]
    with open_dataset(raw) as frames:
        assert [each for each in frames if frames.unfit(each)] == lost
        for n, plane in enumerate(blurred(5, SIDE)[:3]):
            np.testing.assert_array_equal(frames.read({axis or "z": n}).pixels, plane)
        assert axis or "as the description that told their axes was cut off" in frames.source
    done = refocusd("process", raw, place=tmp_path, COLUMNS="1000")
    assert done.returncode == 1, done.stderr
    assert f"{len(lost)} frame" in done.stderr
    assert f"cannot be refocused, such as {lost[0]}, which is a page" in done.stderr
    assert "the directory of page 3 lies at byte" in done.stderr
    status, said = verify(raw, place=tmp_path)
    (run,) = said["runs"]
    assert (status, run["states"]) == (1, {"failed": len(lost), "passed_through": 3})
    assert [problem["axes"] for problem in run["problems"]] == lost


@pytest.mark.parametrize(
    ("harm", "lost", "why"),
    [
        (led_back, [3], "page 3 leads back to an earlier one"),
        (led_nowhere, [3], "a tag in the directory of page 3"),
    ],
)
def test_a_damaged_directory_costs_no_page_before_it(
    tmp_path: Path, harm: Callable[[Path, int], None], lost: list[int], why: str
) -> None:
    raw = chain(tmp_path / "raw.tif", metadata=None)
    harm(raw, 3)
    with open_dataset(raw) as frames:
        unfit = {each: frames.unfit(each) for each in frames if frames.unfit(each)}
        assert list(unfit) == [f'{{"z":{n}}}' for n in lost]
        assert why in unfit['{"z":3}']
        assert len(frames) == 5 if harm is led_nowhere else 4


def test_frames_that_an_ome_tiff_promises_beyond_its_pages_are_lost(tmp_path: Path) -> None:
    raw = chain(tmp_path / "raw.ome.tif", ome=True, metadata={"axes": "TYX"}, frames=4)
    data = raw.read_bytes()
    told = data.replace(b'SizeT="4"', b'SizeT="6"').replace(b'PlaneCount="4"', b'PlaneCount="6"')
    assert told != data
    raw.write_bytes(told)
    with open_dataset(raw) as frames:
        assert len(frames) == 6
        lost = {each: frames.unfit(each) for each in frames if frames.unfit(each)}
        assert list(lost) == [key(4), key(5)]
        assert "OME-XML promises 6 frames, and it has 4 pages" in lost[key(4)]
