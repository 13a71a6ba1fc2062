"""The client side of the bridge: detection, messages, threads, and rate limits."""

from __future__ import annotations

import argparse
import gc
import json
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyjavaz  # type: ignore[import-untyped]
import pytest
import zmq
from bridge_standin import Standin, stranger
from bridge_standin_session import SESSION, play

from refocusd.cli.flags import add_setting_flags, daemon_flags, settings_of
from refocusd.config import Settings, load_settings
from refocusd.errors import ConfigError, InputError, TransportError
from refocusd.sources.attached.order import AttachOrder, orders
from refocusd.sources.micromanager.bridge import Bridge
from refocusd.sources.micromanager.coordinates import GrowingBox
from refocusd.sources.micromanager.probe import probe
from refocusd.sources.micromanager.rate_limit import Pace
from refocusd.sources.micromanager.source import BridgeSource
from refocusd.sources.micromanager.values import flat_properties, image_of

HOST = "127.0.0.1"
#: pyjavaz drops its socket without closing it.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:Unclosed socket <zmq.Socket\(zmq.REQ:ResourceWarning"
)


@contextmanager
def client(standin: Standin, pace: Pace | None = None) -> Iterator[Bridge]:
    """Run a bridge client in this process; Java objects are released while the stand-in exists."""
    bridge = Bridge(HOST, standin.port, pace)
    try:
        yield bridge
    finally:
        bridge.let_go()
        gc.collect()
        # Objects that the error of a failed test still holds are not released.
        pyjavaz.server_terminated(standin.port)


# -- the protocol ---------------------------------------------------------------------------


def test_the_client_sends_what_was_recorded() -> None:
    recorded = json.loads(SESSION.read_text(encoding="utf-8"))
    played = play()
    assert [said["sent"] for said in played] == [said["sent"] for said in recorded]


def test_every_object_is_given_back() -> None:
    with Standin() as standin:
        with client(standin) as bridge:
            viewers = bridge.items(
                bridge.call(bridge.call(bridge.studio.displays).get_all_data_viewers)
            )
            assert viewers == []
        assert standin.alive == 0


def test_what_java_raises_is_told_in_its_words() -> None:
    with Standin() as standin, client(standin) as bridge:
        with pytest.raises(TransportError, match="Circular buffer is empty"):
            bridge.call(bridge.core.get_last_tagged_image)
        with pytest.raises(TransportError, match="Incorrect arguments"):
            bridge.call(bridge.core.is_sequence_running, 1, 2)


