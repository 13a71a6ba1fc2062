"""Compiled engines are found again if intact and matching, otherwise built again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from refocusd.engines.autotune import autotune_folder
from refocusd.engines.cache import EngineCache, EngineKey, cache_folder
from refocusd.errors import EngineError

pytestmark = pytest.mark.fast

KEY = EngineKey("engine", "ab" * 32, "tensorrt_rtx 1.7", "sm80+", "f16", "1x1x32x32")
PAYLOAD = bytes(range(256)) * 20


def never() -> bytes:
    raise AssertionError("built although it was kept")


def test_what_was_built_is_found_again(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    assert cache.get(KEY) is None
    assert cache.get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD
    assert EngineCache(tmp_path).get_or_build(KEY, never) == PAYLOAD
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize("field", EngineKey.__struct_fields__)
def test_any_difference_in_the_key_is_another_engine(tmp_path: Path, field: str) -> None:
    cache = EngineCache(tmp_path)
    cache.put(KEY, PAYLOAD)
    other = msgspec.structs.replace(KEY, **{field: "other"})
    assert cache.get(other) is None
    # Nor is it accepted under the other's name.
    cache.path(KEY).rename(cache.path(other))
    assert cache.get(other) is None
    assert not cache.path(other).exists()


@pytest.mark.parametrize("length", [0, 1, 17, 18, 22, 100, 400, len(PAYLOAD)])
def test_a_truncated_entry_is_built_again(tmp_path: Path, length: int) -> None:
    cache = EngineCache(tmp_path)
    cache.put(KEY, PAYLOAD)
    os.truncate(cache.path(KEY), length)
    assert cache.get_or_build(KEY, lambda: b"again") == b"again"
    assert cache.get(KEY) == b"again"


def test_no_flipped_bit_passes(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.put(KEY, PAYLOAD)
    whole = cache.path(KEY).read_bytes()
    rng = random.Random(5)
    for _ in range(400):
        altered = bytearray(whole)
        altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
        cache.path(KEY).write_bytes(altered)
        assert cache.get(KEY) is None
        assert not cache.path(KEY).exists()


def test_an_entry_that_goes_on_is_built_again(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.put(KEY, PAYLOAD)
    with cache.path(KEY).open("ab") as file:
        file.write(b"more")
    assert cache.get(KEY) is None


def test_a_failed_build_keeps_nothing(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise EngineError("no")

    cache = EngineCache(tmp_path)
    with pytest.raises(EngineError, match="no"):
        cache.get_or_build(KEY, fail)
    assert cache.get(KEY) is None
    assert cache.get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD


def test_the_entry_used_least_recently_goes(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=3 * len(PAYLOAD))
    keys = [msgspec.structs.replace(KEY, precision=name) for name in "abc"]
    for age, key in enumerate(keys[:2]):
        cache.put(key, PAYLOAD)
        os.utime(cache.path(key), (age, age))
    assert cache.get(keys[0]) == PAYLOAD  # marks it as used
    cache.put(keys[2], PAYLOAD)
    assert [cache.get(key) is not None for key in keys] == [True, False, True]


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_bytes(b"")
    assert EngineCache(occupied / "engines").get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD


BUILDER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from refocusd.engines.cache import EngineCache, EngineKey
    folder, ready, other = map(Path, sys.argv[1:])
    ready.write_text("")
    deadline = time.monotonic() + 30
    while not other.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    def build():
        print("built", flush=True)
        time.sleep(0.5)
        return b"engine" * 100_000
    key = EngineKey("engine", "a", "b", "c", "d")
    assert EngineCache(folder).get_or_build(key, build) == b"engine" * 100_000
    """
)


def test_of_two_processes_that_want_one_engine_one_builds(tmp_path: Path) -> None:
    ready = [tmp_path / "first", tmp_path / "second"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(tmp_path / "cache"), str(mine), str(other)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for mine, other in (ready, ready[::-1])
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(said) == ["", "built\n"]


def test_a_builder_that_was_killed_holds_up_nobody(tmp_path: Path) -> None:
    code = BUILDER.replace("time.sleep(0.5)", "time.sleep(60)")
    go = tmp_path / "go"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "cache"), str(go), str(go)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "built\n"
        process.kill()
    key = EngineKey("engine", "a", "b", "c", "d")
    assert EngineCache(tmp_path / "cache").get_or_build(key, lambda: PAYLOAD) == PAYLOAD


def test_one_variable_says_where_all_caches_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFOCUSD_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert EngineCache().folder == tmp_path / "engines"
    assert autotune_folder() == tmp_path / "autotune"
