"""The bench: what it counts and measures, and what it reports if it cannot measure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from refocusd.bench import session
from refocusd.bench.combination import (
    Combination,
    Order,
    Rates,
    Report,
    Result,
    median_interval,
)
from refocusd.bench.machine import busy_share, machine, peak_mib
from refocusd.bench.measure import measure, sample_frame
from refocusd.bench.session import count_work, run_session
from refocusd.cli.commands.bench import _limits, _times
from refocusd.cli.console import console
from refocusd.cli.main import main
from refocusd.config import EngineOptions
from refocusd.errors import EngineError
from refocusd.models.bundle import load_bundle

CPU = EngineOptions("openvino", "f32", threads=1)


def saved(tmp_path: Path, kind: str) -> Path:
    entry = ops.parameter([1, 1, -1, -1], np.float32)
    if kind == "convolution":
        weights = ops.constant(np.ones((4, 1, 3, 3), np.float32))
        answer = ops.convolution(entry, weights, [2, 2], [1, 1], [1, 1], [1, 1])
    elif kind == "groups":
        wide = ops.concat([entry, entry], 1)
        weights = ops.constant(np.ones((2, 1, 1, 3, 3), np.float32))
        answer = ops.group_convolution(wide, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    elif kind == "backwards":
        weights = ops.constant(np.ones((1, 4, 2, 2), np.float32))
        answer = ops.convolution_backprop_data(entry, weights, [2, 2])
    else:
        answer = ops.matmul(entry, ops.constant(np.ones((64, 8), np.float32)), False, False)
    path = tmp_path / "network.xml"
    openvino.save_model(openvino.Model([answer], [entry]), str(path), compress_to_fp16=False)
    return path


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("convolution", 2 * 4 * 32 * 32 * 9),
        ("groups", 2 * 2 * 64 * 64 * 9),
        ("backwards", 2 * 64 * 64 * 4 * 4),
        ("matmul", 2 * 64 * 8 * 64),
    ],
)
def test_arithmetic_is_counted_as_by_hand(tmp_path: Path, kind: str, flops: int) -> None:
    assert count_work(saved(tmp_path, kind), (60, 64), 32).flops == flops


def test_the_shipped_network_has_the_work_that_is_known_of_it() -> None:
    bundle = load_bundle("live-nuclei")
    work = count_work(bundle.onnx, (512, 500), bundle.size_multiple)
    assert work.pixels == 512 * 512
    assert 5_000 < work.flops / 2 / work.pixels < 50_000
    assert work.least_bytes("bf16") < work.least_bytes("f32")


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(EngineError, match="cannot be counted"):
        count_work(path, (64, 64), 32)


def test_the_interval_holds_the_median() -> None:
    values = list(np.arange(101.0))
    low, high = median_interval(values)
    assert low < 50 < high
    assert high - low < 25
    assert median_interval([3.0]) == (3.0, 3.0)


def test_the_limit_is_the_larger_of_arithmetic_and_bytes() -> None:
    here = Combination("m", CPU, (64, 64))
    rates = Rates(1e9, 1e8, "hand")
    assert Result(here, flops=2e6, bytes=1e3, rates=rates).roofline_ms == pytest.approx(2.0)
    assert Result(here, flops=2e3, bytes=1e6, rates=rates).roofline_ms == pytest.approx(10.0)
    assert Result(here, flops=2e3, bytes=1e6).roofline_ms is None


@pytest.mark.skipif(sys.platform not in ("linux", "win32", "darwin"), reason="not told there")
def test_the_peak_grows_with_what_is_held() -> None:
    before = peak_mib()
    assert before is not None
    held = np.ones(64 << 17)  # 64 MiB
    held += 1
    after = peak_mib()
    assert after is not None
    assert before < after + 1
    assert after > 64


def test_the_machine_is_named_and_its_load_is_a_share() -> None:
    assert machine()["cores"]
    busy = busy_share(0.05)
    assert busy is None or -0.01 <= busy <= 1


@pytest.mark.parametrize("shape", [(64, 80), (700, 1500)])
def test_the_sample_comes_in_any_size(shape: tuple[int, int]) -> None:
    frame = sample_frame(shape)
    assert frame.shape == shape
    assert frame.flags.c_contiguous
    assert frame.std() > 0


def test_the_default_model_is_measured_on_a_frame_that_it_refocuses(tmp_path: Path) -> None:
    place = tmp_path / "refocused.npy"
    order = Order(Combination("live-fluorescence", CPU, (64, 64)), 1, str(place), warm_frames=0)
    assert not measure(order).refused
    assert (np.load(place) != sample_frame()).any()


def test_a_combination_that_cannot_be_had_says_why() -> None:
    report = measure(
        Order(Combination("live-nuclei", EngineOptions("openvino", "f16"), (64, 64)), 1)
    )
    assert "f16" in report.refused
    report = measure(Order(Combination("no-such-model", CPU, (64, 64)), 1))
    assert "no-such-model" in report.refused


def test_a_backend_that_does_not_work_here_starts_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = {"tensorrt": "there is no card; put one in"}
    monkeypatch.setattr(session, "available_backends", lambda: missing, raising=False)
    told: list[str] = []
    wanted = Combination("live-nuclei", EngineOptions("tensorrt", "f16"), (64, 64))
    (result,) = run_session([wanted], frames=1, rounds=2, on_step=told.append)
    assert result.refused == "there is no card; put one in"
    assert not result.rounds
    assert not told


def test_tables_show_a_models_folder_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test may have created the console in a narrow terminal.
    monkeypatch.setattr(console, "_width", 400)
    wanted = Combination("/models/[/red]", CPU, (64, 64))
    report = Report(engine_ms=[1.0], worker_ms=[2.0], precision="f32", device="CPU")
    for table in (_times, _limits):
        console.print(table([Result(wanted, rounds=[report])]))
        assert "[/red]" in "".join(capsys.readouterr().out.split())


def test_a_session_measures_and_lists_what_it_cannot() -> None:
    good = Combination("live-nuclei", CPU, (96, 128))
    bad = Combination("live-nuclei", EngineOptions("openvino", "f16"), (96, 128))
    measured, refused = run_session([good, bad], frames=3, rounds=2)
    assert len(measured.worker_ms) == len(measured.engine_ms) == 6
    assert 0 < measured.engine_ms[0] <= measured.worker_ms[-1]
    assert measured.peak_mib is not None
    assert measured.roofline_ms is not None
    assert measured.quality is not None
    assert measured.quality.p999_counts <= 1
    assert refused.refused
    assert not refused.rounds


@pytest.mark.timeout(90)
def test_the_command_writes_table_figures_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, picture = tmp_path / "a" / "bench.json", tmp_path / "a" / "bench.png"
    status = main(
        [
            "bench", "--backend", "openvino", "--precision", "f32", "--size", "96x64",
            "--frames", "2", "--rounds", "1", "--json", str(figures), "--plot", str(picture),
        ]
    )  # fmt: skip
    assert status == 0
    assert "96×64" in capsys.readouterr().out
    (result,) = json.loads(figures.read_text(encoding="utf-8"))["results"]
    assert result["worker_ms_p50"] > 0
    assert len(result["rounds"][0]["engine_ms"]) == 2
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "flags",
    [
        ["--frames", "0"],
        ["--rounds", "0"],
        ["--batch", "65"],
        ["--model", "no-such-model"],
    ],
)
def test_a_wrong_flag_is_reported_before_any_work(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *flags]) == 2
    assert flags[1] in capsys.readouterr().err


@pytest.mark.parametrize("size", ["12", "axb", "99999", "64x", ""])
def test_a_wrong_size_is_reported_before_any_work(
    size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--size", size])
    assert ended.value.code == 2
    assert "write a side or WIDTHxHEIGHT" in capsys.readouterr().err


def test_without_matplotlib_the_plot_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--plot", "bench.png"]) != 0
    assert "pip install" in capsys.readouterr().err
