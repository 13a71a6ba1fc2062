"""bioimage.io models as other people write them, made and validated with bioimageio.spec."""

from __future__ import annotations

import datetime
import gc
import warnings
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from bioimageio.spec import save_bioimageio_package, save_bioimageio_package_as_folder
from bioimageio.spec.model import v0_4, v0_5
from numpy.typing import NDArray
from onnx import TensorProto, helper

SIDE = 64
#: A processing step of each kind in format 0.5, and the same as a function of a frame.
COUNTS = np.random.default_rng(5).integers(100, 3000, (1, 1, SIDE, SIDE)).astype(np.float32)


def _weights(name: str, shape: tuple[int, ...], scale: float) -> Any:
    values = scale * np.random.default_rng(len(name)).standard_normal(shape)
    return helper.make_tensor(name, TensorProto.FLOAT, shape, values.ravel().tolist())


def _model(nodes: list[Any], weights: list[Any], size: Sequence[Any], channels: int = 1) -> bytes:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, *size])
        for name in ("x", "y")
    ]
    graph = helper.make_graph(nodes, "foreign", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


@cache
def network(kind: str = "plain") -> bytes:
    """ONNX: ``plain`` 3x3; ``grid`` on a grid of 4 px; ``global`` looks everywhere; ``fixed`` size."""
    conv = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])
    add = helper.make_node("Add", ["x", "c"], ["y"])
    weights = [_weights("w", (1, 1, 3, 3), 0.1)]
    if kind == "plain":
        return _model([conv, add], weights, ("h", "w"))
    if kind == "fixed":
        return _model([conv, add], weights, (SIDE, SIDE))
    if kind == "colours":
        rgb = [_weights("w", (3, 3, 3, 3), 0.1)]
        return _model([conv, add], rgb, ("h", "w"), channels=3)
    if kind == "global":
        pool = helper.make_node("GlobalAveragePool", ["x"], ["c"])
        return _model([pool, add], [], ("h", "w"))
    assert kind == "grid"
    nodes = [
        helper.make_node("SpaceToDepth", ["x"], ["a"], blocksize=4),
        helper.make_node("Conv", ["a", "w"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["b"], ["c"], blocksize=4),
        add,
    ]
    return _model(nodes, [_weights("w", (16, 16, 3, 3), 0.05)], ("h", "w"))


def run_onnx(data: bytes, frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """ONNX Runtime's output for frames of shape (n, 1, height, width)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {"x": frames})[0]
    return output


def blurred(side: int = 200) -> NDArray[np.uint16]:
    """A frame of blobs, as a camera records it."""
    import scipy.ndimage

    rng = np.random.default_rng(7)
    spots = scipy.ndimage.gaussian_filter((rng.random((side, side)) > 0.998) * 4e5, 5)
    return rng.poisson(spots + 150).astype(np.uint16)


def _files(folder: Path, data: bytes, wanted: NDArray[np.float32]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.onnx").write_bytes(data)
    np.save(folder / "in.npy", COUNTS)
    np.save(folder / "out.npy", wanted)
    (folder / "doc.md").write_text("# Sharpens\n\n# Validation\nNone.\n", encoding="utf-8")


def _saved(descr: Any, path: Path) -> Path:
    if path.suffix == ".zip":
        save_bioimageio_package(descr, output_path=path, allow_invalid=False)
    else:
        save_bioimageio_package_as_folder(descr, output_path=path)
    return path


def quietly(write: Callable[..., Path]) -> Callable[..., Path]:
    """Ignore warnings: bioimageio.spec leaves files open and warns of terse models."""

    @wraps(write)
    def written(*arguments: Any, **more: Any) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = write(*arguments, **more)
            gc.collect()
        return path

    return written


@quietly
def modern(
    path: Path,
    *,
    data: bytes,
    wanted: NDArray[np.float32],
    preprocessing: Sequence[Any] = (),
    postprocessing: Sequence[Any] = (),
    sizes: tuple[int, int] = (32, 8),
    halo: int | None = None,
) -> Path:
    """A model of format 0.5, as a folder, or as a zip if `path` ends in it."""
    source = path.parent / f"{path.name}-source"
    _files(source, data, wanted)

    def space(name: str) -> Any:
        return v0_5.SpaceInputAxis(
            id=v0_5.AxisId(name), size=v0_5.ParameterizedSize(min=sizes[0], step=sizes[1])
        )

    def follows(name: str) -> Any:
        size = v0_5.SizeReference(tensor_id=v0_5.TensorId("image"), axis_id=v0_5.AxisId(name))
        if halo is None:
            return v0_5.SpaceOutputAxis(id=v0_5.AxisId(name), size=size)
        return v0_5.SpaceOutputAxisWithHalo(id=v0_5.AxisId(name), size=size, halo=halo)

    channel = v0_5.ChannelAxis(channel_names=[v0_5.Identifier("gray")])
    given = v0_5.InputTensorDescr(
        id=v0_5.TensorId("image"),
        axes=[v0_5.BatchAxis(), channel, space("y"), space("x")],
        test_tensor=v0_5.FileDescr(source=source / "in.npy"),
        data=v0_5.IntervalOrRatioDataDescr(type="float32"),
        preprocessing=list(preprocessing),
    )
    returned = v0_5.OutputTensorDescr(
        id=v0_5.TensorId("sharp"),
        axes=[v0_5.BatchAxis(), channel, follows("y"), follows("x")],
        test_tensor=v0_5.FileDescr(source=source / "out.npy"),
        postprocessing=list(postprocessing),
    )
    descr = v0_5.ModelDescr(
        name="Sharpener of others (2-D)",
        description="Sharpens images.",
        authors=[v0_5.Author(name="Some Body")],
        cite=[v0_5.CiteEntry(text="nobody", url=v0_5.HttpUrl("https://example.com/paper"))],
        license=v0_5.LicenseId("MIT"),
        documentation=v0_5.FileDescr(source=source / "doc.md"),
        inputs=[given],
        outputs=[returned],
        weights=v0_5.WeightsDescr(
            onnx=v0_5.OnnxWeightsDescr(source=source / "net.onnx", opset_version=17)
        ),
        timestamp=v0_5.Datetime(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)),
    )
    return _saved(descr, path)


@quietly
def older(
    path: Path,
    *,
    data: bytes,
    wanted: NDArray[np.float32],
    preprocessing: Sequence[Any] = (),
    halo: int = 8,
) -> Path:
    """A model of format 0.4."""
    source = path.parent / f"{path.name}-source"
    _files(source, data, wanted)
    given = v0_4.InputTensorDescr(
        name=v0_4.TensorName("image"),
        axes="bcyx",
        data_type="float32",
        shape=v0_4.ParameterizedInputShape(min=[1, 1, 32, 32], step=[0, 0, 8, 8]),
        preprocessing=list(preprocessing),
    )
    returned = v0_4.OutputTensorDescr(
        name=v0_4.TensorName("sharp"),
        axes="bcyx",
        data_type="float32",
        shape=v0_4.ImplicitOutputShape(
            reference_tensor=v0_4.TensorName("image"), scale=[1, 1, 1, 1], offset=[0, 0, 0, 0]
        ),
        halo=[0, 0, halo, halo],
    )
    descr = v0_4.ModelDescr(
        name="An older sharpener",
        description="Sharpens images.",
        authors=[v0_4.Author(name="Some Body")],
        cite=[v0_4.CiteEntry(text="nobody", url=v0_4.HttpUrl("https://example.com/paper"))],
        license=v0_4.LicenseId("MIT"),
        documentation=source / "doc.md",
        inputs=[given],
        outputs=[returned],
        test_inputs=[source / "in.npy"],
        test_outputs=[source / "out.npy"],
        weights=v0_4.WeightsDescr(
            onnx=v0_4.OnnxWeightsDescr(source=source / "net.onnx", opset_version=17)
        ),
        timestamp=v0_4.Datetime(datetime.datetime(2023, 1, 1, tzinfo=datetime.UTC)),
    )
    return _saved(descr, path)
