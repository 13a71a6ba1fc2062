"""Models are checked before they are opened: archives, networks, tensors."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from fuzzing import damaged
from numpy.typing import NDArray
from test_bundle_fuzz import tiny_onnx, write_bundle
from test_models import library, models, tiny, zipped

from refocusd.errors import BundleError, OutputError
from refocusd.models import archive
from refocusd.models.bundle import load_bundle, read_frames
from refocusd.models.install import add_bundle
from refocusd.models.library import user_bundles
from refocusd.models.onnx_guard import refuse_outside_weights

pytestmark = pytest.mark.fast

__all__ = ["library", "tiny"]


# -- archives ----------------------------------------------------------------------------


def archived(path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def _link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("model.onnx")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


HARMFUL: dict[str, tuple[Callable[[], list[tuple[zipfile.ZipInfo | str, bytes]]], str]] = {
    "above": (lambda: [("../evil", b"x")], "not a plain file"),
    "absolute": (lambda: [("/evil", b"x")], "not a plain file"),
    "a drive": (lambda: [("C:/evil", b"x")], "not a plain file"),
    "backslashes": (lambda: [("a\\..\\evil", b"x")], "not a plain file"),
    "a link": (lambda: [(_link(), b"/etc/passwd")], "not a plain file"),
    "a bomb": (lambda: [("rdf.yaml", bytes(64 << 20))], "grow"),
    "many": (lambda: [(f"f{n}", b"") for n in range(1100)], "more than 1024"),
    "two of one name": (lambda: [("rdf.yaml", b"a"), ("RDF.yaml", b"b")], "two files"),
    "nothing": (list, "rdf.yaml"),
    "no model": (lambda: [("rdf.yaml", b"a: 1")], "no.* bioimage.io model"),
}


@pytest.mark.parametrize("case", list(HARMFUL))
def test_an_archive_made_to_harm_is_refused(
    tmp_path: Path, library: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entries, word = HARMFUL[case]
    path = archived(tmp_path / "evil.zip", entries())
    if case == "backslashes":
        # zipfile writes slashes instead.
        path.write_bytes(path.read_bytes().replace(b"a/../evil", b"a\\..\\evil"))
    before = sorted(tmp_path.iterdir())
    assert models("add", path) == 2
    assert re.search(word, capsys.readouterr().err)
    assert list(library.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == sorted([*before, library])


def test_an_archive_of_one_folder_is_taken(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.zip"
    with zipfile.ZipFile(path, "w") as file:
        for entry in tiny.iterdir():
            file.write(entry, f"tiny-1.0/{entry.name}")
    assert models("add", path) == 0
    assert user_bundles() == ["tiny"]


def test_a_full_disk_is_announced_before_it_is_full(
    tiny: Path, library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(archive, "RESERVE_BYTES", 1 << 60)
    assert models("add", tiny) == 2
    assert "no room" in capsys.readouterr().err
    assert list(library.iterdir()) == []


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_packed_in_an_uncommon_way_is_refused(
    tmp_path: Path, library: Path, how: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "odd.zip", "w", how) as file:
        file.writestr("rdf.yaml", b"a: 1\n" * 100)
    assert models("add", tmp_path / "odd.zip") == 2
    assert "pack it again" in capsys.readouterr().err
    assert list(library.iterdir()) == []


def test_damaged_archives_are_refused_or_whole(tiny: Path, tmp_path: Path, library: Path) -> None:
    good = zipped(tiny, tmp_path / "good").read_bytes()
    whole = load_bundle(tiny).sha256
    rng, refused = Random(0), 0
    for _ in range(150):
        (tmp_path / "bad.zip").write_bytes(damaged(good, rng))
        try:
            added = add_bundle(tmp_path / "bad.zip", frames=list, name="bad", replace=True)
        except (BundleError, OutputError):
            refused += 1
        else:
            assert added.bundle.sha256 == whole
    assert refused > 30
    assert {path.name for path in library.iterdir()} <= {"bad"}


# -- networks and tensors before they are opened -----------------------------------------


def _outside(where: str) -> bytes:
    """A network that refers to weights in another file: in its graph, a node or a sparse tensor."""
    model = onnx.load_from_string(tiny_onnx())
    away = onnx.TensorProto(name="away", dims=[36], data_type=1)
    away.data_location = onnx.TensorProto.EXTERNAL
    entry = away.external_data.add()
    entry.key, entry.value = "location", "away.bin"
    if where == "graph":
        model.graph.initializer.append(away)
    elif where == "node":
        constant = onnx.helper.make_node("Constant", [], ["k"], value=away)
        model.graph.node.append(constant)
    elif where == "branch":
        inner = onnx.helper.make_graph([], "inner", [], [], [away])
        model.graph.node.append(
            onnx.helper.make_node("If", ["raw"], ["k"], then_branch=inner, else_branch=inner)
        )
    elif where == "sparse":
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=away, dims=[36]))
    else:
        constant = onnx.helper.make_node("Constant", [], ["k"], value=away)
        opset = [onnx.helper.make_opsetid("", 18)]
        model.functions.append(onnx.helper.make_function("d", "f", [], ["k"], [constant], opset))
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("where", ["graph", "node", "branch", "sparse", "function"])
def test_weights_in_other_files_are_seen_wherever_they_hide(tmp_path: Path, where: str) -> None:
    path = tmp_path / "n.onnx"
    path.write_bytes(_outside(where))
    with pytest.raises(BundleError, match="external data"):
        refuse_outside_weights(path)
    path.write_bytes(tiny_onnx())
    refuse_outside_weights(path)


def _varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def _field(number: int, content: bytes, *, beyond: int = 0) -> bytes:
    """A field of bytes; `beyond` is added to its tag."""
    return _varint((number << 3 | 2) + beyond) + _varint(len(content)) + content


def test_a_tag_that_runtimes_cut_to_32_bits_hides_no_weights(tmp_path: Path) -> None:
    """OpenVINO would read on, and take weights from any address in its memory."""
    model = onnx.load_from_string(tiny_onnx())
    hidden = onnx.TensorProto(name="away", dims=[36], data_type=1).SerializeToString()
    entry = _field(1, b"location") + _field(2, b"*/_ORT_MEM_ADDR_/*")
    hidden += _field(13, entry, beyond=1 << 32) + _varint((14 << 3) + (1 << 32)) + b"\1"
    graph = model.graph.SerializeToString() + _field(5, hidden)
    model.ClearField("graph")
    path = tmp_path / "n.onnx"
    path.write_bytes(model.SerializeToString() + _field(7, graph))
    with pytest.raises(BundleError, match="not supported"):
        refuse_outside_weights(path)


def test_a_listed_file_of_weights_is_refused_too(tmp_path: Path) -> None:
    files = {"model.onnx": _outside("graph"), "away.bin": bytes(144)}
    with pytest.raises(BundleError, match="external data"):
        load_bundle(write_bundle(tmp_path / "bundle", files))


@pytest.mark.parametrize(
    "data",
    [b"\x3b\x3c", (b"\x3a\xff\xff\x7f" + b"\x3a\x80\x80\x7f" * 3), b"\x08\x00" * 3_000_000],
    ids=["groups", "beyond the end", "slow"],
)
def test_what_is_odd_is_refused_or_left_to_the_runtime(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "n.onnx").write_bytes(data)
    if data[0] == 0x3A:
        refuse_outside_weights(tmp_path / "n.onnx")
        return
    with pytest.raises(BundleError, match="not supported"):
        refuse_outside_weights(tmp_path / "n.onnx")


def _saved(path: Path, array: NDArray[Any]) -> Path:
    np.save(path, array, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((3, 3), np.float32), "shape"),
        (np.zeros((1, 2, 3, 3), np.float32), "shape"),
        (np.zeros((0, 1, 3, 3), np.float32), "shape"),
        (np.full((1, 1, 2, 2), "x"), "real numbers"),
        (np.full((1, 1, 2, 2), None), "real numbers"),
        (np.full((1, 1, 2, 2), np.nan, np.float32), "finite"),
    ],
)
def test_tensors_that_are_no_frames_are_refused(
    tmp_path: Path, array: NDArray[Any], word: str
) -> None:
    with pytest.raises(BundleError, match=word):
        read_frames(_saved(tmp_path / "t.npy", array))


def test_a_tensor_with_sides_below_zero_is_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path / "t.npy", np.zeros((2, 1, 3, 5), np.float32))
    path.write_bytes(path.read_bytes().replace(b"(2, 1, 3, 5), }  ", b"(-2, 1, -3, 5), }"))
    with pytest.raises(BundleError, match="shape"):
        read_frames(path)


def test_a_tensor_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    path = _saved(tmp_path / "t.npy", np.zeros((1, 1, 8, 8), np.float32))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(1, 1, 8, 8), ", b"(1, 1, 9, 8), "))
    with pytest.raises(BundleError, match="than its header states"):
        read_frames(path)
    path.write_bytes(data.replace(b"(1, 1, 8, 8), }  ", b"(9999, 1, 99999, 9), }")[: len(data)])
    with pytest.raises(BundleError):
        read_frames(path)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_tensors_are_refused_or_frames(tmp_path: Path, seed: int) -> None:
    frames = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    good = _saved(tmp_path / "t.npy", frames).read_bytes()
    rng = Random(seed)
    for _ in range(150):
        (tmp_path / "t.npy").write_bytes(damaged(good, rng, weak=range(128)))
        try:
            read = read_frames(tmp_path / "t.npy")
        except BundleError:
            continue
        assert read.dtype == np.float32
        assert read.ndim == 4


def test_frames_in_fortran_order_and_integers_are_read(tmp_path: Path) -> None:
    frames = np.arange(120, dtype=np.uint16).reshape(2, 1, 6, 10)
    read = read_frames(_saved(tmp_path / "t.npy", np.asfortranarray(frames)))
    np.testing.assert_array_equal(read, frames.astype(np.float32))


def test_links_in_a_folder_are_not_followed(tiny: Path, tmp_path: Path, library: Path) -> None:
    secret = tmp_path / "secret"
    shutil.move(tiny / "README.md", secret)
    try:
        (tiny / "README.md").symlink_to(secret)
    except OSError as error:
        pytest.skip(f"no links can be made here: {error}")
    assert models("add", tiny) == 2
    assert list(library.iterdir()) == []
