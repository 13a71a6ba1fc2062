"""Keys for workers on other hosts are made, listed and revoked, and secrets never leak."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from refocusd.cli.main import main
from refocusd.errors import ConfigError, OutputError
from refocusd.transport.secure import private_file
from refocusd.transport.secure.keys import AllowList, KeyStore, load_client_keys

pytestmark = pytest.mark.fast

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file modes")


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys")


def test_the_daemons_keys_are_made_once(store: KeyStore) -> None:
    assert store.server() == KeyStore(store.folder).server()


def test_the_daemons_keys_are_one_pair_however_many_ask_first(store: KeyStore) -> None:
    found = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        found.append(KeyStore(store.folder).server())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({keys.secret for keys in found}) == 1
    assert [path.name for path in store.folder.iterdir()] == ["server.json"]


def test_a_key_file_says_what_the_other_host_needs(store: KeyStore, tmp_path: Path) -> None:
    made = store.new("gpu-2", tmp_path / "gpu-2.key")
    keys = load_client_keys(tmp_path / "gpu-2.key")
    assert keys == made
    assert keys.name == "gpu-2"
    assert keys.server == store.server().public
    assert AllowList(store).names == {keys.public: "gpu-2"}


def test_the_other_hosts_secret_is_kept_nowhere(store: KeyStore, tmp_path: Path) -> None:
    secret = store.new("gpu-2", tmp_path / "gpu-2.key").secret
    kept = [path.read_text() for path in store.folder.rglob("*") if path.is_file()]
    assert len(kept) == 2
    assert not any(secret in text for text in kept)


@posix
def test_what_holds_a_secret_is_readable_for_its_user_only(store: KeyStore, tmp_path: Path) -> None:
    store.new("gpu-2", tmp_path / "gpu-2.key")
    for path in (tmp_path / "gpu-2.key", *(p for p in store.folder.rglob("*") if p.is_file())):
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_no_secret_is_in_a_text_form(store: KeyStore, tmp_path: Path) -> None:
    keys = store.new("gpu-2", tmp_path / "gpu-2.key")
    assert keys.secret not in f"{keys!r} {keys} {store.server()!r}"
    assert store.server().secret not in f"{store.server()!r} {store.server()}"


@pytest.mark.parametrize(
    "name",
    ["", "../x", "a/b", "a\\b", "Gpu", "a b", ".a", "-a", "a.b", "a" * 64, "ä", "a\n", "a\0"],
)
def test_a_name_that_is_none_is_refused(store: KeyStore, tmp_path: Path, name: str) -> None:
    for refused in (lambda: store.new(name, tmp_path / "out.key"), lambda: store.revoke(name)):
        with pytest.raises(ConfigError, match="not a name for a key"):
            refused()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_windows_reserves_is_as_good_as_any(store: KeyStore, tmp_path: Path) -> None:
    store.new("con", tmp_path / "out.key")
    assert [path.name for path in store.peer_files()] == ["peer-con.json"]


def test_a_name_is_used_once(store: KeyStore, tmp_path: Path) -> None:
    store.new("gpu-2", tmp_path / "a.key")
    with pytest.raises(ConfigError, match="choose another name"):
        store.new("gpu-2", tmp_path / "b.key")
    store.revoke("gpu-2")
    with pytest.raises(ConfigError, match=r"and revoked .*choose another name"):
        store.new("gpu-2", tmp_path / "b.key")
    assert not (tmp_path / "b.key").exists()


def test_a_key_file_is_never_overwritten(store: KeyStore, tmp_path: Path) -> None:
    output = tmp_path / "gpu-2.key"
    output.write_text("precious")
    with pytest.raises(OutputError, match="nothing is overwritten"):
        store.new("gpu-2", output)
    assert output.read_text() == "precious"
    assert store.peers() == []


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        KeyStore(tmp_path / "file" / "keys").server()


def test_a_key_that_cannot_be_listed_is_not_given_out(store: KeyStore, tmp_path: Path) -> None:
    store.server()
    (store.folder / "peers").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be made"):
        store.new("gpu-2", tmp_path / "gpu-2.key")
    assert not (tmp_path / "gpu-2.key").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no key file"),
        (b"\xff\xfe", "no key file"),
        (b"[" * 50_000, "no key file"),
        (b'{"name": "a"}', "no key file"),
        (b'{"name": "a", "public": "x", "secret": "y", "server": "z"}', "no key file"),
    ],
)
def test_what_is_no_key_file_is_told(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "bad.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=match):
        load_client_keys(path)


def test_a_key_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_client_keys(tmp_path / "absent.key")


def test_a_key_file_with_another_secret_is_told(store: KeyStore, tmp_path: Path) -> None:
    mine = store.new("a", tmp_path / "a.key")
    other = store.new("b", tmp_path / "b.key")
    mixed = msgspec.structs.replace(mine, secret=other.secret)
    (tmp_path / "a.key").write_bytes(msgspec.json.encode(mixed))
    with pytest.raises(ConfigError, match="damaged"):
        load_client_keys(tmp_path / "a.key")


@posix
def test_a_secret_that_others_can_read_is_refused(store: KeyStore, tmp_path: Path) -> None:
    store.new("gpu-2", tmp_path / "gpu-2.key")
    (tmp_path / "gpu-2.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_client_keys(tmp_path / "gpu-2.key")
    (store.folder / "server.json").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        store.server()


def test_damaged_keys_of_the_daemon_are_told_and_left_alone(store: KeyStore) -> None:
    store.server()
    path = store.folder / "server.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="move it away"):
        store.server()
    assert path.read_text() == "{}"


def test_a_key_is_revoked_for_good(store: KeyStore, tmp_path: Path) -> None:
    store.new("gpu-2", tmp_path / "gpu-2.key")
    store.new("gpu-3", tmp_path / "gpu-3.key")
    assert store.revoke("gpu-2").revoked
    assert list(AllowList(store).names.values()) == ["gpu-3"]
    with pytest.raises(ConfigError, match="already"):
        store.revoke("gpu-2")


def test_revoking_what_was_never_made_is_told(store: KeyStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are: none"):
        store.revoke("gpu-2")
    store.new("gpu-3", tmp_path / "gpu-3.key")
    with pytest.raises(ConfigError, match="there are: gpu-3"):
        store.revoke("gpu-2")


def test_the_allow_list_follows_its_files(store: KeyStore, tmp_path: Path) -> None:
    allowed = AllowList(store)
    assert allowed.good == frozenset()
    store.new("a", tmp_path / "a.key")
    store.new("b", tmp_path / "b.key")
    allowed.refresh()
    assert allowed.good == {"a", "b"}
    store.revoke("a")
    allowed.refresh()
    assert allowed.good == {"b"}
    for path in store.peer_files():
        path.unlink()
    allowed.refresh()
    assert allowed.good == frozenset()


def test_a_damaged_entry_lets_nobody_in_and_no_other_out(
    store: KeyStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.new("a", tmp_path / "a.key")
    store.new("b", tmp_path / "b.key")
    (store.folder / "peers" / "peer-a.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        allowed = AllowList(store)
    assert allowed.good == {"b"}
    assert "peer-a.json" in caplog.text
    with pytest.raises(ConfigError, match=r"peer-a\.json"):
        store.peers()


def test_an_entry_under_another_name_lets_nobody_in(store: KeyStore, tmp_path: Path) -> None:
    store.new("a", tmp_path / "a.key")
    (store.folder / "peers" / "peer-a.json").rename(store.folder / "peers" / "peer-b.json")
    assert AllowList(store).good == frozenset()


def test_the_command_makes_lists_and_revokes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", str(tmp_path / "keys")]
    output = tmp_path / "gpu-2.key"
    assert main(["keys", "list", *where]) == 0
    assert "no keys were made" in capsys.readouterr().out
    assert main(["keys", "new", "gpu-2", "--output", str(output), *where]) == 0
    said = capsys.readouterr().out
    assert "refocusd worker --connect" in said
    assert load_client_keys(output).secret not in said
    assert main(["keys", "revoke", "gpu-2", *where]) == 0
    assert main(["keys", "list", "--json", str(tmp_path / "list.json"), *where]) == 0
    assert "revoked" in capsys.readouterr().out
    (key,) = json.loads((tmp_path / "list.json").read_text(encoding="utf-8"))["keys"]
    assert key["name"] == "gpu-2"
    assert key["revoked"] >= key["created"]


def test_the_command_uses_the_store_that_the_daemon_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "refocusd.toml"
    settings.write_text(f"keys = {json.dumps(str(tmp_path / 'a'))}\n", encoding="utf-8")
    output = ["--output", str(tmp_path / "a.key")]
    assert main(["keys", "new", "a", *output, "--config", str(settings)]) == 0
    assert [peer.name for peer in KeyStore(tmp_path / "a").peers()] == ["a"]
    monkeypatch.setenv("REFOCUSD_KEYS", str(tmp_path / "b"))
    assert main(["keys", "new", "b", "--output", str(tmp_path / "b.key")]) == 0
    assert [peer.name for peer in KeyStore(tmp_path / "b").peers()] == ["b"]


def test_the_command_tells_an_error_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "revoke", "../x", "--store", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def windows(folder: Path, monkeypatch: pytest.MonkeyPatch, icacls: str) -> Path:
    """Stand-ins for Windows programs; returns the file that records how `icacls` was called."""
    called, program = folder / "called", folder / "System32" / "icacls.exe"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ncat\nprintf '%s\\n' \"$@\" > '{called}'\n{icacls}\n")
    program.chmod(0o700)
    monkeypatch.setenv("SYSTEMROOT", str(folder))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(private_file, "_account", lambda: "S-1-12-1-1234", raising=False)
    return called


@posix
def test_on_windows_the_account_is_named_by_its_number(
    store: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = windows(tmp_path / "windows", monkeypatch, "exit 0")
    store.server()
    _, *rest = called.read_text().splitlines()
    assert rest == ["/inheritance:r", "/grant:r", "*S-1-12-1-1234:F"]


@posix
@pytest.mark.parametrize(("icacls", "done"), [("exit 0", True), ("exit 5", False)])
def test_on_windows_another_user_is_let_read_by_the_systems_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, icacls: str, done: bool
) -> None:
    """Not by a program of the same name in the PATH, and without waiting for keyboard input."""
    called = windows(tmp_path / "windows", monkeypatch, icacls)
    assert private_file.let_read(tmp_path / "daemon.key", "LAB\\scope") is done
    assert called.read_text().splitlines()[1:] == ["/grant", "LAB\\scope:R"]


@posix
def test_a_key_file_that_windows_does_not_protect_is_told(
    store: KeyStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    windows(tmp_path / "windows", monkeypatch, "exit 5")
    store.server()
    assert "may be readable for other users of this host" in caplog.text


@pytest.mark.skipif(sys.platform != "win32", reason="access lists of Windows")
def test_windows_takes_the_commands(store: KeyStore, caplog: pytest.LogCaptureFixture) -> None:
    store.server()
    assert caplog.text == ""
    if sys.platform == "win32":  # for mypy
        assert re.fullmatch(r"S-1-[0-9]+(-[0-9]+)+", private_file._account())
