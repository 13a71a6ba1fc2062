"""Other people's models are used as their authors intend, or refused with the reason."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bioimageio.spec.model import v0_4, v0_5
from foreign_models import COUNTS, blurred, modern, network, older, run_onnx
from numpy.typing import NDArray

from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.engines.self_test import check_engine
from refocusd.errors import BundleError
from refocusd.frame import Pixels
from refocusd.models.bioimageio_rdf import read_foreign
from refocusd.models.bundle import load_bundle
from refocusd.models.install import Added, add_bundle
from refocusd.models.reference_network import ReferenceNetwork, measured_field_px

AXES = [v0_5.AxisId(name) for name in ("channel", "y", "x")]
CAREFUL = EngineOptions(backend="openvino", precision="f32", threads=1)


def frames() -> list[Pixels]:
    frame = blurred()
    return [frame, np.ascontiguousarray(frame[::-1]), frame.T.copy()]


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model folder."""
    monkeypatch.setenv("REFOCUSD_MODELS", str(tmp_path / "library"))
    return tmp_path / "library"


def add(path: Path, **more: Any) -> Added:
    return add_bundle(path, frames=frames, **more)


def between(frame: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    ends = np.percentile(frame.astype(np.float64), [low, high])
    normalised: NDArray[np.float32] = ((frame - ends[0]) / (ends[1] - ends[0] + 1e-6)).astype("f4")
    return normalised


def scale_range(low: float, high: float) -> Any:
    kwargs = v0_5.ScaleRangeKwargs(axes=AXES, min_percentile=low, max_percentile=high)
    return v0_5.ScaleRangeDescr(kwargs=kwargs)


def linear(gain: float, offset: float = 0.0) -> Any:
    return v0_5.ScaleLinearDescr(kwargs=v0_5.ScaleLinearKwargs(gain=gain, offset=offset))


def of_frame() -> Any:
    return v0_5.ZeroMeanUnitVarianceDescr(kwargs=v0_5.ZeroMeanUnitVarianceKwargs(axes=AXES))


def standing() -> Any:
    kwargs = v0_5.FixedZeroMeanUnitVarianceKwargs(mean=900.0, std=400.0)
    return v0_5.FixedZeroMeanUnitVarianceDescr(kwargs=kwargs)


def same(x: NDArray[Any]) -> NDArray[np.float32]:
    return x.astype(np.float32)


#: name -> preprocessing, postprocessing, and both as functions.
Case = tuple[Sequence[Any], Sequence[Any], Callable[..., Any], Callable[..., Any]]
CASES: dict[str, Case] = {
    "percentiles": ([scale_range(1, 99.8)], [], lambda x: between(x, 1, 99.8), same),
    "smallest and largest": ([scale_range(0, 100)], [], lambda x: between(x, 0, 100), same),
    "mean and spread": ([of_frame()], [], lambda x: (x - x.mean()) / x.std(), same),
    "fixed mean and spread": ([standing()], [], lambda x: (x - 900) / 400, same),
    "a factor": ([linear(1 / 4096)], [], lambda x: x / 4096, same),
    "a factor, undone": ([linear(0.001)], [linear(1000.0)], lambda x: x / 1000, lambda y: y * 1000),
    "counts as they are": ([], [], same, same),
}


def made(path: Path, case: str, kind: str = "plain", **more: Any) -> Path:
    before, after, prepared, finished = CASES[case]
    data = network(kind)
    wanted = finished(run_onnx(data, prepared(COUNTS).astype(np.float32))).astype(np.float32)
    return modern(
        path, data=data, wanted=wanted, preprocessing=before, postprocessing=after, **more
    )


# -- accepted ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(CASES))
def test_a_model_does_in_an_engine_what_its_makers_meant(tmp_path: Path, case: str) -> None:
    """The refocused frame is network(normalised counts), converted back to counts."""
    added = add(made(tmp_path / "model.zip", case))
    assert added.adopted is not None
    assert added.adopted.deviation < 1e-3
    frame = blurred()
    engine = build_engine(added.name, CAREFUL)
    out = np.empty_like(frame)
    seen = engine.refocus(frame, out).counts
    _, _, prepared, _ = CASES[case]
    expected = run_onnx(network(), prepared(frame.astype(np.float32))[None, None].astype("f4"))
    found = (out.astype(np.float64) - seen.offset) / seen.scale
    # Half a count for rounding, and one for the percentile.
    floor = (0 - seen.offset) / seen.scale
    assert np.abs(found - expected[0, 0].clip(floor)).max() <= 3 / seen.scale
    checks = check_engine(load_bundle(added.name), engine)
    engine.close()
    assert [check.name for check in checks] == ["test", "validation"]
    assert all(check.good for check in checks), checks


def test_a_model_of_the_older_format_is_taken(tmp_path: Path) -> None:
    kwargs = v0_4.ScaleRangeKwargs(
        mode="per_sample", axes="cyx", min_percentile=1, max_percentile=99.8
    )
    data = network()
    path = older(
        tmp_path / "model",
        data=data,
        wanted=run_onnx(data, between(COUNTS, 1, 99.8)),
        preprocessing=[v0_4.ScaleRangeDescr(kwargs=kwargs)],
        halo=12,
    )
    bundle = add(path).bundle
    assert (bundle.low_percentile, bundle.high_percentile) == (1.0, 99.8)
    assert bundle.size_multiple == 8
    assert bundle.title == "An older sharpener"
    assert bundle.foreign
    assert "Sharpens" in bundle.card


def test_the_description_of_others_stays_as_it_was(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "percentiles")
    bundle = add(folder).bundle
    assert (bundle.folder / "rdf.yaml").read_bytes() == (folder / "rdf.yaml").read_bytes()
    with (bundle.folder / "rdf.yaml").open("ab") as stream:
        stream.write(b"# changed\n")
    with pytest.raises(BundleError, match=r"rdf\.yaml is not the file"):
        load_bundle(bundle.folder)


def test_axes_without_an_id_have_the_one_of_the_format(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "percentiles")
    (place,) = folder.glob("*.yaml")
    said = yaml.safe_load(place.read_text(encoding="utf-8"))
    for axis in (axis for part in ("inputs", "outputs") for axis in said[part][0]["axes"]):
        if axis["type"] != "space" or axis["id"] == "x":
            axis.pop("id", None)
    place.write_text(yaml.safe_dump(said), encoding="utf-8")
    added = add(folder)
    assert added.adopted is not None
    assert added.adopted.deviation < 1e-3
    assert added.bundle.size_multiple == 8


def test_the_larger_of_halo_and_measured_field_counts(tmp_path: Path) -> None:
    told = add(made(tmp_path / "a.zip", "percentiles", halo=40, sizes=(96, 8)), name="told").bundle
    measured = add(made(tmp_path / "b.zip", "percentiles", halo=2), name="measured").bundle
    assert told.receptive_field_px == 48
    assert measured.receptive_field_px == 16


def test_sides_are_multiples_of_what_the_network_takes(tmp_path: Path) -> None:
    assert (
        add(made(tmp_path / "a.zip", "percentiles", "grid", sizes=(16, 4))).bundle.size_multiple
        == 4
    )


def test_a_taken_model_can_be_carried_to_another_computer(tmp_path: Path, library: Path) -> None:
    """Its folder as a zip is complete, including checksums."""
    bundle = add(made(tmp_path / "model.zip", "percentiles")).bundle
    packed = shutil.make_archive(str(tmp_path / "carried"), "zip", bundle.folder)
    assert add(Path(packed), name="carried").bundle.sha256 == bundle.sha256


def test_files_that_are_not_used_stay_behind(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "percentiles")
    (folder / "train.py").write_text("raise SystemExit", encoding="utf-8")
    (folder / "weights.pt").write_bytes(b"\x80\x04.")
    kept = {path.suffix for path in add(folder).bundle.folder.iterdir()}
    assert kept == {".yaml", ".onnx", ".npy", ".md"}


# -- refused -----------------------------------------------------------------------------


def changed(folder: Path, change: Callable[[Any], Any]) -> Path:
    path = folder / "rdf.yaml"
    rdf = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(rdf)
    path.write_text(yaml.safe_dump(rdf), encoding="utf-8")
    return folder


def _torch_only(rdf: Any) -> None:
    rdf["weights"] = {"torchscript": rdf["weights"]["onnx"]}


def _third_axis(rdf: Any) -> None:
    rdf["inputs"][0]["axes"].insert(2, {"type": "space", "id": "z", "size": 1})


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "3-D": (_third_axis, "2-D"),
    "channels last": (
        lambda r: r["inputs"][0]["axes"].append(r["inputs"][0]["axes"].pop(1)),
        "axes",
    ),
    "colours": (
        lambda r: r["inputs"][0]["axes"][1].update(channel_names=["r", "g", "b"]),
        "3 channels",
    ),
    "two inputs": (lambda r: r["inputs"].append(copy.deepcopy(r["inputs"][0])), "takes 2"),
    "torchscript only": (_torch_only, "torchscript.*ONNX only"),
    "weights in two files": (
        lambda r: r["weights"]["onnx"].update(external_data={"source": "big.bin"}),
        "external data",
    ),
    "one size": (lambda r: r["inputs"][0]["axes"][3].update(size=256), "variable sizes"),
    "half the size": (lambda r: r["outputs"][0]["axes"][3].update(scale=2.0), "not as long"),
    "unknown preprocessing": (
        lambda r: r["inputs"][0].update(preprocessing=[{"id": "custom", "kwargs": {}}]),
        "'custom'",
    ),
    "a data set's percentiles": (
        lambda r: r["inputs"][0]["preprocessing"][1]["kwargs"].update(mode="per_dataset"),
        "whole dataset",
    ),
    "rows by themselves": (
        lambda r: r["inputs"][0]["preprocessing"][1]["kwargs"].update(axes=["x"]),
        "not known",
    ),
    "a factor, then percentiles": (
        lambda r: r["inputs"][0]["preprocessing"].insert(
            0, {"id": "scale_linear", "kwargs": {"gain": 0.5}}
        ),
        "tools disagree",
    ),
    "no spread": (
        lambda r: r["inputs"][0].update(
            preprocessing=[
                {"id": "fixed_zero_mean_unit_variance", "kwargs": {"mean": 100.0, "std": 0.0}}
            ]
        ),
        "not that of a bioimage.io model",
    ),
    "a segmentation": (
        lambda r: r["outputs"][0].update(postprocessing=[{"id": "sigmoid"}]),
        "scale of counts",
    ),
    "another scale": (
        lambda r: r["outputs"][0].update(
            postprocessing=[{"id": "scale_linear", "kwargs": {"gain": 5.0}}]
        ),
        "does not undo",
    ),
    "on the internet": (
        lambda r: r["weights"]["onnx"].update(source="https://example.com/n.onnx"),
        "internet",
    ),
    "elsewhere on the disk": (
        lambda r: r["weights"]["onnx"].update(source="../net.onnx"),
        "in one folder",
    ),
    "other weights": (lambda r: r["weights"]["onnx"].update(sha256="0" * 64), "sha256"),
    "another test tensor": (
        lambda r: r["inputs"][0]["preprocessing"][1]["kwargs"].update(max_percentile=60.0),
        "is not reproduced",
    ),
    "a data set": (lambda r: r.update(type="dataset"), "takes models"),
    "a later format": (lambda r: r.update(format_version="0.6.0"), "0.4 and 0.5"),
    "nothing of it": (lambda r: r.clear(), "not that of a bioimage.io model"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, library: Path, case: str) -> None:
    change, word = REFUSED[case]
    folder = changed(made(tmp_path / "model", "percentiles"), change)
    with pytest.raises(BundleError, match=word) as raised:
        add(folder)
    assert str(folder) in str(raised.value)
    assert list(library.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "sizes", "word"),
    [
        ("fixed", (32, 8), "frames of one size"),
        ("colours", (32, 8), "3 channels"),
        ("global", (32, 8), "whole frame"),
        ("grid", (34, 2), "does not take the sizes"),
    ],
)
def test_a_network_that_is_not_as_described_is_refused(
    tmp_path: Path, library: Path, kind: str, sizes: tuple[int, int], word: str
) -> None:
    data = network("plain" if kind in ("fixed", "colours") else kind)
    wanted = run_onnx(data, between(COUNTS, 1, 99.8))
    folder = modern(
        tmp_path / "model",
        data=network(kind),
        wanted=wanted,
        preprocessing=[scale_range(1, 99.8)],
        sizes=sizes,
    )
    with pytest.raises(BundleError, match=word):
        add(folder)
    assert list(library.iterdir()) == []


