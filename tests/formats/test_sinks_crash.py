"""The NDTiff sink on full disks, and after crashes at any byte."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ndtiff_sinks import SUMMARY, assert_readers_find, numbered_frame, refusal, write_all

from refocusd.errors import OutputError
from refocusd.formats.disk_space import check_free_space, free_space_needed
from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.frame import Frame


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("room", [0, 1, 100, 178, 5000, 24_000])
def test_a_frame_that_the_disk_refuses_is_undone(tmp_path: Path, room: int) -> None:
    """A limit on file length stops a write anywhere within a frame."""
    import resource

    path = tmp_path / "d"
    frames = [numbered_frame(number, (100, 120)) for number in range(4)]
    with NDTiffSink.create(path, SUMMARY) as sink:
        write_all(sink, frames[:2])
        before = {name.name: name.read_bytes() for name in path.iterdir()}
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = (path / "NDTiffStack.tif").stat().st_size + room
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OutputError, match="the disk is full"):
                write_all(sink, frames[2:3])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert frames[2].key not in sink
        assert {name.name: name.read_bytes() for name in path.iterdir()} == before
        assert_readers_find(path, frames[:2])
        write_all(sink, frames[2:])
    assert_readers_find(path, frames)


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("room", [0, 10, 60])
@pytest.mark.parametrize("first_of_its_file", [True, False])
def test_an_index_record_that_the_disk_refuses_is_undone(
    tmp_path: Path, room: int, first_of_its_file: bool
) -> None:
    """Files of frames are kept shorter than the index, so that the limit affects only the index."""
    import resource

    path = tmp_path / "d"
    frames = [numbered_frame(number, (16, 20)) for number in range(64)]
    written = 60 if first_of_its_file else 61  # two frames per file
    with NDTiffSink.create(path, SUMMARY, max_file_bytes=2200) as sink:
        write_all(sink, frames[:written])
        index = (path / "NDTiff.index").read_bytes()
        assert len(index) > 2200
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(index) + room, hard))
        try:
            with pytest.raises(OutputError, match="the disk is full"):
                write_all(sink, frames[written : written + 1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (path / "NDTiff.index").read_bytes() == index
        assert_readers_find(path, frames[:written])
        write_all(sink, frames[written:])
    assert len(list(path.glob("*.tif"))) == 32
    assert_readers_find(path, frames)


@pytest.mark.parametrize("max_file_bytes", [2**32, 200_000])
def test_a_full_disk_stops_writing_until_there_is_room(
    small_disk: Path, max_file_bytes: int
) -> None:
    path = small_disk / "d"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    frames = [numbered_frame(number, (100, 120)) for number in range(30)]
    written = 0
    with NDTiffSink.create(path, SUMMARY, max_file_bytes=max_file_bytes) as sink:
        while not (said := refusal(sink, frames[written])):
            written += 1
        assert "the disk is full: free some space" in said
        assert 0 < written < 25
        for _ in range(3):
            assert "the disk is full" in refusal(sink, frames[written])
            assert_readers_find(path, frames[:written])
        ballast.unlink()
        write_all(sink, frames[written:])
    assert_readers_find(path, frames)


def test_too_little_space_is_reported_before_it_runs_out(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "yet"
    needed = free_space_needed(2048 * 2048 * 2, 1000)
    assert needed > 2048 * 2048 * 2 * 1000
    check_free_space(path, 1, reserve_bytes=0)
    with pytest.raises(OutputError, match=r"GiB free.*needs 1048576\.00 GiB.*2\.00 GiB.*--output"):
        check_free_space(path, 2**50, reserve_bytes=2**31)
    with pytest.raises(OutputError, match="GiB"):
        check_free_space(path, 0, reserve_bytes=2**60)


WRITES = st.tuples(
    st.booleans(),  # whether the process dies in this write
    st.floats(0, 1),  # at which of its bytes
    st.booleans(),  # whether the chain of IFDs was linked already
    st.booleans(),  # in the pixels, or in the index
)


@settings(max_examples=60, deadline=None)
@given(writes=st.lists(WRITES, min_size=1, max_size=8), limit=st.sampled_from([1500, 2300, 2**32]))
def test_no_frame_is_lost_to_a_crash_at_any_byte(
    writes: list[tuple[bool, float, bool, bool]], limit: int
) -> None:
    """Earlier frames stay; the frame of the crash is complete, or can be written again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d"
        sink = NDTiffSink.create(path, SUMMARY, max_file_bytes=limit)
        committed: list[Frame] = []
        for number, (crashes, where, linked, in_pixels) in enumerate(writes):
            frame = numbered_frame(number, (16, 20))
            before = {name.name: name.read_bytes() for name in path.iterdir()}
            write_all(sink, [frame])
            committed.append(frame)
            if crashes:
                sink.close()
                after = {name.name: name.read_bytes() for name in path.iterdir()}
                torn = interrupted(before, after, where, linked=linked, in_pixels=in_pixels)
                for name in path.iterdir():
                    name.unlink()
                for name_, content in torn.items():
                    (path / name_).write_bytes(content)
                sink = NDTiffSink.append(path, max_file_bytes=limit)
                assert all(old.key in sink for old in committed[:-1])
                if frame.key not in sink:
                    assert_readers_find(path, committed[:-1])
                    write_all(sink, [frame])
            assert_readers_find(path, committed)
        sink.close()


def interrupted(
    before: dict[str, bytes],
    after: dict[str, bytes],
    where: float,
    *,
    linked: bool,
    in_pixels: bool,
) -> dict[str, bytes]:
    """Return the files as a process that was killed during a write would leave them.

    The order is: frame, link in the chain of IFDs, name of the file if the
    frame is its first, index record.
    """
    (stack,) = [
        name
        for name, content in after.items()
        if name.endswith(".tif") and before.get(name) != content
    ]
    # A file's first frame is written under another name.
    was = before.get(stack, before.get(stack + ".part", b""))
    head = was or after[stack][:4] + bytes(4) + after[stack][8:12]
    unlinked = head + after[stack][len(head) :]
    state = dict(before)
    if in_pixels or not linked:
        cut = round(where * len(unlinked)) if in_pixels else len(unlinked)
        state[stack if stack in before else stack + ".part"] = unlinked[: max(cut, len(was))]
    else:
        state.pop(stack + ".part", None)
        state[stack] = after[stack]
        old, new = before["NDTiff.index"], after["NDTiff.index"]
        state["NDTiff.index"] = new[: len(old) + round(where * (len(new) - len(old)))]
    return state


def test_a_frame_that_a_power_failure_took_can_be_written_again(tmp_path: Path) -> None:
    """The index may reach the disk before the pixels, and end in zeros."""
    frames = [numbered_frame(number) for number in range(8)]
    path = tmp_path / "d"
    with NDTiffSink.create(path) as sink:
        write_all(sink, frames)
    stack, index = path / "NDTiffStack.tif", path / "NDTiff.index"
    stack.write_bytes(stack.read_bytes()[:-3000])
    index.write_bytes(index.read_bytes() + bytes(5000))
    with NDTiffSink.append(path) as sink:
        assert [frame.key in sink for frame in frames] == [True] * 6 + [False] * 2
        assert_readers_find(path, frames[:6])
        write_all(sink, frames[6:])
    assert_readers_find(path, frames)
