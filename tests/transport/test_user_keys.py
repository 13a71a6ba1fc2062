"""The local endpoint accepts only programs of the daemon's own user."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from live import opened, pump_until, quick_settings, running, source, stack
from user_curve import as_daemon
from waiting import PATIENCE_S, until

from refocusd import __version__
from refocusd.cli.main import main
from refocusd.config import Settings
from refocusd.daemon.daemon import Daemon, daemon_status, stop_daemon
from refocusd.errors import TransportError
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection
from refocusd.transport.secure.keys import load_client_keys
from refocusd.transport.secure.user_keys import (
    FOLDER_VARIABLE,
    KEY_VARIABLE,
    own_keys,
    user_store,
)

ROLES: list[wire.Role] = ["source", "worker", "control", "view"]


def without_workers(folder: Path) -> Settings:
    """Settings without workers, because most of these tests submit no frame."""
    return quick_settings(folder, workers=0, listen="tcp://127.0.0.2:0", keys=str(folder / "keys"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(without_workers(tmp_path)) as daemon:
        yield daemon


@pytest.fixture
def as_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the keys of somebody else for the rest of the test."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "of-another-user"))


def test_the_secret_is_for_its_user_alone() -> None:
    own_keys()
    (file,) = user_store().folder.glob("server.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 or sys.platform == "win32"
    assert own_keys() == own_keys()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_a_secret_that_others_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "keys"))
    own_keys()
    (tmp_path / "keys" / "server.json").chmod(0o644)
    with pytest.raises(TransportError, match=f"chmod 600.*{FOLDER_VARIABLE}"):
        Connection("tcp://127.0.0.1:1", "source")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks no environment for the folder")
def test_the_place_of_the_secret_does_not_depend_on_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal inside an IDE may have other folders, but its scripts belong to the same user."""
    monkeypatch.delenv(FOLDER_VARIABLE)
    before = user_store().folder
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    assert user_store().folder == before


def wait_refused(connection: Connection, words: str) -> None:
    """Wait until the connection is refused with these words; before, nobody has answered."""

    def refused() -> bool:
        with pytest.raises(TransportError) as told:
            connection.welcome(1.0)
        return re.search(words, str(told.value)) is not None

    until(refused, words)


@pytest.mark.parametrize("role", ROLES)
def test_another_user_is_taken_in_no_role(
    daemon: Daemon, role: wire.Role, as_another_user: None
) -> None:
    with Connection(daemon.endpoint, role, inline=True, version=__version__) as connection:
        wait_refused(connection, "not a daemon of your user.*refocusd keys share")


