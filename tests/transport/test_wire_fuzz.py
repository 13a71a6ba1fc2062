"""Whatever arrives at a socket is refused or understood; the daemon survives, without growing."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec
import psutil
import pytest
import zmq
from fuzzing import ROUNDS, STRANGE, Target, changed_tree, damaged, fuzz
from live import Upload, opened, pump_until, quick_settings, running, source, stack
from user_curve import as_daemon, as_peer

from refocusd import __version__
from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.errors import TransportError
from refocusd.processes.daemon_process import DaemonProcess
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.transport.ring import PAGE, SharedRing, Slot
from refocusd.transport.session import State

# -- one good message of each kind -------------------------------------------------------


def example(kind: Any) -> Any:
    """A plain value for a field of this type."""
    match kind:
        case msgspec.inspect.LiteralType():
            return kind.values[0]
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return 64 if kind.ge is None else max(64, kind.ge)
        case msgspec.inspect.FloatType():
            return 0.5
        case msgspec.inspect.BytesType():
            return b"\x14"
        case msgspec.inspect.StrType():
            return "00000000-0000-4000-8000-000000000000" if kind.pattern else "{}"
        case msgspec.inspect.ListType():
            return [example(kind.item_type)]
        case msgspec.inspect.DictType():
            return {example(kind.key_type): example(kind.value_type)}
        case msgspec.inspect.UnionType():
            return next(
                example(t) for t in kind.types if not isinstance(t, msgspec.inspect.NoneType)
            )
        case msgspec.inspect.StructType() if kind.array_like:
            return [example(f.type) for f in kind.fields]
        case msgspec.inspect.StructType():
            values = {f.encode_name: example(f.type) for f in kind.fields}
            return values | ({"type": kind.tag} if kind.tag else {})
    raise AssertionError(f"a field of {kind} is new: say what it takes")


def examples() -> dict[str, dict[str, Any]]:
    """A plain, valid message of every kind in the protocol."""
    kinds = [kind for kind in wire.Message.__subclasses__() if kind.__module__ == wire.__name__]
    return {kind.__name__: example(msgspec.inspect.type_info(kind)) for kind in kinds}


#: The strange values that msgpack can encode: integers up to 64 bits.
MSGPACK_STRANGE = (*STRANGE, b"bytes", b"\xff" * 100, 2**64 - 1)


def mutated_header(header: bytes, rng: Random) -> bytes:
    """A message with damaged bytes or changed fields."""
    if rng.random() < 0.4:
        return damaged(header, rng)
    tree = changed_tree(msgspec.msgpack.decode(header), rng, MSGPACK_STRANGE)
    if rng.random() < 0.1 and "type" in tree:
        tree["type"] = rng.choice(sorted(examples()))
    try:
        return msgspec.msgpack.encode(tree)
    except (OverflowError, TypeError):  # an integer that grew out of msgpack's range
        return damaged(header, rng)


def _header_target(_: Path) -> Target:
    seeds = [msgspec.msgpack.encode(message) for message in examples().values()]

    def feed(data: bytes) -> str:
        assert isinstance(wire.decode(data), wire.Message)
        return "message"

    return Target("message header", seeds, mutated_header, feed, nbytes=1 << 20)


def _ring_target(_: Path) -> Target:
    """Rings that a false daemon offers; only blocks of this process are named."""
    rings = [SharedRing.create(1 << 16)]  # lives as long as the target
    address = rings[0].address

    def mutate(content: bytes, rng: Random) -> bytes:
        said = changed_tree(msgspec.json.decode(content), rng, MSGPACK_STRANGE)
        said["pid"] = rng.choice((os.getpid(), os.getpid(), 0, -1, 2**31 - 1))
        try:
            return msgspec.msgpack.encode(said)
        except OverflowError:
            return msgspec.msgpack.encode({**said, "nbytes": 2**63})

    def feed(data: bytes) -> str:
        try:
            said = msgspec.msgpack.decode(data, type=type(address))
        except msgspec.MsgspecError:
            return "not an address"
        with SharedRing.attach(said) as ring:
            assert ring.address.tag == address.tag
        return "attached"

    return Target("ring address", [msgspec.json.encode(address)], mutate, feed)


# -- conversations -----------------------------------------------------------------------

Role = Literal["nobody", "source", "control", "view", "worker"]
ROLES: tuple[Role, ...] = ("nobody", "source", "control", "view", "worker")
#: Messages of one conversation.
MESSAGES = 40
SIDE = 64


@dataclass
class Garbler:
    """A malicious peer: it says hello correctly, and then anything.

    Parameters
    ----------
    daemon : Daemon
    folder : Path
        Folder for the outputs that it requests.
    """

    daemon: Daemon
    folder: Path
    refused: int = 0
    sent: int = 0
    _count: Iterator[int] = field(default_factory=itertools.count)

    def talk(self, role: Role, rng: Random) -> None:
        """Hold one conversation: valid messages, most of them damaged, repeated or out of order."""
        context = zmq.Context()
        try:
            peer = context.socket(zmq.DEALER)
            peer.setsockopt(zmq.LINGER, 0)
            as_peer(peer)
            peer.connect(self.daemon.endpoint)
            if role != "nobody":
                hello = wire.Hello(wire.PROTOCOL, __version__, role, os.getpid(), self._token(role))
                peer.send(wire.encode(hello))
                assert peer.poll(10_000), "a good hello is answered whatever came before"
                assert isinstance(wire.decode(peer.recv()), wire.Welcome)
            good = self._good(role, peer, rng)
            for _ in range(MESSAGES):
                peer.send_multipart(self._garbled(good, rng))
                self.sent += 1
            # The last message is answered as well, unless it changed the identity of this peer.
            while peer.poll(20):
                self.refused += b"Refused" in peer.recv_multipart()[0]
        finally:
            context.destroy(linger=200)

    def _token(self, role: Role) -> str:
        # A worker gone mad knows the daemon's token.
        return self.daemon._broker._peers._token if role == "worker" else "guessed"

    def _good(self, role: Role, peer: Any, rng: Random) -> list[bytes]:
        """Valid messages, as many of them as possible about an open acquisition."""
        acquisition = str(uuid.UUID(int=rng.getrandbits(128)))
        output = str(self.folder / f"garbled-{next(self._count)}")
        opening = wire.Open(acquisition, "g", SIDE, SIDE, "uint16", "", output, "{}", report=True)
        slots = [Slot(PAGE, 2 * SIDE * SIDE)]
        if role == "source" and rng.random() < 0.7:
            peer.send(wire.encode(opening))
            while peer.poll(5000):
                answer = wire.decode(peer.recv())
                if isinstance(answer, wire.Credit):
                    slots = answer.slots
                    break
        axes = '{"z":0}'
        said: list[wire.Message] = [
            opening,
            *(
                wire.Submit(acquisition, axes, slot, 5, "{}", time.perf_counter_ns())
                for slot in slots
            ),
            wire.Miss(acquisition, [axes, '{"z":1}'], "skipped", "why"),
            wire.Ping(),
        ]
        if role != "source":
            said += [wire.Failure(number, "why") for number in (0, 1, 2)]
            said += [wire.StatusRequest(), wire.Look(0)]
        others = [
            msgspec.msgpack.encode(tree)
            for name, tree in examples().items()
            # A message that makes it a worker or stops the daemon does not count as garbled.
            if name not in ("Hello", "Ready", "Stop", "Pause", "CatchUp")
        ]
        # Most messages are of kinds that this role may send.
        return [wire.encode(message) for message in said] * 9 + others

    @staticmethod
    def _garbled(good: list[bytes], rng: Random) -> list[bytes]:
        header = rng.choice(good)
        while True:
            chosen = header if rng.random() < 0.3 else mutated_header(header, rng)
            try:
                harmless = not isinstance(
                    wire.decode(chosen),
                    (wire.Hello, wire.Ready, wire.Stop, wire.Pause, wire.CatchUp),
                )
            except TransportError:
                harmless = True
            if harmless:
                break
        parts = [chosen] * (rng.randint(2, 5) if rng.random() < 0.1 else 1)
        if rng.random() < 0.3:
            parts.append(rng.randbytes(rng.choice((0, 1, 2 * SIDE * SIDE, 5000, 1 << 16))))
        return parts if rng.random() < 0.98 else [b""]


@contextmanager
def garbled(tmp_path: Path) -> Iterator[tuple[Daemon, Garbler]]:
    """A daemon that forgets lost sources quickly, and a malicious peer."""
    settings = quick_settings(tmp_path, source_timeout_s=1, ring_mib=16)
    with running(settings) as daemon:
        yield daemon, Garbler(daemon, tmp_path)


def healthy_frame(upload: Upload, outcomes: list[wire.Outcome], number: int) -> None:
    """Check that a well-behaved source gets a frame through."""
    pump_until(upload, lambda: upload.credit > 0)
    axes = f'{{"time":{number}}}'
    assert upload.submit(stack(1)[0], axes, "{}", time.perf_counter_ns())
    pump_until(upload, lambda: any(outcome.axes == axes for outcome in outcomes))


#: Targets for `benchmarks/faults/fuzz.py`; conversations are in `fuzz_daemon`.
TARGETS: dict[str, Callable[[Path], Target]] = {
    "message header": _header_target,
    "ring address": _ring_target,
}


def fuzz_daemon(folder: Path, rounds: int, seed: int = 0) -> dict[str, float]:
    """Hold conversations in every role with one daemon, while a healthy source keeps working.

    Returns
    -------
    dict
        ``messages`` and ``refusals``; ``rss_growth_mib`` of daemon and test after the
        first fifth, by when all one-time allocations have been made.
    """
    process = psutil.Process()
    outcomes: list[wire.Outcome] = []
    rss = peers = 0
    with garbled(folder) as (daemon, garbler), source(daemon) as connection:
        upload = opened(connection, folder / "healthy")
        upload._on_outcome = outcomes.append
        for number in range(rounds):
            rng = Random(f"daemon {seed} {number}")
            garbler.talk(ROLES[number % len(ROLES)], rng)
            healthy_frame(upload, outcomes, number)
            status = daemon_status(daemon.endpoint)
            assert status.workers == 1
            assert not status.stopping
            if number == rounds // 5:
                rss = process.memory_info().rss
            peers = max(peers, len(daemon._broker._peers))
        growth = process.memory_info().rss - rss
        upload.close(rounds)
        pump_until(upload, lambda: upload.closed)
    assert upload.closed is not None
    assert upload.closed.counts == wire.Counts(acquired=rounds, passed_through=rounds)
    return {
        "messages": garbler.sent,
        "refusals": garbler.refused,
        "rss_growth_mib": growth / 2**20,
        "most_peers": peers,
    }


# -- tests -------------------------------------------------------------------------------


def test_there_is_a_good_message_of_every_kind() -> None:
    for name, tree in examples().items():
        assert type(wire.decode(msgspec.msgpack.encode(tree))).__name__ == name
    assert len(examples()) >= 20


@pytest.mark.parametrize("kind", ["message header", "ring address"])
def test_a_damaged_message_is_refused_or_still_a_message(tmp_path: Path, kind: str) -> None:
    report = fuzz(TARGETS[kind](tmp_path), 20 * ROUNDS)
    assert not report.defects
    assert report.share("TransportError") > 0.1
    assert report.share("TransportError") < 1


def test_a_daemon_answers_good_peers_whatever_others_send(tmp_path: Path) -> None:
    rounds = max(10, ROUNDS // 4)
    found = fuzz_daemon(tmp_path, rounds)
    assert found["messages"] == rounds * MESSAGES
    assert found["refusals"] > found["messages"] / 10
    assert found["rss_growth_mib"] < 48


def test_peers_that_come_and_go_do_not_shut_out_the_next(tmp_path: Path) -> None:
    """A script that requests the status ten times a second is a new peer each time."""
    with running(quick_settings(tmp_path)) as daemon:
        for _ in range(300):
            assert daemon_status(daemon.endpoint).workers == 1


FLOOD = """
import sys, zmq
from refocusd.transport.secure.user_keys import own_keys
socket, keys = zmq.Context().socket(zmq.DEALER), own_keys()
socket.curve_publickey, socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
socket.curve_serverkey = keys.server.encode()
socket.connect(sys.argv[1])
socket.send(bytes(int(sys.argv[2]) << 20), copy=False)
socket.send(b"end")
# What was too large for the daemon is told by the end of the connection, the rest by an answer.
print(socket.poll(1000))
socket.close(linger=0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_message_larger_than_any_frame_takes_no_memory(tmp_path: Path) -> None:
    flags = ["--backend", "identity", "--ring-mib", "16", "--ledgers", str(tmp_path / "ledgers")]
    with DaemonProcess(flags, tmp_path / "log") as daemon:
        before = peak_mib(daemon.process.pid)
        command = [sys.executable, "-c", FLOOD, daemon.endpoint, "160"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        assert daemon_status(daemon.endpoint).workers == 1
        assert peak_mib(daemon.process.pid) - before < 64


def peak_mib(pid: int) -> float:
    """Peak memory of a process in MiB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the system does not tell")


def test_a_false_daemon_ends_an_upload_with_one_clear_error(tmp_path: Path) -> None:
    """The other direction: whoever listens at the port sends nonsense to a client."""
    context = zmq.Context()
    server = context.socket(zmq.ROUTER)
    as_daemon(server)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    good = [msgspec.msgpack.encode(tree) for tree in examples().values()]
    rng = Random("false daemon")
    told = 0
    try:
        for _ in range(max(20, ROUNDS // 2)):
            with Connection(f"tcp://127.0.0.1:{port}", "source", inline=True) as connection:
                identity, _hello = server.recv_multipart()
                for _ in range(10):
                    server.send_multipart([identity, mutated_header(rng.choice(good), rng)])
                open_ = wire.Open(str(uuid.uuid4()), "n", SIDE, SIDE, "uint16", "", "o", "{}")
                upload = Upload(connection, open_)
                while upload.pump(0.02):
                    upload.submit(stack(1)[0], '{"z":0}', "{}", 0)
                told += upload.state is State.LOST and "not a message" in upload.reason
            while server.poll(0):
                server.recv_multipart()
    finally:
        context.destroy(linger=0)
    assert told > 5
