"""Tile sizes that `bench --tune` measured are kept, used by engines, and ignored when in doubt."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from refocusd.bench import tuning
from refocusd.bench.combination import Combination, Order, Report
from refocusd.bench.tuning import CANDIDATES, tune
from refocusd.cli.main import main
from refocusd.config import EngineOptions, Settings
from refocusd.engines.autotune import _identity, autotune_folder, keep, recalled
from refocusd.engines.cache import EngineCache
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.models.bundle import load_bundle

SHAPE = (1500, 1400)
#: Too little memory for a whole frame of that shape.
OPTIONS = EngineOptions("openvino", "f32", 1, engine_mib=300)
TILED = Combination("live-nuclei", OPTIONS, SHAPE)
BEST = EngineOptions("openvino", "f32", 1, 704, 2, 300)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFOCUSD_CACHE", str(tmp_path))
    return tmp_path


def engine_key() -> str:
    engine = OpenVinoEngine(load_bundle("live-nuclei"), OPTIONS)
    engine.close()
    return engine.description.key


def times(monkeypatch: pytest.MonkeyPatch, engine_ms: dict[tuple[int, int], float]) -> list[Order]:
    """Replace the measurement: candidates take these times, and others do not run."""
    asked: list[Order] = []

    def answer(order: Order) -> Report:
        asked.append(order)
        options = order.combination.options
        found = engine_ms.get((options.tile_px, options.tile_batch))
        return Report(refused="it does not run") if found is None else Report(engine_ms=[found])

    monkeypatch.setattr(tuning, "ask", answer)
    return asked


@pytest.mark.parametrize("fastest", [(1024, 1), (768, 2)])
def test_the_fastest_that_runs_is_kept(
    monkeypatch: pytest.MonkeyPatch, fastest: tuple[int, int]
) -> None:
    asked = times(monkeypatch, {(1024, 1): 5.0, (768, 2): 7.0, fastest: 1.0})
    tune(TILED)
    found = recalled(engine_key(), SHAPE, OPTIONS)
    assert (found.tile_px, found.tile_batch) == fastest
    # A tile as large as the frame does not count as one.
    assert len(asked) == sum(side < max(SHAPE) for side, _ in CANDIDATES)


def test_large_frames_are_timed_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = times(monkeypatch, {(1536, 1): 1.0})
    tune(Combination("live-nuclei", OPTIONS, (9000, 500)))
    assert {order.combination.shape for order in asked} == {(3072, 500)}
    assert recalled(engine_key(), (9000, 500), OPTIONS).tile_px == 1536


def test_where_nothing_runs_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, {})
    tune(TILED)
    assert recalled(engine_key(), SHAPE, OPTIONS) == OPTIONS
    assert not autotune_folder().exists()


@pytest.mark.parametrize(
    "combination",
    [
        Combination("live-nuclei", OPTIONS, (64, 64)),
        Combination("live-nuclei", BEST, SHAPE),
        Combination("live-fluorescence", OPTIONS, SHAPE),
    ],
    ids=["goes whole", "a choice of the user", "works at the scale of the blur"],
)
def test_frames_whose_tiles_nobody_would_look_up_are_not_measured(
    monkeypatch: pytest.MonkeyPatch, combination: Combination
) -> None:
    asked = times(monkeypatch, {})
    tune(combination)
    assert not asked


def test_it_is_for_one_engine_and_one_set_of_options() -> None:
    keep("engine", SHAPE, OPTIONS, BEST)
    assert recalled("engine", SHAPE, OPTIONS) == BEST
    for key, shape, options in (
        ("other", SHAPE, OPTIONS),
        ("engine", (1500, 1500), OPTIONS),
        ("engine", SHAPE, EngineOptions("openvino", "f32", 3, engine_mib=300)),
    ):
        assert recalled(key, shape, options) == options


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff" * 10,
        b"x" * 10_000,
        b'{"key": "another", "tile_px": 512, "tile_batch": 1}',
    ],
)
def test_a_damaged_or_foreign_entry_counts_as_none(damage: bytes) -> None:
    keep("engine", SHAPE, OPTIONS, BEST)
    (entry,) = autotune_folder().iterdir()
    entry.write_bytes(damage)
    assert recalled("engine", SHAPE, OPTIONS) == OPTIONS
    keep("engine", SHAPE, OPTIONS, BEST)
    assert recalled("engine", SHAPE, OPTIONS) == BEST


@pytest.mark.parametrize("tile_px", [-1, 0, 1 << 20])
def test_an_entry_out_of_bounds_counts_as_none(tile_px: int) -> None:
    entry = msgspec.json.encode({"tile_px": tile_px, "tile_batch": 1})
    cache = EngineCache(autotune_folder())
    cache.put(_identity("engine", SHAPE, OPTIONS), entry)
    assert any(autotune_folder().iterdir())
    assert recalled("engine", SHAPE, OPTIONS) == OPTIONS


def test_a_cache_that_cannot_be_written_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    monkeypatch.setenv("REFOCUSD_CACHE", str(blocked))
    keep("engine", SHAPE, OPTIONS, BEST)
    assert "cannot be written" in caplog.text


def test_tiles_that_no_model_could_take_are_not_taken() -> None:
    """Entries of a damaged cache or of an older refocusd are ignored."""
    engine = OpenVinoEngine(load_bundle("live-nuclei"), OPTIONS)
    expected = engine.tiles(SHAPE)
    keep(engine.description.key, SHAPE, OPTIONS, EngineOptions(tile_px=64, tile_batch=1))
    fresh = OpenVinoEngine(load_bundle("live-nuclei"), OPTIONS)
    assert fresh.tiles(SHAPE) == expected
    engine.close()
    fresh.close()


def test_bench_measures_tiles_for_the_memory_that_a_run_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An entry is valid for one `engine_mib`, which bench must be able to set."""
    tried: list[Combination] = []
    monkeypatch.setattr("refocusd.cli.commands.bench.tune", tried.append)
    monkeypatch.setattr("refocusd.cli.commands.bench.run_session", lambda *_, **__: [])
    flags = ["--backend", "openvino", "--precision", "f32", "--size", "1500", "--tune"]
    main(["bench", *flags, "--engine-mib", "300"])
    settings = Settings(backend="openvino", precision="f32", engine_mib=300)
    assert [combination.options for combination in tried] == [settings.engine_options]


def test_an_engine_takes_the_tiles_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are used for frames that do not fit whole, unless the user set others."""
    bundle = load_bundle("live-nuclei")
    engine = OpenVinoEngine(bundle, OPTIONS)
    before = engine.tiles(SHAPE)[0].shape
    assert len(engine.tiles(SHAPE)) > 1
    engine.close()
    monkeypatch.setattr(tuning, "CANDIDATES", ((704, 1),))
    tune(TILED)
    engine = OpenVinoEngine(bundle, OPTIONS)
    assert max(engine.tiles(SHAPE)[0].shape) <= 704 < max(before)
    assert len(engine.tiles((704, 704))) == 1
    chosen = OpenVinoEngine(bundle, EngineOptions("openvino", "f32", 1, 832, 1, 300))
    assert max(chosen.tiles(SHAPE)[0].shape) > 704
    engine.close()
    chosen.close()