def test_a_program_without_a_key_is_not_heard_and_the_log_says_so(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    """Like refocusd 0.1.0, or with a self-made key, which anyone can have."""
    caplog.set_level("INFO")
    public, secret = zmq.curve_keypair()
    with zmq.Context() as context:
        for made_key in (False, True):
            with context.socket(zmq.DEALER) as peer:
                peer.linger = 0
                if made_key:
                    peer.curve_publickey, peer.curve_secretkey = public, secret
                    peer.curve_serverkey = own_keys().server.encode()
                peer.connect(daemon.endpoint)
                hello = wire.Hello(wire.PROTOCOL, __version__, "control", 1, "", inline=True)
                peer.send(wire.encode(hello))
                peer.send(wire.encode(wire.Stop()))
                deadline = time.monotonic() + PATIENCE_S
                while "was refused" not in caplog.text:
                    assert time.monotonic() < deadline
                    assert not peer.poll(50)
            caplog.clear()
            daemon._endpoints._local._said_at = -60.0
    assert not daemon_status(daemon.endpoint).stopping


def test_a_false_daemon_gets_nothing(as_another_user: None) -> None:
    """Otherwise whoever is first at the port could collect frames, and even the secret."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as false:
        as_daemon(false)
        port = false.bind_to_random_port("tcp://127.0.0.1")
        os.environ[FOLDER_VARIABLE] += "-2"
        with (
            Connection(f"tcp://127.0.0.1:{port}", "source") as connection,
            pytest.raises(TransportError, match="not a daemon of your user"),
        ):
            connection.welcome(1.0)
        assert not false.poll(0)


def test_scripts_of_another_user_work_with_a_shared_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "bert.refocusd-key"
    assert main(["keys", "share", "Bert", "--output", str(key)]) == 0
    with running(quick_settings(tmp_path)) as daemon, monkeypatch.context() as anna:
        anna.setenv(FOLDER_VARIABLE, str(tmp_path / "of-anna"))
        anna.setenv(KEY_VARIABLE, str(key))
        assert daemon_status(daemon.endpoint).workers == 1
        with source(daemon, inline=True) as connection:
            upload = opened(connection, tmp_path / "out")
            upload.submit(stack(1)[0], '{"time":0}', "{}", time.perf_counter_ns())
            upload.close(1)
            pump_until(upload, lambda: upload.closed)
            assert upload.closed is not None
            assert upload.closed.counts == wire.Counts(acquired=1, passed_through=1)
        with (
            Connection(daemon.endpoint, "worker", inline=True) as connection,
            pytest.raises(TransportError, match="must be started by this daemon"),
        ):
            connection.welcome(PATIENCE_S)


def test_a_shared_key_that_is_revoked_is_not_listened_to_any_more(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "anna.refocusd-key"
    assert main(["keys", "share", "anna", "--output", str(key)]) == 0
    with monkeypatch.context() as anna:
        with Connection(daemon.endpoint, "control", inline=True) as own:
            own.welcome(PATIENCE_S)
        anna.setenv(KEY_VARIABLE, str(key))
        with Connection(daemon.endpoint, "control", inline=True) as connected:
            connected.welcome(PATIENCE_S)
            assert main(["keys", "revoke", "--shared", "anna"]) == 0
            deadline = time.monotonic() + PATIENCE_S
            heard = True
            while heard:
                assert time.monotonic() < deadline, "a revoked key is still listened to"
                connected.send(wire.Ping())
                heard = connected.receive(0.5) is not None
            with pytest.raises(TransportError, match="does not accept the key anna"):
                daemon_status(daemon.endpoint)
    assert daemon_status(daemon.endpoint).workers == 0


def test_a_daemon_uses_its_own_users_key_whatever_was_shared_with_him(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "gone.refocusd-key"))
    with running(quick_settings(tmp_path)) as daemon:
        assert daemon_status(daemon.endpoint).workers == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_ring_is_for_its_user_alone(daemon: Daemon) -> None:
    address = daemon._ring.address
    mode = Path(f"/proc/{address.pid}/fd/{address.handle}").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


OTHER_USER = """
import os, sys
from refocusd.daemon.daemon import daemon_status, stop_daemon
from refocusd.errors import TransportError
os.setgroups([]); os.setgid(65534); os.setuid(65534)
endpoint, address = sys.argv[1], sys.argv[2]
try:
    open(address, "rb")
except OSError as error:
    print("ring:", type(error).__name__)
for ask in (daemon_status, stop_daemon):
    try:
        ask(endpoint)
        print(ask.__name__, "done")
    except TransportError as error:
        print(ask.__name__, "refused:", error)
"""


@pytest.mark.skipif(
    not (sys.platform.startswith("linux") and os.geteuid() == 0),
    reason="only root can become another user",
)
def test_a_second_user_of_the_computer_gets_in_with_a_shared_key_only(daemon: Daemon) -> None:
    import tempfile

    address = daemon._ring.address
    command = [
        *(sys.executable, "-c", OTHER_USER, daemon.endpoint),
        f"/proc/{address.pid}/fd/{address.handle}",
    ]

    def said(folder: str, **environment: str) -> str:
        known = {**os.environ, FOLDER_VARIABLE: f"{folder}/keys", **environment}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=known, cwd=folder, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chown(folder, 65534, 65534)
        alone = said(folder)
        assert "ring: PermissionError" in alone
        assert "daemon_status refused" in alone
        assert "stop_daemon refused" in alone
        assert not daemon_status(daemon.endpoint).stopping
        key = Path(folder) / "nobody.refocusd-key"
        assert main(["keys", "share", "nobody", "--output", str(key)]) == 0
        shared = said(folder, **{KEY_VARIABLE: str(key)})
        assert "ring: PermissionError" in shared
        assert "daemon_status done" in shared
        assert "stop_daemon done" in shared


def test_stop_is_for_the_same_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(without_workers(tmp_path)) as daemon:
        with monkeypatch.context() as other:
            other.setenv(FOLDER_VARIABLE, str(tmp_path / "of-another-user"))
            with pytest.raises(TransportError):
                stop_daemon(daemon.endpoint, timeout_s=0.5)
        assert not daemon_status(daemon.endpoint).stopping


def test_a_shared_key_is_kept_from_other_hosts(tmp_path: Path) -> None:
    key = tmp_path / "other.refocusd-key"
    assert main(["keys", "share", "other", "--output", str(key)]) == 0
    with (
        running(without_workers(tmp_path)) as daemon,
        Connection(
            daemon.remote_endpoint, "worker", inline=True, keys=load_client_keys(key)
        ) as connection,
    ):
        wait_refused(connection, "is not the daemon that made the key")
