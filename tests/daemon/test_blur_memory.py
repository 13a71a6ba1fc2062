"""The blur of one microscope's frames is remembered from session to session."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import opened, pump_until, quick_settings, read_all, running, source

from refocusd.config import Settings
from refocusd.daemon.acquisitions import blur
from refocusd.daemon.acquisitions.blur.known import KnownBlurs
from refocusd.daemon.acquisitions.blur.memory import BlurMemory, Kind
from refocusd.daemon.acquisitions.state import Acquisition
from refocusd.daemon.offline import own_settings
from refocusd.demo.specimen import Specimen
from refocusd.frame import Pixels
from refocusd.profiles.applied import Applied
from refocusd.profiles.catalogue import Selection
from refocusd.profiles.microscope_metadata import first_of
from refocusd.transport import messages as wire

DAPI = Kind("Zyla", "20x", "DAPI", 0.65, "")


def remembered(path: Path, *sessions: list[float], kind: Kind = DAPI) -> BlurMemory:
    """The memory after sessions whose frames had these widths."""
    for number, widths in enumerate(sessions):
        memory = BlurMemory(path)
        for width in widths:
            memory.add(str(number), kind, width, 0.25)
        memory.end(str(number))
    return BlurMemory(path)


def test_a_session_begins_with_what_earlier_ones_told(tmp_path: Path) -> None:
    found = remembered(tmp_path / "blurs.json", [8.0] * 9, [10.0] * 9).of(DAPI)
    assert found is not None
    assert found.frames == 18
    assert 8 < found.sigma_px < 10
    assert found.blur.source == "memory"
    # The focus of another session may be elsewhere, however many frames were measured.
    assert 0.2 < found.blur.uncertainty < 0.35
    (entry,) = json.loads((tmp_path / "blurs.json").read_text())
    assert entry["kind"]["objective"] == "20x"
    assert entry["kind"]["pixel_um"] == 0.65


def test_frames_that_contradict_it_replace_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = remembered(tmp_path / "blurs.json", [20.0] * 9, [4.0] * 9).of(DAPI)
    assert found is not None
    assert found.sigma_px == pytest.approx(4.0)
    assert found.frames == 9
    assert "the blur of DAPI is 4.0 px: 20.0 px, measured on 9 frames until" in caplog.text


def test_a_numbered_channel_is_remembered_by_its_name(tmp_path: Path) -> None:
    """Micro-Manager's window numbers channels, and another session may begin with another stain."""
    settings = quick_settings(tmp_path, blur_memory=True)
    acquisition = Acquisition.announced(
        wire.Open("a", "cells", 64, 64, "uint16", "", "/out", "{}"), b""
    )
    acquisition.applied = Applied(Selection(metadata={"Camera": "Zyla", "Channel": "DAPI"}))

    def frame(name: str) -> wire.Submit:
        nowhere: Any = None
        return wire.Submit("a", '{"channel":0}', nowhere, 0, json.dumps({"Channel": name}), 0)

    facts = wire.FrameFacts(
        *(0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0, "trusted"),
        blur_px=8.0,
        blur_uncertainty=0.2,
        blur_source="frame",
    )
    blurs = KnownBlurs(settings)
    for _ in range(9):
        blurs.note(acquisition, frame("DAPI"), facts)
    blurs.end("a")
    known = KnownBlurs(settings).of(acquisition, frame("DAPI"))
    assert known is not None
    assert known.sigma_px == pytest.approx(8.0)
    assert KnownBlurs(settings).of(acquisition, frame("GFP")) is None


def test_other_microscopes_know_nothing_of_it(tmp_path: Path) -> None:
    memory = remembered(tmp_path / "blurs.json", [8.0])
    assert memory.of(Kind("Zyla", "40x", "DAPI", 0.33, "")) is None
    assert memory.of(Kind("Zyla", "20x", "GFP", 0.65, "")) is None
    assert memory.of(Kind("Zyla", "20x", "DAPI", 0.65, "3 of 2.0 um")) is None


@pytest.mark.parametrize("text", ["", "[1, 2", "{}", '[{"kind": 3}]', "\0"])
def test_a_damaged_file_is_named_and_replaced(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "blurs.json"
    path.write_text(text)
    assert BlurMemory(path).of(DAPI) is None
    assert str(path) in caplog.text
    assert remembered(path, [8.0]).of(DAPI) is not None


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blur.memory, "MOST_ENTRIES", 3)
    path = tmp_path / "blurs.json"
    kinds = [Kind("Zyla", "", name, None, "") for name in "abcd"]
    for kind in kinds:
        remembered(path, [5.0], kind=kind)
    memory = BlurMemory(path)
    assert [memory.of(kind) is None for kind in kinds] == [True, False, False, False]


def test_what_lies_on_disk_is_refocused_without_it() -> None:
    assert not own_settings(Settings(blur_memory=True)).blur_memory


# -- in a daemon --------------------------------------------------------------------------


def frames(defocus_um: float, count: int = 3) -> list[Pixels]:
    rng = np.random.default_rng(0)
    return [
        np.ascontiguousarray(Specimen().frame("DAPI", defocus_um, 10.0, rng)[:256, :256])
        for _ in range(count)
    ]


def session(
    place: Path, name: str, given: list[Pixels], camera: str = "Zyla", **changes: Any
) -> list[dict[str, Any]]:
    """Refocus frames with a new daemon, and return the metadata of each."""
    changes = {"blur_memory": True, **changes}
    settings = quick_settings(place, backend="deconvolution", untrusted="mark", **changes)
    metadata = {"Camera": camera, "PixelSizeUm": 0.65}
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, place / name, side=256, first=first_of(metadata, "DAPI"))
        for number, pixels in enumerate(given):
            pump_until(upload, lambda: upload.credit)
            upload.submit(pixels, f'{{"time":{number}}}', json.dumps(metadata), 0)
        upload.close(len(given))
        pump_until(upload, lambda: upload.closed)
    return [said["refocusd"] for _, (_, said) in sorted(read_all(place / name).items())]


def test_a_daemon_begins_where_the_last_one_ended_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = frames(16.0)
    first = session(tmp_path, "first", given)
    assert first[0]["blur_source"] == "frame"
    with caplog.at_level(logging.INFO):
        again = session(tmp_path, "again", given)
    assert again[0]["blur_uncertainty"] < first[0]["blur_uncertainty"]
    assert again[0]["blur_px"] == pytest.approx(first[-1]["blur_px"], rel=0.25)
    assert "the blur of DAPI begins with" in caplog.text
    assert "measured on 3 frames until" in caplog.text
    for name, changes in (
        ("other camera", {"camera": "Orca"}),
        ("without", {"blur_memory": False}),
    ):
        other = session(tmp_path, name, given, **changes)
        assert other[0]["blur_px"] == first[0]["blur_px"]


def test_frames_that_are_otherwise_overrule_what_is_remembered(tmp_path: Path) -> None:
    session(tmp_path, "wide", frames(40.0))
    narrow = frames(5.0)
    told = session(tmp_path, "narrow", narrow)
    alone = session(tmp_path / "apart", "alone", narrow)
    assert told[-1]["blur_px"] < 1.3 * alone[-1]["blur_px"]
    (entry,) = json.loads((tmp_path / "ledgers" / "blurs.json").read_text())
    assert entry["sigma_px"] < 1.5 * alone[-1]["blur_px"]
