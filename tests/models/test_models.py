"""The user's models are found, added completely or not at all, tested, built, removed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from test_bundle_fuzz import description, tiny_onnx, write_bundle

from refocusd.cli.main import main
from refocusd.errors import BundleError
from refocusd.models.bundle import load_bundle
from refocusd.models.library import models_folder, shipped_bundles, user_bundles

MODEL = "live-nuclei"


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model folder that does not exist yet."""
    monkeypatch.setenv("REFOCUSD_MODELS", str(tmp_path / "library"))
    return tmp_path / "library"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A small bundle of refocusd's own kind."""
    return write_bundle(tmp_path / "source", {"model.onnx": tiny_onnx(), "README.md": b"# Tiny\n"})


def models(*arguments: object) -> int:
    return main(["models", *map(str, arguments)])


def zipped(folder: Path, path: Path) -> Path:
    return Path(shutil.make_archive(str(path), "zip", folder))


# -- what a bundle says ------------------------------------------------------------------


def described(tmp_path: Path, **more: object) -> Path:
    """A bundle with these entries in its ``config.refocusd``."""
    files = {"model.onnx": tiny_onnx(), "model-int8.onnx": tiny_onnx()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    rdf = description(sums)
    rdf["config"]["refocusd"].update(more)
    return write_bundle(tmp_path / "bundle", files, yaml.safe_dump(rdf).encode())


def test_a_bundle_says_what_it_holds(tmp_path: Path) -> None:
    bundle = load_bundle(
        described(
            tmp_path,
            variants={"int8": "model-int8.onnx"},
            network={"name": "live", "options": {"widths": [8, 16], "head": False}},
            channels=["DAPI", "Hoechst"],
            tolerance={"f32": 1e-3},
            something_of_tomorrow={"a": 1},
        )
    )
    assert bundle.variants == {"int8": bundle.folder / "model-int8.onnx"}
    assert bundle.network == {"name": "live", "options": {"widths": [8, 16], "head": False}}
    assert bundle.channels == ("DAPI", "Hoechst")
    assert bundle.tolerance == {"f32": 1e-3}
    assert (bundle.title, bundle.weights, bundle.card, bundle.foreign) == ("tiny", None, "", False)


def test_the_shipped_bundle_has_all_parts() -> None:
    bundle = load_bundle(MODEL)
    assert bundle.weights == bundle.folder / "weights.safetensors"
    assert bundle.test is not None
    assert bundle.validation is not None
    assert bundle.card.startswith("# refocusd live nuclei")
    assert bundle.tolerance["f32"] == 1e-3


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"variants": {"int8": "absent.onnx"}}, "does not list absent.onnx"),
        ({"variants": {"int8": "../model.onnx"}}, "does not list"),
        ({"variants": {f"p{n}": "model.onnx" for n in range(17)}}, "variants"),
        ({"network": {"deep": [[[[[[[1]]]]]]]}}, "larger or deeper than"),
        ({"network": {"long": list(range(600))}}, "larger or deeper than"),
        ({"network": {"x": float("nan")}}, "float values"),
        ({"network": {"k" * 65: 1}}, "short word"),
        ({"network": [1]}, "network"),
        ({"tolerance": {"f32": -1.0}}, "tolerance"),
        ({"channels": ["x" * 129]}, "channels"),
        ({"normalisation": {"kind": "magic"}}, "normalisation"),
        ({"normalisation": {"kind": "fixed", "scale": 0.0}}, "normalisation"),
        ({"onnx": "other.onnx"}, "does not list other.onnx"),
    ],
)
def test_what_a_bundle_says_is_bounded(tmp_path: Path, more: dict[str, object], word: str) -> None:
    with pytest.raises(BundleError, match=word):
        load_bundle(described(tmp_path, **more))


def test_mean_and_spread_of_a_flat_frame_are_not_stretched(tmp_path: Path) -> None:
    bundle = load_bundle(described(tmp_path, normalisation={"kind": "mean_std"}))
    found = bundle.counts_range(np.full((32, 32), 70, np.uint16))
    assert (found.offset, found.scale) == (70.0, 3.0)


# -- where models are found --------------------------------------------------------------


