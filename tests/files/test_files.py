"""Files that another program holds for a moment: nothing is lost, and no wait is endless."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from pathlib import Path

import pytest
from refusals import HOLDERS, Held, Refusals, refusal

from refocusd import files
from refocusd.datasets.run_folder import RUN_FILE, made_by
from refocusd.engines.cache import EngineCache, EngineKey
from refocusd.formats.ndtiff.stack import write_all
from refocusd.profiles.profile import Microscope, Profile, load_profile, save_profile
from refocusd.transport.secure.keys import AllowList, KeyStore

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("seed", range(5))
def test_fifty_refused_renames_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    refusals = Refusals(monkeypatch, seed)
    path, versions = tmp_path / "file.json", 0
    while refusals.count < 50:
        versions += 1
        files.write_whole(path, b"version ", str(versions).encode())
        assert path.read_bytes() == f"version {versions}".encode()
    assert list(tmp_path.iterdir()) == [path]
    files.remove(path)
    assert not path.exists()


def test_a_file_that_stays_held_is_reported_and_its_old_content_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    files.write_whole(path, b"old")
    with monkeypatch.context() as held:
        Refusals(held, 0, most=0)
        held.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(refusal()))
        with pytest.raises(PermissionError):
            files.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_refused_for_good_is_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(_: float) -> None:
        raise AssertionError("this refusal will not pass")

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(FileNotFoundError):
        files.replace(tmp_path / "none", tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        files.remove(tmp_path / "none")
    files.remove(tmp_path / "none", missing_ok=True)


def test_what_the_system_cannot_look_for_does_not_exist(tmp_path: Path) -> None:
    """`Path.exists` raises for such a name, as for a share that does not answer, before Python 3.13."""
    assert files.exists(tmp_path)
    assert not files.exists(tmp_path / ("x" * 300))


def test_a_file_that_another_program_has_to_itself_is_opened_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list"
    refusals, lines = Refusals(monkeypatch, 0), 0
    while refusals.count < 50:
        with files.open_file(path, "a") as file:
            file.write(b"line\n")
        lines += 1
    assert path.read_bytes() == lines * b"line\n"


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_another_program_has_to_itself_is_read_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: type[Refusals | Held]
) -> None:
    refusals, versions = holder(monkeypatch, 0), 0
    while refusals.count < 10:
        path = tmp_path / str(versions) / RUN_FILE
        path.parent.mkdir()
        path.write_bytes(b'{"run": "1"}')
        assert made_by(path.parent) == {"run": "1"}
        versions += 1


def test_the_error_of_a_write_has_the_number_of_the_system() -> None:
    """On Windows as well, whose C library gives its own only: by it a full disk is told from others."""
    reading, writing = os.pipe()
    os.close(reading)
    with io.FileIO(writing, "w") as pipe, pytest.raises(BrokenPipeError) as failed:
        write_all(pipe, b"nobody reads this")
    assert failed.value.__cause__ is None
    if sys.platform == "win32":
        assert failed.value.winerror in (109, 232)  # ERROR_BROKEN_PIPE, ERROR_NO_DATA


def test_a_folder_is_moved_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Refusals(monkeypatch, 3)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w")
    files.replace(folder, tmp_path / "moved")
    monkeypatch.undo()
    assert (tmp_path / "moved" / "weights").read_bytes() == b"w"
    assert files.remove_tree(tmp_path / "moved")
    assert not (tmp_path / "moved").exists()
    assert files.remove_tree(tmp_path / "never there")


def test_a_revocation_reaches_the_disk_through_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = KeyStore(tmp_path / "keys")
    store.new("gpu", tmp_path / "gpu.key")
    refusals = Refusals(monkeypatch, 1)
    store.revoke("gpu")
    assert refusals.count
    assert AllowList(store).good == frozenset()
    assert [path.name for path in (tmp_path / "keys" / "peers").iterdir()] == ["peer-gpu.json"]


def test_a_profile_is_saved_through_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "profile.json"
    Refusals(monkeypatch, 2)
    for version in ("first", "second"):
        microscope = Microscope()
        save_profile(Profile(created="today", version=version, microscope=microscope), path)
    assert load_profile(path).version == "second"


def test_a_built_engine_is_kept_through_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EngineCache(tmp_path)
    key = EngineKey("engine", "sum", "runtime", "device", "f32")
    Refusals(monkeypatch, 4)
    cache.put(key, b"built")
    assert cache.get(key) == b"built"
    cache.discard(key)
    assert cache.get(key) is None


def test_a_temporary_folder_in_which_a_file_is_held_spoils_no_result() -> None:
    """On Windows, deleting it is refused after the work is done."""
    for path in Path(files.__file__).parent.rglob("*.py"):
        for call in re.findall(r"TemporaryDirectory\(([^)]*)\)", path.read_text(encoding="utf-8")):
            assert "ignore_cleanup_errors=True" in call, path


@pytest.mark.parametrize(
    ("path", "typed"),
    [
        (r"D:\data\run_1", r"D:\data\run_1"),
        (r"D:\R&D\run (2)", r'"D:\R&D\run (2)"'),
        (r"D:\Zürich\50%", r'"D:\Zürich\50%"'),
        ("D:\\my data\\", '"D:\\my data\\\\"'),
    ],
)
def test_a_path_can_be_typed_on_windows(path: str, typed: str) -> None:
    """In both cmd and PowerShell, which treat `&` and brackets specially."""
    assert files.in_windows_command(path) == typed
