"""A finished run becomes a model bundle: ONNX, safetensors, test tensors, description.

The bundle is a bioimage.io model (format 0.5).  Its tensors come from the
sample image that refocusd ships, which is on the test side of the split.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import tifffile
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file

from refocusd.engines.normalise import counts_range
from refocusd.errors import InputError, OutputError
from refocusd.optics import Optics
from refocusd_training.card import model_card
from refocusd_training.config import load_config
from refocusd_training.networks import SIZE_MULTIPLE, LiveUNet
from refocusd_training.simulate import ranges
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.camera import Camera
from refocusd_training.simulate.ranges import Ranges, Setting
from refocusd_training.simulate.scene import Scene, simulate_frame
from refocusd_training.simulate.specimen import flux_of
from refocusd_training.train import network_of, ranges_of_run

__all__ = ["export_bundle", "export_onnx", "receptive_field_px"]

OPSET = 18
LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.9
#: How far engines may be from the tensors of a bundle, in network units.
TOLERANCE = {"f32": 1e-3, "bf16": 5e-2}
#: The effective receptive field is where everything beyond changes a pixel by
#: less than this, in network units.
NEGLIGIBLE = 1e-3
#: Defocus of the validation tensors.
VALIDATION_UM = (0.0, 8.0, 16.0, 32.0)
TYPICAL = Setting("typical", Optics(0.45, 0.461), Camera(110.0, 1.0, 4.0), 900.0)


def _loaded(run: Path, path: Path) -> LiveUNet:
    network = network_of(load_config(run / "config.toml"))
    try:
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} does not fit {run / 'config.toml'} ({error})") from error
    return network.eval()


def export_onnx(network: LiveUNet, path: Path) -> None:
    """Write the network as one ONNX file: input ``raw``, output ``refocused``.

    Batch, height and width are dynamic; height and width multiples of
    `SIZE_MULTIPLE`.
    """
    batch = torch.export.Dim("batch", min=1, max=64)
    high = torch.export.Dim("high", min=1, max=512)
    wide = torch.export.Dim("wide", min=1, max=512)
    shapes = {"raw": {0: batch, 2: SIZE_MULTIPLE * high, 3: SIZE_MULTIPLE * wide}}
    example = (torch.zeros(2, 1, 4 * SIZE_MULTIPLE, 6 * SIZE_MULTIPLE),)
    program = torch.onnx.export(
        network,
        example,
        dynamo=True,
        input_names=["raw"],
        output_names=["refocused"],
        dynamic_shapes=shapes,
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # The exporter notes source paths of the machine it ran on at every node.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _refocused(network: LiveUNet, normalised: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        output: NDArray[np.float32] = network(torch.from_numpy(normalised)).numpy()
    return output


def _sample_scenes(size: int, levels: tuple[float, ...]) -> list[Scene]:
    source = resources.files("refocusd").joinpath("demo/sample/nuclei.tif")
    with resources.as_file(source) as path:
        flux = flux_of(tifffile.imread(path))
    rng = np.random.default_rng(32)
    scenes = []
    for level in levels:
        scene = simulate_frame(flux, TYPICAL, Defocus(level), rng)
        inner = scene.raw[100 : 100 + size, 100 : 100 + size].copy()
        truth = scene.truth[100 : 100 + size, 100 : 100 + size]
        scenes.append(Scene(inner, truth, counts_range(inner)))
    return scenes


def receptive_field_px(network: LiveUNet, *, size: int = 512) -> int:
    """Radius beyond which pixels do not matter to the output, as measured.

    The smallest radius (a multiple of 16 px, in the maximum norm) such that
    replacing every pixel farther away by another frame changes the output at
    the centre by less than 1e-3 in network units, on all frames tried.  What
    is replaced is the worst a tile's border can do.
    """
    scenes = _sample_scenes(384, VALIDATION_UM)
    frames = [scene.range.normalise(scene.raw) for scene in scenes]
    frames = [np.pad(f, (size - f.shape[0]) // 2, mode="symmetric") for f in frames]
    others = [np.ascontiguousarray(frame[::-1, ::-1]) for frame in frames[1:] + frames[:1]]
    middle = size // 2
    # The 16 pixels of the centre lie at every phase of the network's grids.
    centre = (slice(middle - 8, middle + 8),) * 2
    whole = [_refocused(network, frame[None, None])[0, 0][centre] for frame in frames]
    for radius in range(16, middle, 16):
        inside = (slice(middle - radius - 8, middle + radius + 8),) * 2
        worst = 0.0
        for frame, other, expected in zip(frames, others, whole, strict=True):
            mixed = other.copy()
            mixed[inside] = frame[inside]
            found = _refocused(network, mixed[None, None])[0, 0][centre]
            worst = max(worst, float(np.abs(found - expected).max()))
        if worst < NEGLIGIBLE:
            return radius
    return middle


def _tensors(network: LiveUNet) -> dict[str, NDArray[np.generic]]:
    scene = _sample_scenes(256, (12.0,))[0]
    counts = scene.raw.astype(np.float32)
    # bioimage.io's scale_range, which interpolates percentiles where ours takes a count.
    low, high = np.percentile(counts, [LOW_PERCENTILE, HIGH_PERCENTILE])
    normalised = ((counts - low) / (high - low + 1e-6)).astype(np.float32)
    scenes = _sample_scenes(128, VALIDATION_UM)
    raws = np.stack([s.range.normalise(s.raw) for s in scenes])[:, None]
    return {
        "test_input.npy": counts[None, None],
        "test_output.npy": _refocused(network, normalised[None, None]),
        "validation_raw.npy": raws,
        "validation_refocused.npy": _refocused(network, raws),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _axes(reference: str | None) -> list[dict[str, Any]]:
    def side(name: str) -> dict[str, Any]:
        size: dict[str, Any] = {"min": 2 * SIZE_MULTIPLE, "step": SIZE_MULTIPLE}
        if reference is not None:
            size = {"tensor_id": reference, "axis_id": name}
        return {"type": "space", "id": name, "size": size}

    return [
        {"type": "batch"},
        {"type": "channel", "channel_names": ["fluorescence"]},
        side("y"),
        side("x"),
    ]


def _description(
    model_id: str,
    sums: Mapping[str, str],
    radius: int,
    record: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
    trained: Ranges,
) -> dict[str, Any]:
    scale_range = {
        "id": "scale_range",
        "kwargs": {
            "axes": ["channel", "y", "x"],
            "min_percentile": LOW_PERCENTILE,
            "max_percentile": HIGH_PERCENTILE,
        },
    }

    def source(name: str) -> dict[str, str]:
        return {"source": name, "sha256": sums[name]}

    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": "refocusd live nuclei",
        "description": "Estimates the in-focus frame of out-of-focus fluorescent nuclei, live, on a CPU.",
        "authors": [{"name": "refocusd developers"}],
        "license": "BSD-3-Clause",
        "documentation": {"source": "README.md", "sha256": sums["README.md"]},
        "tags": ["fluorescence-light-microscopy", "nuclei", "refocusing", "deblurring", "2d"],
        "cite": [
            {
                "text": "Caicedo et al., Nucleus segmentation across imaging experiments: the 2018 Data "
                "Science Bowl. Nature Methods 16, 1247 (2019). Training images: BBBC038v1, CC0.",
                "doi": "10.1038/s41592-019-0612-7",
            }
        ],
        "inputs": [
            {
                "id": "raw",
                "description": "Camera counts, normalised by percentiles of the whole frame.",
                "axes": _axes(None),
                "data": {"type": "float32"},
                "test_tensor": source("test_input.npy"),
                "preprocessing": [scale_range],
            }
        ],
        "outputs": [
            {
                "id": "refocused",
                "description": "In-focus estimate in the input's normalised units.",
                "axes": _axes("raw"),
                "data": {"type": "float32"},
                "test_tensor": source("test_output.npy"),
            }
        ],
        "weights": {"onnx": {**source("model.onnx"), "opset_version": OPSET}},
        "attachments": [
            source(name)
            for name in ("weights.safetensors", "validation_raw.npy", "validation_refocused.npy")
        ],
        "config": {
            "refocusd": {
                "schema": 1,
                "id": model_id,
                "normalisation": {
                    "low_percentile": LOW_PERCENTILE,
                    "high_percentile": HIGH_PERCENTILE,
                },
                "size_multiple": SIZE_MULTIPLE,
                "receptive_field_px": radius,
                "tolerance": dict(TOLERANCE),
                "optics": {
                    "na": list(trained.na),
                    "wavelength_um": list(trained.wavelength_um),
                    "pixel_um": list(trained.pixel_um),
                    "spherical_waves": list(trained.spherical_waves),
                    "defocus_um": list(ranges.TRAINED_DEFOCUS_UM),
                },
                "files": dict(sorted(sums.items())),
                "training": dict(record),
                "metrics": dict(metrics or {}),
            }
        },
    }


def _short_metrics(path: Path, onnx_sha256: str) -> dict[str, Any]:
    """The part of an evaluation that belongs into the bundle."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["onnx_sha256"] != onnx_sha256:
        raise InputError(f"{path} was measured with other weights: evaluate this run again")
    keys = (
        "definition",
        "frames_per_level",
        "by_defocus_um",
        "mean_4_8_16_32_um",
        "by_microscope",
        "in_focus_by_microscope",
    )
    return {key: document[key] for key in keys}