def test_a_name_means_the_shipped_model_then_the_users_then_a_path(
    library: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert user_bundles() == []
    shutil.copytree(tiny, library / MODEL)
    shutil.copytree(tiny, library / "mine")
    assert load_bundle(MODEL).model_id == "live-nuclei-2"
    assert load_bundle("mine").folder == library / "mine"
    monkeypatch.chdir(tiny.parent)
    assert load_bundle("source").folder == Path("source")
    with pytest.raises(BundleError, match=r"live-nuclei, .*mine"):
        load_bundle("absent")


def test_the_users_folder_is_that_of_the_system_unless_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REFOCUSD_MODELS")
    assert models_folder().parts[-2:] == ("refocusd", "models")


# -- the commands ------------------------------------------------------------------------


def test_models_alone_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert models() == 0
    said = capsys.readouterr().out
    assert all(name in said for name in shipped_bundles())
    assert "shipped" in said


def test_a_model_is_added_listed_shown_and_removed(
    tiny: Path, library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models("add", zipped(tiny, tmp_path / "tiny")) == 0
    assert [path.name for path in library.iterdir()] == ["tiny"]
    assert load_bundle("tiny").sha256 == load_bundle(tiny).sha256
    assert models("list", "--json", tmp_path / "list.json") == 0
    listed = json.loads((tmp_path / "list.json").read_text())["models"]
    origins = {item["name"]: item["origin"] for item in listed}
    assert origins == {**dict.fromkeys(shipped_bundles(), "shipped"), "tiny": "yours"}
    assert models("show", "tiny", "--json", tmp_path / "show.json") == 0
    shown = json.loads((tmp_path / "show.json").read_text())
    assert {file["name"] for file in shown["files"]} == {"model.onnx", "README.md"}
    assert "# Tiny" in capsys.readouterr().out
    assert models("remove", "tiny") == 0
    assert list(library.iterdir()) == []


def test_a_model_is_not_overwritten_unasked(tiny: Path, library: Path) -> None:
    assert models("add", tiny) == 0
    before = load_bundle("tiny").sha256
    (tiny / "README.md").write_bytes(b"# Another\n")
    content = {path.name: path.read_bytes() for path in tiny.iterdir() if path.name != "rdf.yaml"}
    write_bundle(tiny, content)
    assert models("add", tiny) == 2
    assert load_bundle("tiny").sha256 == before
    assert models("add", tiny, "--name", "second") == 0
    assert models("add", tiny, "--replace") == 0
    assert load_bundle("tiny").sha256 == load_bundle(tiny).sha256 != before
    assert sorted(path.name for path in library.iterdir()) == ["second", "tiny"]


def test_a_broken_model_is_listed_as_such(
    tiny: Path, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models("add", tiny) == 0
    (library / "tiny" / "model.onnx").write_bytes(b"altered")
    assert models("list") == 1
    said = capsys.readouterr().out
    assert "BROKEN" in said
    assert "is not the file that the bundle was made with" in said


@pytest.mark.parametrize(
    "name", [MODEL, "../up", ".hidden", "a/b", "", "ends.", "nul", "Con.1", "lpt1"]
)
def test_names_that_are_taken_or_leave_the_folder_are_refused(
    tiny: Path, library: Path, name: str
) -> None:
    assert models("add", tiny, "--name", name) == 2
    assert models("remove", name) == 2
    assert not library.exists() or list(library.iterdir()) == []
    assert MODEL in shipped_bundles()


def test_what_others_clear_away_meanwhile_is_no_matter(tiny: Path, library: Path) -> None:
    library.mkdir()
    try:
        (library / ".adding-gone").symlink_to(library / "nowhere")
    except OSError as error:
        pytest.skip(f"no links can be made here: {error}")
    assert models("add", tiny) == 0


@pytest.mark.parametrize("channel", ["[/DAPI]", "[bold]", "\x1b[2J"])
def test_texts_of_a_model_are_shown_unchanged(
    tmp_path: Path,
    channel: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not interpreted as markup, and does not control the terminal."""
    monkeypatch.setenv("COLUMNS", "400")
    folder = described(tmp_path, channels=[channel], title=f"a {channel}")
    shown = channel.replace("\x1b", r"\x1b")
    for action in ("list", "show"):
        assert models(action, folder) == 0
        said = capsys.readouterr().out
        assert "\x1b" not in said
        assert shown in said


def test_what_is_damaged_leaves_nothing_behind(tiny: Path, library: Path, tmp_path: Path) -> None:
    packed = zipped(tiny, tmp_path / "tiny")
    data = packed.read_bytes()
    packed.write_bytes(data[: len(data) // 2])
    assert models("add", packed) == 2
    (tiny / "model.onnx").write_bytes(b"altered")
    assert models("add", tiny) == 2
    assert models("add", tmp_path / "absent") == 2
    assert list(library.iterdir()) == []


def test_the_shipped_model_passes_its_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--backend", "openvino", "--precision", "f32", "--json", tmp_path / "test.json"]
    assert models("test", MODEL, *flags) == 0
    found = json.loads((tmp_path / "test.json").read_text())
    assert found["good"]
    assert found["engine"]["precision"] == "f32"
    assert {pair["name"] for pair in found["tensors"]} == {"test", "validation"}
    assert all(0 < pair["largest"] < pair["tolerance"] < 2e-3 for pair in found["tensors"])
    assert "good" in capsys.readouterr().out


def test_a_model_that_does_otherwise_fails_its_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle is intact, but has the network of another training run."""
    folder = Path(shutil.copytree(load_bundle(MODEL).folder, tmp_path / "other"))
    old = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    network = onnx.load(folder / "model.onnx")
    refocused = network.graph.output[0].name
    (last,) = (node for node in network.graph.node if refocused in node.output)
    last.output[0] = "almost"
    network.graph.initializer.append(onnx.helper.make_tensor("gain", 1, [], [1.01]))
    network.graph.node.append(onnx.helper.make_node("Mul", ["almost", "gain"], [refocused]))
    onnx.save(network, folder / "model.onnx")
    new = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    rdf = folder / "rdf.yaml"
    rdf.write_text(rdf.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    assert models("test", folder, "--backend", "openvino", "--precision", "f32") == 1
    assert "OUT" in capsys.readouterr().out


def test_a_bundle_without_tensors_says_so(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models("test", tiny, "--backend", "openvino") == 2
    assert "no test tensors" in capsys.readouterr().err


def test_an_engine_is_built_ahead(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--backend", "openvino", "--precision", "f32", "--size", "96x64"]
    assert models("build", MODEL, *flags) == 0
    said = capsys.readouterr().out
    assert "openvino in f32 on CPU" in said
    assert "96×64" in said
