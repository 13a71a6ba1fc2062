"""What is written for frames that are not trusted: settings, states, counts."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from refocusd.config import Settings
from refocusd.daemon.acquisitions.checks import untrusted_of
from refocusd.daemon.acquisitions.run_id import run_id
from refocusd.daemon.acquisitions.statistics import Statistics
from refocusd.daemon.events import FramesWritten
from refocusd.daemon.output.jobs import WriteFrame
from refocusd.errors import ConfigError
from refocusd.transport import messages as wire
from refocusd.transport.ring import Slot

pytestmark = pytest.mark.fast

FACTS = wire.FrameFacts(100.0, 900.0, 3.0, 4.0, 0.1, 0.2, 1.01, 0, "untrusted")
ENGINE = wire.EngineInfo("openvino", "f32", "CPU", "key", "model", "sha")
SLOT = Slot(0, 1)


def submitted(channel: str) -> wire.Submit:
    axes = msgspec.json.encode({"channel": channel}).decode()
    return wire.Submit("a", axes, SLOT, 1, "{}", 0)


def job(**facts: object) -> WriteFrame:
    changed = msgspec.structs.replace(FACTS, **facts)
    return WriteFrame(1, submitted("GFP"), 1, changed, ENGINE, None)


@pytest.mark.parametrize(
    ("facts", "outcome"),
    [
        ({"verdict": "trusted"}, ("refocused", "")),
        ({"reasons": ["10% clipped"]}, ("refocused", "")),
        (
            {"written": "raw", "reasons": ["10% clipped"]},
            ("passed_through", "not trusted: 10% clipped"),
        ),
        (
            {"written": "nothing", "reasons": ["10% clipped"]},
            ("skipped", "not trusted: 10% clipped"),
        ),
        (
            {"written": "deconvolved", "verdict": "doubtful", "reasons": ["odd light"]},
            ("refocused", "deconvolved: odd light"),
        ),
        (
            {"written": "raw", "verdict": "passed_through", "reasons": ["already in focus"]},
            ("passed_through", "already in focus"),
        ),
    ],
)
def test_the_final_state_tells_what_was_written_and_why(
    facts: dict[str, object], outcome: tuple[str, str]
) -> None:
    assert job(**facts).outcome == outcome


def test_a_channel_may_have_a_rule_of_its_own() -> None:
    settings = Settings(untrusted="pass", channel_untrusted={"GFP": "mark"})
    assert untrusted_of(submitted("GFP"), settings) == "mark"
    assert untrusted_of(submitted("DAPI"), settings) == "pass"


def test_a_rule_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"channel_untrusted: 'hide' for channel 'GFP'"):
        Settings(channel_untrusted={"GFP": "hide"})


def test_the_rule_is_part_of_a_run_and_the_default_leaves_its_id_as_it_was() -> None:
    engine = wire.Engines(*(getattr(ENGINE, name) for name in wire.EngineInfo.__struct_fields__))
    before = hashlib.sha256(json.dumps(["sha", True, None]).encode()).hexdigest()[:16]
    assert run_id(engine, Settings()) == before
    ids = {
        run_id(engine, settings)
        for settings in (
            Settings(),
            Settings(untrusted="mark"),
            Settings(channel_untrusted={"GFP": "mark"}),
            Settings(blur_px=5.0),
            Settings(defocus_um=5.0),
        )
    }
    assert len(ids) == 5


def test_frames_are_counted_by_verdict() -> None:
    statistics = Statistics()
    for verdict in ("trusted", "trusted", "untrusted"):
        facts = msgspec.structs.replace(FACTS, verdict=verdict)
        statistics.note(FramesWritten("a", 1, ("{}",), "refocused", facts=facts), None)
    statistics.note(FramesWritten("a", 0, ("{}",), "skipped", "a rule"), None)
    assert statistics.verdicts == {"trusted": 2, "untrusted": 1}
