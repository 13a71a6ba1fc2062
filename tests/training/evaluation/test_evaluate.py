"""`refocusd train evaluate`: unchanged figures, every output, every refusal."""

from __future__ import annotations

import argparse
import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
from numpy.typing import NDArray
from refocusd_training.commands import register
from refocusd_training.evaluation.cases import Case, channel_cases, deep_cases
from refocusd_training.evaluation.held_out import held_out
from refocusd_training.evaluation.measures.defocus import (
    CLASSES_UM,
    defocus_accuracy,
    evaluate_defocus,
)
from refocusd_training.evaluation.measures.figures import DEFINITIONS
from refocusd_training.evaluation.methods import Exposure, user_methods
from refocusd_training.evaluation.page import chosen_frames
from refocusd_training.evaluation.protocol import bbbc006_pairs, planes_of, training_of
from refocusd_training.evaluation.report import print_table, write_csv, write_json
from refocusd_training.evaluation.results import Result, evaluate, exposure_of
from refocusd_training.evaluation.summary import differences, means, summary
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.ranges import HELD_OUT, HELD_OUT_DEEP, Setting
from refocusd_training.simulate.scene import simulate_frame
from rich.console import Console

from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.imaging.optics import Optics
from refocusd.models.bundle import load_bundle

BUNDLE = "live-nuclei"


class Clairvoyant:
    """A method that returns the truth, which no other can surpass."""

    name = "clairvoyant"

    def refocus(self, exposure: Exposure) -> NDArray[Any]:
        return exposure.truth


@pytest.fixture(scope="module")
def cases(flux: NDArray[np.float32]) -> list[Case]:
    cut = flux[100:308, 100:308]
    return [Case("sample.png", "sample", cut, HELD_OUT[i]) for i in (0, 4)]


@pytest.fixture(scope="module")
def results(cases: list[Case]) -> list[Result]:
    return evaluate(BUNDLE, cases, levels=(0.0, 16.0), rivals=[Clairvoyant()])


def of(results: list[Result], method: str, setting: str, level: float) -> Result:
    [found] = [
        r for r in results if (r.method, r.setting, r.defocus_um) == (method, setting, level)
    ]
    return found


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    return parser.parse_args(["train", "evaluate", *arguments])


def run(*arguments: str) -> int:
    namespace = parsed(*arguments)
    status: int = namespace.command(namespace)
    return status


@pytest.mark.parametrize(
    ("method", "setting", "level", "figures"),
    [
        ("input", "NA 0.35", 0.0, (19.7387, 20.9930, 0.2826, 0.8630)),
        ("RL 12 um PSF", "NA 0.35", 0.0, (19.1549, 21.6374, 0.3190, 0.8831)),
        ("RL true PSF", "NA 0.35", 16.0, (26.8662, 26.9404, 0.5580, 0.9670)),
        ("input", "0.60 um", 16.0, (24.3493, 25.3559, 0.5705, 0.9522)),
        ("RL true PSF", "0.60 um", 16.0, (29.4465, 29.4574, 0.6327, 0.9817)),
    ],
)
def test_figures_are_those_of_the_first_release(
    results: list[Result],
    method: str,
    setting: str,
    level: float,
    figures: tuple[float, float, float, float],
) -> None:
    """The figures of the first evaluation, which had only four, are unchanged."""
    quality = of(results, method, setting, level).quality
    found = (quality.psnr_db, quality.psnr_affine_db, quality.ssim, quality.pearson)
    assert found == pytest.approx(figures, abs=2e-3)


def test_a_frame_in_focus_is_written_as_it_is(results: list[Result]) -> None:
    sharp = of(results, "as written", "0.60 um", 0.0)
    assert sharp.quality == of(results, "input", "0.60 um", 0.0).quality
    blurred = of(results, "as written", "0.60 um", 16.0)
    assert blurred.quality == of(results, "refocused", "0.60 um", 16.0).quality


