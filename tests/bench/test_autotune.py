"""Autotune: measured once, kept, bounded in time, and measured again when in doubt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refocusd.bench.combination import Combination
from refocusd.bench.tuning import tune
from refocusd.cli.main import main
from refocusd.config import EngineOptions, Settings
from refocusd.engines.autotune import CANDIDATES, autotune_folder, recalled, tuned
from refocusd.engines.engine import Engine, EngineDescription, Refocused
from refocusd.engines.openvino import OpenVinoEngine
from refocusd.errors import EngineError
from refocusd.frame import Pixels
from refocusd.imaging.normalise import CountsRange
from refocusd.models.bundle import load_bundle

SHAPE = (4096, 4096)


class Bench:
    """Engines that take as long as they are told, by a clock of their own."""

    def __init__(self, seconds_per_pixel: dict[tuple[int, int], float], build_s: float = 0.1):
        self.now = 0.0
        self.built: list[tuple[int, int]] = []
        self.closed = 0
        self._per_pixel = seconds_per_pixel
        self._build_s = build_s

    def clock(self) -> float:
        return self.now

    def build(self, options: EngineOptions) -> Engine:
        self.now += self._build_s
        pair = (options.tile_px, options.tile_batch)
        self.built.append(pair)
        return Timed(self, self._per_pixel.get(pair, 1e-8))

    def tuned(self, options: EngineOptions | None = None, key: str = "engine") -> EngineOptions:
        return tuned(
            self.build,
            SHAPE,
            options or EngineOptions(),
            key=key,
            receptive_field_px=32,
            size_multiple=32,
            clock=self.clock,
        )


class Timed:
    description = EngineDescription("test", "f32", "none", "key", "", "")

    def __init__(self, bench: Bench, per_pixel_s: float) -> None:
        self._bench, self._per_pixel_s = bench, per_pixel_s

    def warm_up(self, shape: tuple[int, int]) -> None:
        self._bench.now += shape[0] * shape[1] * self._per_pixel_s

    def refocus(self, raw: Pixels, out: Pixels) -> Refocused:
        if self._per_pixel_s < 0:
            raise EngineError("it does not run; take another")
        self._bench.now += raw.size * self._per_pixel_s
        np.copyto(out, raw)
        return Refocused(CountsRange(0.0, 1.0), 0.0, 0)

    def close(self) -> None:
        self._bench.closed += 1


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFOCUSD_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("fastest", CANDIDATES)
def test_the_fastest_is_taken(fastest: tuple[int, int]) -> None:
    bench = Bench(dict.fromkeys(CANDIDATES, 1e-7) | {fastest: 1e-8})
    found = bench.tuned()
    assert (found.tile_px, found.tile_batch) == fastest
    assert bench.closed == len(bench.built)


def test_it_is_measured_once() -> None:
    first = Bench({(512, 4): 1e-9})
    expected = first.tuned()
    second = Bench({})
    assert second.tuned() == expected
    assert first.built
    assert not second.built


def test_another_engine_or_other_options_are_measured_anew() -> None:
    Bench({}).tuned()
    for options, key in ((EngineOptions(threads=3), "engine"), (EngineOptions(), "other")):
        bench = Bench({})
        bench.tuned(options, key)
        assert bench.built


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff" * 10,
        b"x" * 10_000,
        b'{"key": "another", "tile_px": 512, "tile_batch": 1, "frame_ms": 1}',
    ],
)
def test_a_damaged_or_foreign_entry_is_measured_anew(damage: bytes) -> None:
    expected = Bench({}).tuned()
    (entry,) = autotune_folder().iterdir()
    entry.write_bytes(damage)
    bench = Bench({})
    assert bench.tuned() == expected
    assert bench.built
    again = Bench({})
    assert again.tuned() == expected
    assert not again.built


@pytest.mark.parametrize("tile_px", [-1, 0, 1 << 20])
def test_an_entry_out_of_bounds_is_measured_anew(tile_px: int) -> None:
    Bench({}).tuned()
    (entry,) = autotune_folder().iterdir()
    text = entry.read_text(encoding="utf-8").replace('"tile_px":', f'"tile_px":{tile_px},"old":')
    entry.write_text(text.split(',"old"')[0] + ',"tile_batch":1,"frame_ms":1}', encoding="utf-8")
    bench = Bench({})
    assert bench.tuned().tile_px in {side for side, _ in CANDIDATES}
    assert bench.built


def test_a_slow_engine_stays_within_the_budget() -> None:
    bench = Bench(dict.fromkeys(CANDIDATES, 1.5e-6), build_s=0.5)
    bench.tuned()
    assert bench.built
    assert bench.now <= 5.0


def test_what_does_not_run_is_left_out() -> None:
    bench = Bench({(1024, 1): -1.0, (512, 4): 1e-9})
    found = bench.tuned()
    assert (found.tile_px, found.tile_batch) == (512, 4)
    assert bench.closed == len(bench.built)


def test_where_nothing_runs_the_engine_chooses_and_nothing_is_kept() -> None:
    options = EngineOptions(engine_mib=64)
    assert Bench(dict.fromkeys(CANDIDATES, -1.0)).tuned(options) == options
    assert not autotune_folder().exists()


def test_a_choice_of_the_user_stands() -> None:
    bench = Bench({})
    both = EngineOptions(tile_px=640, tile_batch=2)
    assert bench.tuned(both) == both
    assert not bench.built
    assert bench.tuned(EngineOptions(tile_px=640)).tile_px == 640
    assert bench.tuned(EngineOptions(tile_batch=3)).tile_batch == 3


def test_a_cache_that_cannot_be_written_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    monkeypatch.setenv("REFOCUSD_CACHE", str(blocked))
    assert Bench({}).tuned().tile_px > 0


def test_the_shipped_model_is_tuned() -> None:
    bundle = load_bundle("live-nuclei")
    options = EngineOptions("openvino", "f32", threads=1)
    found = tuned(
        lambda chosen: OpenVinoEngine(bundle, chosen),
        SHAPE,
        options,
        key="real",
        receptive_field_px=bundle.receptive_field_px,
        size_multiple=bundle.size_multiple,
        budget_s=0.5,
    )
    assert found.tile_px % bundle.size_multiple == 0
    assert found.tile_batch >= 1
    assert found.precision == "f32"


def test_tiles_that_no_model_could_take_are_not_taken() -> None:
    """Of a damaged cache, or of an older refocusd's."""
    options = EngineOptions("openvino", "f32", 1, engine_mib=300)
    shape = (1500, 1400)
    engine = OpenVinoEngine(load_bundle("live-nuclei"), options)
    expected = engine.tiles(shape)
    tuned(
        Bench({}).build,
        shape,
        options,
        key=engine.description.key,
        receptive_field_px=0,
        size_multiple=1,
    )
    (entry,) = autotune_folder().iterdir()
    found = json.loads(entry.read_text(encoding="utf-8"))
    entry.write_text(json.dumps(found | {"tile_px": 64, "tile_batch": 1}), encoding="utf-8")
    fresh = OpenVinoEngine(load_bundle("live-nuclei"), options)
    assert fresh.tiles(shape) == expected
    engine.close()
    fresh.close()