def test_descriptions_of_any_shape_are_refused_or_read(tmp_path: Path) -> None:
    """Whatever the contents, the only error is `BundleError`."""
    from random import Random

    from fuzzing import changed_tree

    rdf = yaml.safe_load((made(tmp_path / "model", "a factor, undone") / "rdf.yaml").read_text())
    rng = Random(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(600):
        try:
            read_foreign(changed_tree(rdf, rng))
            outcomes["read"] += 1
        except BundleError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0


# -- the receptive field -----------------------------------------------------------------


def test_the_measured_field_is_that_of_the_kernel(tmp_path: Path) -> None:
    """A mean over 81 px reaches 40 px; 48 is the next multiple of 16."""
    pytest.importorskip("scipy")
    from scipy.ndimage import uniform_filter

    ready = [(frame / 500).astype(np.float32) for frame in frames()]

    def blur(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([uniform_filter(frame[0], 81, mode="reflect")[None] for frame in batch])

    assert measured_field_px(blur, ready, size=256) == 48
    assert measured_field_px(lambda batch: batch, ready, size=256) == 0
    assert measured_field_px(lambda batch: batch - batch.mean(), ready, size=256) is None


def test_the_reference_network_is_onnx_runtime_to_a_hair(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(network("grid"))
    batch = between(COUNTS, 1, 99.8)
    found = ReferenceNetwork(tmp_path / "net.onnx", threads=1)(batch)
    np.testing.assert_allclose(found, run_onnx(network("grid"), batch), atol=1e-5)