def test_every_method_is_there_and_the_truth_is_the_best(results: list[Result]) -> None:
    found = means(r for r in results if r.defocus_um == 16.0)
    expected = {"input", "refocused", "as written", "clairvoyant", "RL 12 um PSF", "RL true PSF"}
    assert expected | {"RL-TV true PSF", "Wiener 12 um PSF", "Wiener true PSF"} <= set(found)
    best = found["clairvoyant"]
    assert best["f1"] == 1.0
    assert best["invented"] == best["lost"] == best["phantoms"] == best["vanished"] == 0.0
    assert all(row["psnr_affine_db"] < 60 for name, row in found.items() if name != "clairvoyant")
    assert found["refocused"]["f1"] > found["input"]["f1"]
    assert found["RL-TV true PSF"]["psnr_affine_db"] > found["input"]["psnr_affine_db"]


def test_the_summary_keeps_its_keys(results: list[Result]) -> None:
    found = summary(results)
    assert {
        *("definition", "frames_per_level", "by_defocus_um", "mean_4_8_16_32_um"),
        *("by_microscope", "in_focus_by_microscope", "by_specimens"),
    } <= set(found)
    by_level: Any = found["by_defocus_um"]
    assert set(by_level) == {"0", "16"}
    assert set(by_level["16"]["refocused"]) == {"psnr_db", "psnr_affine_db", "ssim", "pearson"}
    every: Any = found["figures_by_channel"]
    assert set(every["nuclei"]["16"]["refocused"]) == {*DEFINITIONS, "ms_per_frame"}
    speed: Any = found["speed_over"]
    assert speed["RL true PSF"]["refocused"] > 1.0


def test_differences_are_paired_and_have_an_interval(results: list[Result]) -> None:
    found = differences(results, "refocused")
    over = found["input"]
    assert over["low_db"] <= over["mean_db"] <= over["high_db"]
    expected = np.mean(
        [
            of(results, "refocused", s, 16.0).quality.psnr_affine_db
            - of(results, "input", s, 16.0).quality.psnr_affine_db
            for s in ("NA 0.35", "0.60 um")
        ]
    )
    assert over["mean_db"] == pytest.approx(expected, abs=1e-3)