def test_bench_measures_tiles_for_the_memory_that_a_run_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An entry counts for one `engine_mib`: bench must be able to say which."""
    tried: list[Combination] = []
    monkeypatch.setattr("refocusd.cli.commands.bench.tune", tried.append)
    monkeypatch.setattr("refocusd.cli.commands.bench.run_session", lambda *_, **__: [])
    flags = ["--backend", "openvino", "--precision", "f32", "--size", "1500", "--tune"]
    main(["bench", *flags, "--engine-mib", "300"])
    settings = Settings(backend="openvino", precision="f32", engine_mib=300)
    assert [combination.options for combination in tried] == [settings.engine_options]


def test_an_engine_takes_the_tiles_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of frames that do not go whole, and where nobody set others."""
    bundle = load_bundle("live-nuclei")
    options = EngineOptions("openvino", "f32", 1, engine_mib=300)
    shape = (1500, 1400)
    engine = OpenVinoEngine(bundle, options)
    before = engine.tiles(shape)[0].shape
    assert len(engine.tiles(shape)) > 1
    engine.close()
    monkeypatch.setattr("refocusd.engines.autotune.CANDIDATES", ((704, 1),))
    tune(Combination("live-nuclei", options, shape))
    engine = OpenVinoEngine(bundle, options)
    assert recalled(engine.description.key, shape, options).tile_px == 704
    assert max(engine.tiles(shape)[0].shape) <= 704 < max(before)
    assert len(engine.tiles((704, 704))) == 1
    chosen = OpenVinoEngine(bundle, EngineOptions("openvino", "f32", 1, 832, 1, 300))
    assert max(chosen.tiles(shape)[0].shape) > 704
    engine.close()
    chosen.close()