@pytest.mark.parametrize(
    "late", [queue.Empty(), TimeoutError(), Exception("Socket timed out after 500 milliseconds")]
)
def test_an_answer_that_is_late_is_told_as_such_and_waited_for_by_a_successor(
    late: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer_late(**_: object) -> None:
        raise late

    with Standin() as standin, client(standin) as bridge:
        with pytest.raises(TransportError, match="does not answer in time"):
            bridge.call(answer_late)
        monkeypatch.setattr(
            "pyjavaz.bridge.Bridge.create_or_get_existing_bridge", staticmethod(answer_late)
        )
        order = AttachOrder("tcp://127.0.0.1:9", studio="on", bridge_port=standin.port)
        source = BridgeSource(order, lambda *_: None)
        source.run(threading.Event())
        monkeypatch.undo()
    assert "does not answer in time" in source.over
    assert not source.failed


def test_pixels_come_as_they_are() -> None:
    pixels = np.array([[0, 65535, 256], [1, 2, 3]], np.uint16)
    with Standin() as standin, client(standin) as bridge:
        standin.microscope.expose(1, pixels)
        tagged = bridge.call(bridge.core.get_last_tagged_image)
        assert np.array_equal(bridge.field(tagged, "pix"), pixels.ravel())
        del tagged


def test_a_call_from_another_thread_is_refused() -> None:
    said: list[str] = []
    with Standin() as standin, client(standin) as bridge:

        def call() -> None:
            for do in (lambda: bridge.new("mmcorej.CMMCore"), bridge.collect, bridge.beat):
                try:
                    do()
                except TransportError as error:
                    said.append(str(error))

        before = len(standin.calls)
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert len(standin.calls) == before
    assert len(said) == 3
    assert all("belongs to the thread that opened it" in text for text in said)


def test_nothing_of_the_bridge_is_kept_alive_by_an_error() -> None:
    with Standin() as standin, client(standin) as bridge:
        core = bridge.core
        kept = weakref.ref(core)
        said = ""
        try:
            bridge.call(core.get_last_tagged_image)
        except TransportError as error:
            said = str(error)
        assert said
        bridge._core = None
        del core
        assert kept() is None


# -- detection -----------------------------------------------------------------------------


def test_a_bridge_is_ready() -> None:
    with Standin() as standin:
        answer = probe(HOST, standin.port)
    assert (answer.state, answer.version) == ("ready", "5.1.0")


def test_nothing_there_is_told_with_what_to_do() -> None:
    with stranger() as port:
        pass
    answer = probe(HOST, port)
    assert answer.state == "nothing"
    assert "Run pycro-manager server" in answer.says


@pytest.mark.parametrize(
    "answer",
    [
        None,
        lambda said: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        lambda said: b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f" + bytes(54),
    ],
    ids=["silent", "a web server", "half a ZeroMQ"],
)
def test_another_program_is_told_from_micro_manager(
    answer: Callable[[bytes], bytes] | None,
) -> None:
    with stranger(answer) as port:
        found = probe(HOST, port, timeout_s=0.5)
    assert found.state == "stranger"
    assert "another program" in found.says
    assert "close" not in found.says


def test_a_bridge_that_works_for_another_caller_is_busy() -> None:
    with Standin() as standin, standin.microscope.blocking():
        found = probe(HOST, standin.port, timeout_s=0.5)
    assert found.state == "busy"
    assert "refocusd waits" in found.says
    assert "close" not in found.says


@pytest.mark.parametrize("reply", [b"hello", b"[1]", b'{"a": 1}', b"\xff\xfe"])
def test_a_zeromq_program_that_is_no_bridge_is_told_from_one(reply: bytes) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    server = context.socket(zmq.REP)
    port = server.bind_to_random_port(f"tcp://{HOST}")

    def serve() -> None:
        server.recv()
        server.send(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert probe(HOST, port).state == "stranger"
    finally:
        thread.join()
        server.close()
        context.term()


@pytest.mark.parametrize(
    ("version", "state"), [("4.9.9", "old"), ("5.0.0", "ready"), ("6.1", "ready")]
)
def test_versions_are_compared(version: str, state: str) -> None:
    with Standin(version=version) as standin:
        assert probe(HOST, standin.port).state == state


# -- rate limits ----------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.25
        self.now += seconds
        self.slept += seconds


def test_calls_keep_their_pace() -> None:
    clock = Clock()
    pace = Pace(100, 1e6, clock, clock.sleep)
    for _ in range(1000):
        pace.call(1)
    # 25 calls may come at once, 100 per second after that.
    assert clock.slept == pytest.approx(975 / 100, rel=0.01)
    assert pace.calls == 1000


def test_a_pause_does_not_save_up_calls() -> None:
    clock = Clock()
    pace = Pace(100, 1e6, clock, clock.sleep)
    clock.now += 3600
    for _ in range(125):
        pace.call(1)
    assert clock.slept == pytest.approx(1.0, rel=0.01)


def test_pixels_keep_their_share() -> None:
    clock = Clock()
    pace = Pace(100, 30e6, clock, clock.sleep)
    assert pace.until_pixels_s() == 0
    pace.pixels(8 << 20)
    assert pace.until_pixels_s() == pytest.approx((8 << 20) / 30e6)
    clock.now += 1
    assert pace.until_pixels_s() == 0


# -- values ---------------------------------------------------------------------------------


def test_property_maps_become_plain_values() -> None:
    text = json.dumps(
        {
            "format": "Micro-Manager Property Map",
            "map": {
                "Camera": {"type": "STRING", "scalar": "Demo"},
                "Binning": {"type": "INTEGER", "scalar": 2},
                "Names": {"type": "STRING", "array": ["a", "b"]},
                "ScopeData": {
                    "type": "PROPERTY_MAP",
                    "scalar": {"Camera-Gain": {"type": "STRING", "scalar": "1"}},
                },
            },
        }
    )
    assert flat_properties(text) == {
        "Camera": "Demo",
        "Binning": 2,
        "Names": ["a", "b"],
        "ScopeData": {"Camera-Gain": "1"},
    }


@pytest.mark.parametrize("text", [None, 7, "", "{", "[]", '"text"', '{"map": 3}'])
def test_what_is_no_property_map_is_empty(text: object) -> None:
    assert flat_properties(text) == {}


@pytest.mark.parametrize(
    ("pixels", "width", "height", "says"),
    [
        (np.zeros(32 * 32 * 4, np.uint8), 32, 32, "RGB"),
        (np.zeros(32 * 32, np.float32), 32, 32, "no 8 or 16 bit pixels"),
        (None, 32, 32, "no 8 or 16 bit pixels"),
        (np.zeros(32 * 32, np.uint16), None, 32, "has no size"),
        (np.zeros(8 * 8, np.uint16), 8, 8, "smallest side"),
    ],
)
def test_images_that_cannot_be_refocused_are_named(
    pixels: object, width: object, height: object, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        image_of(pixels, width, height, "the image")


def test_sizes_may_be_texts() -> None:
    assert image_of(np.arange(320, dtype=np.uint8), "20", "16", "x").shape == (16, 20)


def taken(box: GrowingBox) -> list[tuple[int, ...]]:
    return [tuple(found.values()) for found in iter(box.next, None)]


def test_a_box_names_what_is_new_once() -> None:
    box = GrowingBox()
    box.grow({"z": 2, "time": 1})
    assert taken(box) == [(0, 0), (0, 1)]
    box.grow({"z": 3, "time": 2})
    assert sorted(taken(box)) == [(0, 2), (1, 0), (1, 1), (1, 2)]
    box.grow({"z": 3, "time": 2})
    assert taken(box) == []


def test_a_box_with_a_new_axis_begins_anew() -> None:
    box = GrowingBox()
    box.grow({"time": 2})
    box.grow({"time": 2, "channel": 2})
    assert len(taken(box)) == 4


def test_a_box_takes_back_what_was_not_there() -> None:
    box = GrowingBox()
    box.grow({"time": 2})
    first = box.next()
    assert first == {"time": 0}
    box.put_back(first)
    assert taken(box) == [(1,), (0,)]


# -- what is started ------------------------------------------------------------------------


def test_the_bridge_has_a_process_of_its_own() -> None:
    both = orders(Settings(follow=["/data"]), "tcp://127.0.0.1:1")
    assert [order.name for order in both] == ["follow", "bridge"]
    assert both[0].sources == ["follow (/data)"]
    assert both[1].sources == ["studio (auto)", "live"]


def test_what_is_not_wanted_is_not_started() -> None:
    assert orders(Settings(studio="off", live=False), "tcp://127.0.0.1:1") == []
    [live] = orders(Settings(studio="off"), "tcp://127.0.0.1:1")
    assert live.sources == ["live"]


def test_folders_to_follow_come_from_flags_or_the_environment() -> None:
    parser = argparse.ArgumentParser()
    add_setting_flags(parser)
    arguments = parser.parse_args(["--follow", "a", "--follow", "b", "--studio", "off"])
    assert settings_of(arguments).follow == ["a", "b"]
    flags = daemon_flags(arguments)
    assert flags == ["--follow", "a", "--follow", "b", "--studio", "off"]
    environment = {"REFOCUSD_FOLLOW": '["c"]', "REFOCUSD_TEST_BRIDGE": "127.0.0.1:4827"}
    assert load_settings(None, {}, environment).follow == ["c"]


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="bridge_port = 0"):
        load_settings(None, {"bridge_port": 0}, {})