def export_bundle(
    run: Path,
    output: Path,
    *,
    model_id: str = "live-nuclei-1",
    weights: Path | None = None,
    metrics: Path | None = None,
) -> None:
    """Write a bundle; an existing one at the same place is replaced as a whole.

    Parameters
    ----------
    run : Path
        Folder of a training run.
    output : Path
        Folder of the bundle.
    model_id : str
    weights : Path, optional
        An earlier checkpoint of the run instead of the latest.
    metrics : Path, optional
        JSON of `evaluate` on this model, quoted in description and card.

    Raises
    ------
    InputError
        If the run is incomplete or the metrics are of other weights.
    OutputError
        If `output` holds something that is not a bundle.
    """
    if output.exists() and not (output / "rdf.yaml").is_file() and any(output.iterdir()):
        raise OutputError(f"{output} holds files that are no bundle: name another folder")
    record: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        # Copied first: a run in progress replaces its own.
        stored = folder / "weights.safetensors"
        shutil.copyfile(weights or run / "weights.safetensors", stored)
        network = _loaded(run, stored)
        export_onnx(network, folder / "model.onnx")
        for name, array in _tensors(network).items():
            np.save(folder / name, array)
        radius = receptive_field_px(network)
        onnx_sha256 = _sha256(folder / "model.onnx")
        measured = _short_metrics(metrics, onnx_sha256) if metrics else None
        record["versions"] = {
            **record["versions"],
            "onnx": onnx.__version__,
            "openvino": openvino.__version__.split("-")[0],
        }
        trained, _ = ranges_of_run(run)
        card = model_card(model_id, record, radius, measured, trained)
        (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
        sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
        text = yaml.safe_dump(
            _description(model_id, sums, radius, record, measured, trained),
            sort_keys=False,
            allow_unicode=True,
            width=100,
        )
        (folder / "rdf.yaml").write_text(text, encoding="utf-8", newline="\n")
        if output.exists():
            shutil.rmtree(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, output)
