"""A worker process on "another host": through a proxy, over a second loopback address."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from house import House, open_house
from numpy.typing import NDArray
from proxy import Proxy
from waiting import PATIENCE_S

from refocusd.demo.specimen import Specimen
from refocusd.engines.engine import EngineDescription, Refocused
from refocusd.frame import Pixels, checksum
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.transport.ring import Slot
from refocusd.transport.secure.keys import load_client_keys
from refocusd.worker.worker import serve

SIDE = 256


def frame(seed: int) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(100, 4000, (SIDE, SIDE), dtype=np.uint16)


def task(number: int, pixels: Pixels) -> list[bytes | memoryview]:
    height, width = pixels.shape
    header = wire.Task(number, Slot(0, pixels.nbytes), height, width, "uint16", checksum(pixels))
    return [wire.encode(header), pixels.data.cast("B")]


class Host:
    """The broker's side of these tests."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.ready: list[bytes] = []
        self.answers: dict[int, tuple[wire.Message, bytes]] = {}

    def turn(self) -> None:
        for identity, parts in self.house.turn():
            message = wire.decode(parts[0])
            if isinstance(message, wire.Ready):
                self.ready.append(identity)
            elif isinstance(message, wire.Ping):
                self.house.endpoints.send(identity, [wire.encode(wire.Ping())])
            elif isinstance(message, (wire.Result, wire.Failure)):
                self.answers[message.task] = (message, parts[1] if len(parts) > 1 else b"")

    def until(self, done: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, "nothing came in time"
            self.turn()

    def next_worker(self) -> bytes:
        """Waits for the next one that is ready."""
        before = len(self.ready)
        self.until(lambda: len(self.ready) > before)
        return self.ready[-1]

    def refocus(self, worker: bytes, number: int) -> None:
        """One frame there and back, as it is."""
        pixels = frame(number)
        assert self.house.endpoints.send(worker, task(number, pixels), copy=False)
        self.until(lambda: number in self.answers)
        message, answer = self.answers[number]
        assert isinstance(message, wire.Result), message
        assert message.checksum == checksum(np.frombuffer(answer, np.uint8))
        assert answer == pixels.tobytes()

    def stop(self, worker: bytes) -> None:
        self.house.endpoints.send(worker, [wire.encode(wire.Stop())])


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with open_house(tmp_path, handshake_s=5.0) as house:
        yield Host(house)


@contextmanager
def worker_process(endpoint: str, key_file: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "refocusd", "worker", "--connect", endpoint]
    command += ["--keys", str(key_file), "--backend", "identity", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def ended(process: subprocess.Popen[str], host: Host) -> tuple[int, str]:
    """Exit status and log of a worker that is about to end."""
    host.until(lambda: process.poll() is not None)
    _, said = process.communicate()
    return process.returncode, said


@pytest.fixture
def key_file(host: Host, tmp_path: Path) -> Path:
    host.house.key("gpu-2")
    return tmp_path / "gpu-2.key"


def test_frames_go_there_and_back_and_a_cut_link_is_made_again(host: Host, key_file: Path) -> None:
    with (
        Proxy(host.house.endpoints.remote_endpoint) as proxy,
        worker_process(proxy.endpoint, key_file) as process,
    ):
        first = host.next_worker()
        for number in range(8):
            host.refocus(first, number)
        proxy.cut()
        second = host.next_worker()
        assert "connection ended" in host.house.gone[first]
        host.refocus(second, 100)
        # A task in the middle of its way is lost with the link; the next one is not.
        proxy.delay_s = 0.3
        host.house.endpoints.send(second, task(200, frame(200)))
        proxy.cut()
        proxy.delay_s = 0.0
        third = host.next_worker()
        host.refocus(third, 201)
        assert 200 not in host.answers
        assert len({first, second, third}) == 3
        assert process.poll() is None


def test_a_line_that_swallows_everything_is_noticed_by_both_sides(
    host: Host, key_file: Path
) -> None:
    with (
        Proxy(host.house.endpoints.remote_endpoint) as proxy,
        worker_process(proxy.endpoint, key_file),
    ):
        host.refocus(host.next_worker(), 1)
        proxy.mode = "half open"
        begun = time.monotonic()
        # The worker gives up first, and tries new connections, which the proxy takes
        # once the line is mended.
        while time.monotonic() - begun < 6.5:
            host.turn()
        proxy.mode = "open"
        host.refocus(host.next_worker(), 2)
        assert time.monotonic() - begun < 30


def test_a_slow_line_changes_nothing(host: Host, key_file: Path) -> None:
    with (
        Proxy(host.house.endpoints.remote_endpoint) as proxy,
        worker_process(proxy.endpoint, key_file),
    ):
        proxy.delay_s = 0.2
        worker = host.next_worker()
        for number in range(3):
            host.refocus(worker, number)
        assert host.house.gone == {}


def test_a_daemon_that_is_restarted_is_found_again(
    host: Host, key_file: Path, tmp_path: Path
) -> None:
    address = host.house.endpoints.remote_endpoint
    with worker_process(address, key_file):
        host.refocus(host.next_worker(), 1)
        host.house.close()
        with open_house(tmp_path, address=address) as house:
            again = Host(house)
            again.refocus(again.next_worker(), 2)


def test_a_worker_started_before_its_daemon_waits_for_it(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.key("gpu-2")
        address = house.endpoints.remote_endpoint
    with worker_process(address, tmp_path / "gpu-2.key") as process:
        assert process.stderr is not None
        said = ""
        while "connecting to" not in said:
            said = process.stderr.readline()
            assert said, "the worker ended"
        with open_house(tmp_path, address=address) as house:
            host = Host(house)
            host.refocus(host.next_worker(), 1)


def test_a_revoked_worker_ends_and_says_why(host: Host, key_file: Path) -> None:
    with worker_process(host.house.endpoints.remote_endpoint, key_file) as process:
        host.next_worker()
        host.house.store.revoke("gpu-2")
        status, said = ended(process, host)
    assert status == 2
    assert "does not accept the key gpu-2" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_worker_that_is_asked_to_serve_once_ends_with_its_daemon(
    host: Host, key_file: Path
) -> None:
    with worker_process(host.house.endpoints.remote_endpoint, key_file, "--once") as process:
        host.stop(host.next_worker())
        status, said = ended(process, host)
    assert status == 0, said


def test_a_worker_that_is_told_to_stop_comes_back(host: Host, key_file: Path) -> None:
    with worker_process(host.house.endpoints.remote_endpoint, key_file):
        host.stop(host.next_worker())
        host.refocus(host.next_worker(), 1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals to send")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "alone"])
def test_a_signal_ends_a_worker_cleanly(
    host: Host, key_file: Path, name: str, connected: bool
) -> None:
    endpoint = host.house.endpoints.remote_endpoint if connected else "tcp://127.0.0.1:9"
    with worker_process(endpoint, key_file) as process:
        if connected:
            worker = host.next_worker()
        else:
            _wait_for_handlers(process.pid)
        os.kill(process.pid, getattr(signal, name))
        begun = time.monotonic()
        status, said = ended(process, host)
        assert time.monotonic() - begun < 30
    assert status == 0, said
    assert "Traceback" not in said
    if connected:
        host.until(lambda: worker in host.house.gone)


def _wait_for_handlers(pid: int) -> None:
    """Until the process handles SIGTERM itself."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:") and int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
                return
        time.sleep(0.02)
    raise AssertionError("the worker does not handle signals")


@pytest.mark.parametrize("what", ["missing", "garbage"])
def test_a_bad_key_file_is_told_before_any_work(tmp_path: Path, what: str) -> None:
    path = tmp_path / "bad.key"
    if what == "garbage":
        path.write_text("x")
        path.chmod(0o600)
    with worker_process("tcp://127.0.0.1:9", path) as process:
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert str(path) in said
    assert said.count("\n") == 1


def test_pixels_that_changed_on_their_way_are_a_failure(host: Host, key_file: Path) -> None:
    with worker_process(host.house.endpoints.remote_endpoint, key_file):
        worker = host.next_worker()
        header, _ = task(1, frame(1))
        host.house.endpoints.send(worker, [header, frame(2).data.cast("B")])
        host.until(lambda: 1 in host.answers)
        answer, _ = host.answers[1]
        assert isinstance(answer, wire.Failure)
        assert "checksum" in answer.reason
        header, _ = task(2, frame(2))
        host.house.endpoints.send(worker, [header, frame(2).data.cast("B")[:-2]])
        host.until(lambda: 2 in host.answers)
        answer, _ = host.answers[2]
        assert isinstance(answer, wire.Failure)
        host.refocus(worker, 3)


def test_results_that_wait_for_the_line_are_not_overwritten(host: Host, key_file: Path) -> None:
    """The worker uses its memory again: only what has left."""
    with (
        Proxy(host.house.endpoints.remote_endpoint) as proxy,
        worker_process(proxy.endpoint, key_file),
    ):
        worker = host.next_worker()
        proxy.delay_s = 0.2
        frames = {number: frame(number) for number in range(20)}
        for number, pixels in frames.items():
            assert host.house.endpoints.send(worker, task(number, pixels), copy=False)
        host.until(lambda: len(host.answers) == 20)
        for number, pixels in frames.items():
            assert host.answers[number][1] == pixels.tobytes(), number


class OutOfMemory:
    """An engine that a frame is too large for."""

    description = EngineDescription("openvino", "f32", "CPU", "", "", "")

    def warm_up(self, shape: tuple[int, int]) -> None:
        pass

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        raise MemoryError

    def close(self) -> None:
        pass


def test_running_out_of_memory_ends_the_worker_and_is_no_failure_of_the_frame(
    host: Host, key_file: Path
) -> None:
    keys = load_client_keys(key_file)
    with Connection(host.house.endpoints.remote_endpoint, "worker", inline=True, keys=keys) as one:
        (identity,) = host.house.hello()
        one.welcome(5)
        blurred = Specimen().frame("DAPI", 16.0, 10.0, np.random.default_rng(0))
        something = np.ascontiguousarray(blurred[:SIDE, :SIDE])
        host.house.endpoints.send(identity, task(1, something))
        with pytest.raises(MemoryError):
            serve(one, {"": OutOfMemory()}, pass_in_focus=True)
    host.until(lambda: identity in host.house.gone)
    assert host.answers == {}