def test_the_json_file_sums_up_and_the_csv_file_holds_every_frame(
    results: list[Result], tmp_path: Path
) -> None:
    write_json(tmp_path / "q.json", BUNDLE, results)
    # It is strict JSON: no NaN, no infinity.
    document = json.loads(
        (tmp_path / "q.json").read_text(encoding="utf-8"), parse_constant=pytest.fail
    )
    assert document["definitions"] == DEFINITIONS
    assert len(document["held_out"]) == len(HELD_OUT) + len(HELD_OUT_DEEP)
    write_csv(tmp_path / "q.csv", results)
    with (tmp_path / "q.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(results)
    assert float(rows[0]["psnr_db"]) == pytest.approx(results[0].quality.psnr_db, rel=1e-5)
    console = Console(record=True, width=80)
    print_table(results, console)
    text = console.export_text()
    # In a terminal of the usual width nothing is truncated.
    assert "…" not in text
    assert "RL-TV true PSF" in text
    assert "phantoms" in text
    with pytest.raises(OutputError, match="cannot be written"):
        write_csv(tmp_path / "q.json" / "q.csv", results)


def test_worst_frames_are_those_that_gained_least(results: list[Result]) -> None:
    typical, worst = chosen_frames(results)
    assert [r.defocus_um for r in typical] == [0.0, 16.0]
    assert {r.method for r in (*typical, *worst)} == {"refocused"}
    assert all(r.defocus_um == 16.0 for r in worst)


def test_each_held_out_microscope_has_something_that_training_never_drew() -> None:
    found = held_out()
    assert [one["microscope"] for one in found] == [
        setting.name for setting in (*HELD_OUT, *HELD_OUT_DEEP)
    ]
    assert all(one["held_out"] for one in found)


def test_deep_specimens_are_in_no_other_mean(cases: list[Case], results: list[Result]) -> None:
    deep = evaluate(BUNDLE, deep_cases(cases), levels=(8.0,), deconvolve=False)
    found, alone = summary([*results, *deep]), summary(results)
    assert found["mean_4_8_16_32_um"] == alone["mean_4_8_16_32_um"]
    assert found["by_microscope"] == alone["by_microscope"]
    part: Any = found["deep"]
    assert set(part["figures_by_defocus_um"]) == {"8"}
    row = part["figures_mean_4_8_16_32_um"]
    assert row["refocused"]["psnr_db"] > row["input"]["psnr_db"]


def test_channels_without_nuclei_are_not_counted(flux: NDArray[np.float32], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "actin.tif", (1000 * flux[:400, :400]).astype(np.uint16))
    [case] = channel_cases("actin", tmp_path)
    row = means(evaluate(BUNDLE, [case], levels=(4.0,), deconvolve=False))["refocused"]
    assert math.isnan(row["f1"])
    assert row["psnr_db"] > 0
    with pytest.raises(InputError, match="holds no image of at least"):
        channel_cases("actin", tmp_path / "nowhere")


def test_an_own_pair_gives_a_page(flux: NDArray[np.float32], tmp_path: Path) -> None:
    setting = Setting("own", Optics(0.45, 0.461), HELD_OUT[4].camera, 900.0)
    cut, rng = flux[100:308, 100:308], np.random.default_rng(0)
    for name, um in (("raw", 12.0), ("sharp", 0.0)):
        frame = simulate_frame(cut, setting, Defocus(um), rng).raw
        # The stage has drifted between the two.
        tifffile.imwrite(tmp_path / f"{name}.tif", np.roll(frame, 3 if um else 0, axis=1))
    page = tmp_path / "page"
    arguments = ["--input", str(tmp_path / "raw.tif"), "--truth", str(tmp_path / "sharp.tif")]
    status = run(*arguments, "--json", str(tmp_path / "q.json"), "--page", str(page))
    assert status == 0
    document = json.loads((tmp_path / "q.json").read_text(encoding="utf-8"))
    found = document["figures_by_defocus_um"]["unknown"]
    assert found["refocused"]["psnr_affine_db"] > found["input"]["psnr_affine_db"] + 1
    assert "RL true PSF" not in found
    assert "microscopes" not in document
    text = (page / "index.html").read_text(encoding="utf-8")
    assert "live-nuclei-2" in text
    for picture in ("curves.png", "typical.png", "worst.png"):
        assert picture in text
        assert (page / picture).stat().st_size > 10_000


@pytest.fixture
def plate(flux: NDArray[np.float32], tmp_path: Path) -> Path:
    """Planes of one field each of two wells, under published names."""
    rng = np.random.default_rng(5)
    setting = Setting("plate", Optics(0.45, 0.461), HELD_OUT[4].camera, 900.0)
    for number, well in enumerate(("a02", "p24")):
        cut = flux[100:308, 60 * number : 60 * number + 208]
        for plane in (2, 6, 10, 16):
            frame = simulate_frame(cut, setting, Defocus(2.0 * (plane - 16)), rng).raw
            folder = tmp_path / f"BBBC006_v1_images_z_{plane:02d}"
            folder.mkdir(exist_ok=True)
            name = f"mcf-z-stacks-03212011_{well}_s1_w1{plane:08x}-0000-0000-0000-0123456789ab.tif"
            tifffile.imwrite(folder / name, frame)
    return tmp_path


def test_the_published_protocol_is_one_flag(plate: Path) -> None:
    pairs = bbbc006_pairs(plate)
    # The other well was used for training.
    assert {pair.specimen.split()[0] for pair in pairs} >= {"a02"}
    assert sorted({abs(pair.defocus_um or 0.0) for pair in pairs}) == [12.0, 20.0, 28.0]
    output = plate / "q.json"
    arguments = ("--data", str(plate), "--protocol", "bbbc006", "--json", str(output))
    assert run(*arguments, "--no-deconvolution", "--limit", "1") == 0
    document = json.loads(output.read_text(encoding="utf-8"))
    assert set(document["figures_by_defocus_um"]) == {"12", "20", "28"}
    assert "plane 16" in document["definition"]
    assert document["nominal_optics"]["w1"]["na"] == 0.45
    means_12 = document["figures_by_defocus_um"]["12"]
    assert means_12["refocused"]["psnr_db"] > means_12["input"]["psnr_db"]


def test_published_figures_are_one_flag(plate: Path) -> None:
    output = plate / "q.json"
    arguments = ("--data", str(plate), "--protocol", "mpt", "--json", str(output))
    assert run(*arguments, "--no-deconvolution", "--limit", "1") == 0
    document = json.loads(output.read_text(encoding="utf-8"))
    assert "its own minimum and maximum" in document["definition"]
    assert set(document["figures_by_defocus_um"]) == {"12", "20", "28"}
    assert len(document["frames"]) == 3


def test_no_well_that_a_bundle_was_trained_on_is_in_its_evaluation(plate: Path) -> None:
    trained = {"split_seed": 3, "validate": 0.4, "test": 0.5, "wells": {"train": "p24 p23"}}
    assert {p.specimen.split()[0] for p in bbbc006_pairs(plate, trained=trained)} == {"a02"}
    # The untrained wells are known, whatever the split of this part of the plate is.
    both = {"wells": {"train": "p23", "test": "p24"}}
    assert {p.specimen.split()[0] for p in bbbc006_pairs(plate, trained=both)} == {"a02", "p24"}
    with pytest.raises(InputError, match="was not trained on"):
        bbbc006_pairs(plate, trained={"wells": {"train": "p24", "validate": "a02"}})
    with pytest.raises(InputError, match="export it again from its run"):
        bbbc006_pairs(plate, trained={"kind": "bbbc006"})
    assert training_of(load_bundle(BUNDLE)) == {}


def test_other_planes_are_one_option(plate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = plate / "q.json"
    arguments = ("--data", str(plate), "--protocol", "bbbc006", "--json", str(output))
    assert run(*arguments, "--no-deconvolution", "--limit", "1", "--planes", "10") == 0
    document = json.loads(output.read_text(encoding="utf-8"))
    assert set(document["figures_by_defocus_um"]) == {"12"}
    assert "plane 10 against plane 16" in document["definition"]
    capsys.readouterr()


def test_the_planes_that_a_training_set_apart_are_the_default() -> None:
    assert planes_of(None, {}) == (2, 6, 10)
    assert planes_of(None, {"test_planes": [32]}) == (32,)
    assert planes_of([2, 6], {"test_planes": [32]}) == (2, 6)
    with pytest.raises(ConfigError, match="one side of focus at a time"):
        planes_of([0, 32], {})


def test_a_plate_without_the_planes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fetch-bbbc006"):
        run("--data", str(tmp_path), "--protocol", "bbbc006")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --data FOLDER, or --input"),
        (("--input", "a.tif"), "are a pair"),
        (("--data", "d", "--input", "a.tif", "--truth", "b.tif"), "give --data FOLDER, or"),
        (("--data", "d", "--limit", "0"), "at least 1"),
        (("--data", "d", "--rival", "care.onnx"), "NAME=FILE"),
        (("--data", "d", "--planes", "32"), "applies to --protocol bbbc006"),
        (("--data", "d", "--protocol", "bbbc006", "--planes", "16"), "16, which is the truth"),
        (("--input", "a", "--truth", "b", "--protocol", "bbbc006", "--planes", "2"), "applies to"),
        (("--data", "d", "--protocol", "mpt", "--planes", "2"), "applies to"),
        (("--data", "d", "--engine", "deconvolution"), "apply to --protocol stacks only"),
        (("--data", "d", "--channel", "w2=f", "--protocol", "bbbc006"), "held-out protocol only"),
        (("--input", "a.tif", "--truth", "b.tif", "--pixel-um", "0"), "pixel's side in um"),
    ],
)
def test_contradictions_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*arguments)


