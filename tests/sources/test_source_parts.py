"""Small parts that several sources share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from refocusd.frame import Pixels
from refocusd.sources.buffer import FrameBuffer, Held
from refocusd.sources.feed import Feed
from refocusd.sources.feed_state import FeedState
from refocusd.sources.feed_upload import FeedUpload
from refocusd.sources.once import MAX_WARNINGS, Once
from refocusd.sources.output_folder import output_folder
from refocusd.sources.pycromanager import _process_hook
from refocusd.transport.session import Session

pytestmark = pytest.mark.fast

log = logging.getLogger("refocusd.sources.test")


def test_a_warning_is_logged_once_until_things_were_better(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn = Once(log, "run_1", " (raw data is not affected)")
    for text in ("100 % full", "100 % full", "gone"):
        warn(text)
    assert [record.getMessage() for record in caplog.records] == [
        "run_1: 100 % full (raw data is not affected)",
        "run_1: gone (raw data is not affected)",
    ]
    warn.forget()
    warn("gone")
    assert len(caplog.records) == 3


def test_warnings_that_name_each_frame_fill_no_disk(caplog: pytest.LogCaptureFixture) -> None:
    warn = Once(log)
    for number in range(3 * MAX_WARNINGS):
        warn(f"frame {number} is odd")
    assert len(caplog.records) == MAX_WARNINGS


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("my cells", "my_cells_"),
        ("../../etc/passwd", "etc_passwd_"),
        ("...", "MDA_"),
        ("", "MDA_"),
        ("Zellen-µ.1", "Zellen-µ.1_"),
        ("con.1", "con_.1_"),
        ("COM7.x", "COM7_.x_"),
        ("contrast.1", "contrast.1_"),
        ("细胞" * 200, "细胞" * 30 + "_"),
    ],
)
def test_an_output_is_named_after_its_acquisition_and_stays_in_its_folder(
    tmp_path: Path, name: str, begins: str
) -> None:
    output = output_folder(tmp_path, name)
    assert output.parent == tmp_path
    assert output.name.startswith(begins)
    assert output.name.endswith("_refocused")


def test_an_output_that_exists_is_never_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-120000")
    given = []
    for made in (True, True, False, True):
        given.append(output_folder(tmp_path, "run"))
        if made:  # the daemon makes it with the first frame, which may come later
            given[-1].mkdir()
    assert [folder.name for folder in given] == [
        "run_20260101-120000_refocused",
        "run_20260101-120000_refocused_2",
        "run_20260101-120000_refocused_3",
        "run_20260101-120000_refocused_4",
    ]


class _Slots:
    """A session with a given number of slots."""

    def __init__(self) -> None:
        self.credit = 0
        self.submitted: list[str] = []

    def submit(self, pixels: Pixels, axes: str, metadata: dict[str, Any], taken_ns: int) -> bool:
        self.credit -= 1
        self.submitted.append(axes)
        return True

    def pump(self, timeout_s: float) -> None:
        """Receive nothing."""

    def leave(self, frames: int, acquired: int) -> None:
        """Ignore it: no frames were left to raw."""


@pytest.mark.parametrize(("in_order", "order"), [(False, "201"), (True, "012")])
def test_frames_that_piled_up_without_a_slot_go_newest_first_unless_order_matters(
    in_order: bool, order: str
) -> None:
    state = FeedState(FrameBuffer(1 << 20), "out", 0, has_raw=True, in_order=in_order)
    upload = FeedUpload(state, "tcp://127.0.0.1:9", on_advice=None, on_gone=None)
    for number in range(3):
        state.buffer.add(Held(str(number), number, {}, np.zeros((4, 4), np.uint16)))
    slots = _Slots()
    session = cast(Session, slots)
    upload._pass_on(session)
    assert slots.submitted == []
    slots.credit = 3
    for _ in range(3):
        upload._pass_on(session)
    assert "".join(slots.submitted) == order


def test_what_others_may_write_to_is_copied_and_the_cameras_own_array_is_not() -> None:
    buffer = FrameBuffer(1 << 20)
    image = np.zeros((32, 32), np.uint16)
    copy = buffer.array_for(image)
    assert copy is not None
    assert not np.shares_memory(copy, image)
    assert buffer.array_for(image, keep=True) is image


def test_the_cameras_arrays_count_as_held_and_are_never_written_to() -> None:
    """The buffer has room for three frames, whoever owns their arrays."""
    images = [np.full((32, 32), number, np.uint16) for number in range(9)]
    buffer = FrameBuffer(3 * images[0].nbytes)
    for number, image in enumerate(images):
        keep = number % 2 == 0
        array = buffer.array_for(image, keep=keep)
        assert array is not None
        if not keep:
            assert not any(np.shares_memory(array, other) for other in images)
            np.copyto(array, image)
        buffer.add(Held(str(number), number, {}, array, kept=keep))
        assert len(buffer) <= 3
    assert buffer.axes_left() == ["6", "7", "8"]
    assert buffer.behind == 6
    for image, number in zip(images, range(9), strict=True):
        assert (image == number).all()
    while len(buffer):
        buffer.give_back(buffer.pop())
    # The whole buffer is free again.
    assert all(
        buffer.array_for(image, displace=False, keep=True) is not None for image in images[:3]
    )
    assert buffer.array_for(images[3], displace=False, keep=True) is None


@pytest.mark.parametrize("own", [False, True])
def test_the_hook_copies_only_where_a_user_may_write_to_the_frame(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    monkeypatch.setattr(Feed, "take", lambda *_, keep: taken.append(keep), raising=True)
    monkeypatch.setattr("refocusd.sources.pycromanager.Cameras.camera_of", lambda *_: "")
    feed = Feed("tcp://127.0.0.1:9", output="out", expected=0, buffer_nbytes=1)
    hook = _process_hook(feed, (lambda image, metadata: (image, metadata)) if own else None, None)
    hook(np.zeros((32, 32), np.uint16), {"Axes": {"time": 0}})
    assert taken == [not own]
