"""The ring, the slots and the wire's headers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refocusd.errors import TransportError
from refocusd.frame import checksum
from refocusd.transport import messages as wire
from refocusd.transport.ring import PAGE, SharedRing, Slot, SlotAllocator

pytestmark = pytest.mark.fast

FACTS = wire.FrameFacts(100.0, 900.0, 3.0, 4.0, 0.1, 0.2, 1.01, 0, "trusted")
ENGINE = wire.Engines("openvino", "f32", "CPU", "key", "model", "0" * 64)
SLOT = Slot(PAGE, 512)
MESSAGES: list[wire.Message] = [
    wire.Hello(wire.PROTOCOL, "1.0", "source", 7, "token", inline=True),
    wire.Refused("because", "a"),
    wire.Ping(),
    wire.Open(
        "00000000-0000-4000-8000-000000000000",
        "name",
        512,
        512,
        "uint16",
        "/raw",
        "",
        "{}",
        10,
        report=True,
    ),
    wire.Opened("a", "run", "/raw_refocused"),
    wire.Credit("a", [SLOT, Slot(8192, 512)]),
    wire.Recall("a", [SLOT]),
    wire.GiveBack("a", [SLOT]),
    wire.Submit("a", '{"z":1}', SLOT, 2**64 - 1, "{}", 12, live=False),
    wire.Miss("a", ['{"z":1}'], "skipped", "no raw"),
    wire.Unseen("00000000-0000-4000-8000-000000000000", "cells is not refocused"),
    wire.Close("a", 3),
    wire.Closed("a", wire.Counts(2, 1, 1)),
    wire.Outcome("a", '{"z":1}', "failed", "why"),
    wire.Ready(ENGINE, 0.5),
    wire.Task(1, SLOT, 16, 16, "uint16", 5),
    wire.Result(1, 5, FACTS),
    wire.Failure(1, "why"),
    wire.StatusRequest(),
    wire.Status("1.0", 7, 1, ENGINE, {"a": wire.Counts()}, stopping=False),
    wire.Stop(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_as_it_was_sent(message: wire.Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x00",
        b"\xc1",
        b"not msgpack at all",
        msgspec.msgpack.encode({"type": "NoSuchMessage"}),
        msgspec.msgpack.encode({"type": "Ping", "surplus": 1}),
        msgspec.msgpack.encode({"type": "Miss", "acquisition": "a", "axes": ["z"] * 1001}),
        msgspec.msgpack.encode({"type": "Close", "acquisition": "a", "acquired": "three"}),
        b"\x91" * 5000,
    ],
)
def test_what_is_no_message_is_refused(header: bytes) -> None:
    with pytest.raises(TransportError, match="not a message"):
        wire.decode(header)


@given(st.sampled_from(MESSAGES), st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_damaged_header_is_refused_or_still_a_message(
    message: wire.Message, position: int, value: int
) -> None:
    header = bytearray(wire.encode(message))
    header[position % len(header)] = value
    with contextlib.suppress(TransportError):
        assert isinstance(wire.decode(bytes(header)), wire.Message)


def test_pixels_written_by_one_process_are_read_by_another() -> None:
    frame = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    with SharedRing.create(1 << 20) as ring:
        ring.view(PAGE, (64, 48), "uint16")[:] = frame
        script = (
            "import json, sys, msgspec\n"
            "from refocusd.transport.ring import *\nfrom refocusd.frame import checksum\n"
            "address = msgspec.json.decode(sys.argv[1], type=RingAddress)\n"
            "with SharedRing.attach(address) as ring:\n"
            "    view = ring.view(4096, (64, 48), 'uint16')\n"
            "    print(checksum(view))\n"
            "    view[0, 0] = 4242\n"
            "    del view\n"
        )
        address = msgspec.json.encode(ring.address).decode()
        command = [sys.executable, "-c", script, address]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert int(said) == checksum(frame)
        # The owner's block survives the reader's exit, and what the reader wrote is visible here.
        assert ring.view(PAGE, (64, 48), "uint16")[0, 0] == 4242


def test_a_ring_of_another_process_is_not_mistaken_for_ours() -> None:
    with SharedRing.create(1 << 16) as ring, SharedRing.create(1 << 16) as other:
        # On Windows, the name alone identifies the ring.
        wrong = {"tag": "0" * 32} if sys.platform == "win32" else {"handle": other.address.handle}
        swapped = msgspec.structs.replace(ring.address, **wrong)
        with pytest.raises(TransportError, match=r"another block|cannot be attached"):
            SharedRing.attach(swapped)


def test_a_ring_whose_owner_is_gone_cannot_be_attached() -> None:
    with SharedRing.create(1 << 16) as ring:
        address = ring.address
    with pytest.raises(TransportError):
        SharedRing.attach(address)


@pytest.mark.parametrize("offset", [0, PAGE - 1, 1 << 16, -PAGE])
def test_a_view_outside_the_ring_is_refused(offset: int) -> None:
    with SharedRing.create(1 << 16) as ring, pytest.raises(TransportError, match="outside"):
        ring.view(offset, (256, 256), "uint16")


@given(st.lists(st.one_of(st.integers(1, 200_000), st.none()), max_size=60))
@settings(max_examples=100, deadline=None)
def test_slots_never_overlap_and_all_memory_comes_back(steps: list[int | None]) -> None:
    """A number takes a slot of that many bytes; None gives back the oldest."""
    allocator = SlotAllocator(4 << 20)
    whole = allocator.free
    held: list[Slot] = []
    for step in steps:
        if step is None:
            if held:
                allocator.give(held.pop(0))
            continue
        slot = allocator.take(step)
        if slot is None:
            assert allocator.free < 4 << 20
            continue
        assert slot.offset >= PAGE
        assert slot.offset + slot.span <= 4 << 20
        for other in held:
            assert (
                slot.offset + slot.span <= other.offset or other.offset + other.span <= slot.offset
            )
        held.append(slot)
    for slot in held:
        allocator.give(slot)
    assert allocator.free == whole
    assert allocator.take((whole - PAGE) // 2 // PAGE * PAGE) is not None


def test_counts_say_how_many_are_final() -> None:
    counts = wire.Counts(10, 4, 2, 1, 1, 2)
    assert counts.final == 8
    assert json.loads(msgspec.json.encode(counts))["pending"] == 2