def test_frames_of_different_fields_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((80, 80), np.uint16))
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((80, 81), np.uint16))
    with pytest.raises(InputError, match="one camera and field"):
        run("--input", str(tmp_path / "a.tif"), "--truth", str(tmp_path / "b.tif"))


def test_defocus_accuracy_counts_classes_and_micrometres() -> None:
    true = np.array([0.0, 4.0, 4.0, 20.0])
    predicted = np.array([0.9, -4.2, 6.5, 14.0])
    found = defocus_accuracy(predicted, true)
    assert found.accuracy == 0.5
    assert found.within_one == 0.75
    assert found.mae_um == pytest.approx((0.9 + 0.2 + 2.5 + 6.0) / 4)
    accuracy, mae, bias, count = found.by_level[4.0]
    assert (accuracy, count) == (0.5, 2)
    assert mae == pytest.approx(1.35)
    assert bias == pytest.approx(1.35)
    assert len(CLASSES_UM) == 11
    with pytest.raises(InputError, match="not finite"):
        defocus_accuracy(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(InputError, match="at least one"):
        defocus_accuracy(np.array([]), np.array([]))


def test_a_bundle_without_a_defocus_head_has_no_defocus_figures(
    cases: list[Case], tmp_path: Path
) -> None:
    with_defocus_head(tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    del model.graph.output[1]
    onnx.save(model, tmp_path / "model.onnx")
    bundle = replace(load_bundle(BUNDLE), onnx=tmp_path / "model.onnx")
    assert evaluate_defocus(bundle, cases[:1], (4.0,)) is None


def test_the_shipped_bundle_tells_near_from_far(cases: list[Case]) -> None:
    found = evaluate_defocus(load_bundle(BUNDLE), cases[1:], (4.0, 24.0))
    assert found is not None
    near, far = (level + found.by_level[level][2] for level in (4.0, 24.0))
    assert near < 12 < 16 < far < 32


def with_defocus_head(folder: Path) -> None:
    """A network that returns frames unchanged, and reports 4 um wherever there is light."""
    from onnx import TensorProto, helper

    tile: dict[str, Any] = {"kernel_shape": [32, 32], "strides": [32, 32]}
    nodes = [
        helper.make_node("Identity", ["raw"], ["refocused"]),
        helper.make_node("MaxPool", ["raw"], ["brightest"], **tile),
        helper.make_node("Greater", ["brightest", "half"], ["lit"]),
        helper.make_node("Where", ["lit", "four", "ninety"], ["mean"]),
        # For dark tiles it reports that it does not know.
        helper.make_node("Where", ["lit", "zero", "six"], ["log_sigma"]),
        helper.make_node("Concat", ["mean", "log_sigma"], ["defocus"], axis=1),
    ]
    numbers = {"half": 0.5, "four": 4.0, "ninety": 90.0, "zero": 0.0, "six": 6.0}
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in numbers.items()
    ]
    raw, refocused = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, "h", "w"])
        for name in ("raw", "refocused")
    )
    defocus = helper.make_tensor_value_info("defocus", TensorProto.FLOAT, [1, 2, "y", "x"])
    graph = helper.make_graph(nodes, "head", [raw], [refocused, defocus], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def test_a_defocus_head_is_measured(cases: list[Case], tmp_path: Path) -> None:
    with_defocus_head(tmp_path)
    bundle = replace(load_bundle(BUNDLE), onnx=tmp_path / "model.onnx")
    found = evaluate_defocus(bundle, cases[1:], (2.0, 4.0, 8.0))
    assert found is not None
    # It reports 4 um for every frame.
    assert found.accuracy == pytest.approx(1 / 3, abs=1e-3)
    assert found.within_one == pytest.approx(2 / 3, abs=1e-3)
    assert found.by_level[8.0][2] == pytest.approx(-4.0, abs=0.1)
    assert found.document()["mae_um"] == pytest.approx(2.0, abs=0.1)


def test_an_exposure_knows_its_optics(cases: list[Case]) -> None:
    exposure = exposure_of(cases[1], 8.0)
    assert exposure.optics == cases[1].setting.optics
    assert exposure.pixel_um == cases[1].setting.optics.pixel_um
    assert exposure.defocus_um == 8.0


def test_a_user_knows_the_size_of_the_pixels(flux: NDArray[np.float32]) -> None:
    scene = exposure_of(Case("sample", "sample", flux[:256, :256], HELD_OUT[0]), 12.0)
    for method in user_methods():
        nominal = method.refocus(scene)
        finer = method.refocus(replace(scene, pixel_um=scene.pixel_um / 2))
        assert np.abs(nominal - finer).max() > 1, method.name
