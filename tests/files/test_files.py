"""Files that another program holds for a moment: nothing is lost, and no wait is endless."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from refusals import Refusals, refusal

from refocusd import files
from refocusd.engines.cache import EngineCache, EngineKey
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
