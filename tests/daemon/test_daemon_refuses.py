"""What the daemon refuses, each with one clear error, after which it continues to work."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
import zmq
from live import (
    NOBODY,
    opened,
    pump_until,
    quick_settings,
    running,
    source,
    stack,
)

from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.errors import BundleError, InputError, TransportError, WorkerError
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.transport.ring import Slot


def test_a_second_daemon_on_the_port_is_told_who_has_it(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon:
        settings = quick_settings(tmp_path, endpoint=daemon.endpoint)
        with (
            pytest.raises(TransportError, match=f"process {os.getpid()}.*--stop"),
            Daemon(settings),
        ):
            pass


def test_a_port_of_another_program_is_recognised(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = quick_settings(tmp_path, endpoint=f"tcp://127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(TransportError, match="another program"), Daemon(settings):
            pass


def test_a_port_that_windows_reserves_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = zmq.Socket.bind

    def refused(self: zmq.Socket[bytes], address: str) -> object:
        if address.startswith("tcp:"):
            raise zmq.ZMQError(errno.EACCES)
        return bind(self, address)

    monkeypatch.setattr(zmq.Socket, "bind", refused)
    with (
        pytest.raises(TransportError, match=r"another port.*excludedportrange"),
        Daemon(quick_settings(tmp_path)),
    ):
        pass


def test_no_daemon_is_reported_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        Connection(f"tcp://127.0.0.1:{port}", "source") as connection,
        pytest.raises(TransportError, match="refocusd run"),
    ):
        connection.welcome(0.3)


def test_a_missing_model_is_reported_before_any_work(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, backend="auto", model=str(tmp_path / "absent"))
    with pytest.raises(BundleError, match="no model bundle at"), Daemon(settings):
        pass


def test_a_model_that_no_runtime_takes_ends_the_daemon_with_the_reason(tmp_path: Path) -> None:
    import hashlib

    bundle = tmp_path / "broken"
    bundle.mkdir()
    (bundle / "model.onnx").write_bytes(b"this is no network")
    sha256 = hashlib.sha256(b"this is no network").hexdigest()
    (bundle / "rdf.yaml").write_text(
        "config:\n  refocusd:\n    schema: 1\n    id: broken\n    size_multiple: 32\n"
        "    receptive_field_px: 8\n    normalisation: {low_percentile: 1, high_percentile: 99}\n"
        f"    files: {{model.onnx: {sha256}}}\n"
    )
    settings = quick_settings(tmp_path, backend="openvino", model=str(bundle))
    with pytest.raises(WorkerError, match="3 times"), running(settings):
        pass


def test_an_output_that_exists_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("data")
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
    assert "exists" in upload.refused
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["precious"]


def test_too_little_disk_is_reported_before_the_first_frame(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out", expected=10**12)
    assert "GiB" in upload.refused
    assert not (tmp_path / "out").exists()


def test_a_frame_larger_than_the_ring_is_refused_by_name(tmp_path: Path) -> None:
    with (
        running(quick_settings(tmp_path, ring_mib=1)) as daemon,
        source(daemon) as connection,
    ):
        upload = opened(connection, tmp_path / "out", side=1024)
    assert "ring_mib" in upload.refused


def test_a_frame_of_another_shape_is_refused_at_the_source(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        with pytest.raises(InputError, match="ROI, binning"):
            upload.submit(stack(1, side=32)[0], '{"z":0}', "{}", 0)


def test_a_peer_of_another_protocol_is_told_which_side_to_upgrade(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        connection.send(wire.Hello(wire.PROTOCOL + 1, "9.9", "source", 1))
        refused = connection.receive(5.0)
    assert isinstance(refused, wire.Refused)
    assert "upgrade the daemon" in refused.reason


@pytest.mark.parametrize(
    "message",
    [
        wire.Submit("nobody", '{"z":0}', Slot(4096, 8192), 0, "{}", 0),
        wire.Close("nobody", 1),
        wire.Ready(wire.Engines("x", "x", "x", "x", "x", "x"), 0.0),
        wire.Stop(),
        wire.Open(NOBODY, "n", 2, 2, "uint16", "", "/tmp/x", "{}"),
        wire.Open(NOBODY, "n", 64, 64, "uint16", "", "", "{}"),
        wire.Open("../../escaped", "n", 64, 64, "uint16", "", "/tmp/x", "{}"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_what_a_source_may_not_say_is_refused_and_the_daemon_lives(
    tmp_path: Path, message: wire.Message
) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        connection.send(message)
        assert isinstance(connection.receive(5.0), wire.Refused)
        assert daemon_status(daemon.endpoint).workers == 1


def test_a_slot_that_was_not_granted_cannot_be_filled(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out")
        stolen = wire.Submit(upload.acquisition, '{"z":0}', Slot(4096 * 999, 8192), 0, "{}", 0)
        connection.send(stolen)
        pump_until(upload, lambda: upload.refused)
    assert "not yours" in upload.refused


def test_a_worker_that_the_daemon_did_not_start_is_refused(tmp_path: Path) -> None:
    with (
        running(quick_settings(tmp_path)) as daemon,
        Connection(daemon.endpoint, "worker", token="guess") as connection,
        pytest.raises(TransportError, match="started by this daemon"),
    ):
        connection.welcome(5.0)


def test_pixels_that_changed_on_their_way_fail_by_name(tmp_path: Path) -> None:
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        outcomes: list[wire.Outcome] = []
        upload = opened(connection, tmp_path / "out")
        upload._on_outcome = outcomes.append
        slot = upload._slots.popleft()
        submit = wire.Submit(upload.acquisition, '{"z":0}', slot, 12345, "{}", 0)
        connection.send(submit)
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
    (outcome,) = outcomes
    assert outcome.state == "failed"
    assert "checksum" in outcome.reason
    assert upload.closed is not None
    assert upload.closed.counts.failed == 1
    assert daemon.unfinished == 1


def test_folders_of_an_acquisition_are_absolute_and_the_output_is_not_in_raw(
    tmp_path: Path,
) -> None:
    raw = tmp_path / "raw"
    with running(quick_settings(tmp_path)) as daemon, source(daemon) as connection:
        relative = opened(connection, Path("somewhere"))
        assert "is not an absolute path" in relative.refused
        within = opened(connection, raw / "refocused", raw=str(raw))
        assert "lies in the raw dataset" in within.refused
    assert not Path("somewhere").exists()
