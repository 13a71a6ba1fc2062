"""Makes a model bundle from a finished run: ONNX, safetensors, test tensors, description.

The bundle is a bioimage.io model (format 0.5).  Its tensors come from the
sample image that refocusd ships, which is on the test side of the split.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from dataclasses import replace
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

from refocusd import files
from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.imaging.normalise import counts_range
from refocusd.imaging.optics import Optics
from refocusd.models.bioimageio import identifier
from refocusd.models.bundle import load_bundle, sha256_of
from refocusd.models.library import NAME
from refocusd.models.reference_network import measured_field_px
from refocusd_training.config import TrainingConfig, load_config
from refocusd_training.data.source import open_samples
from refocusd_training.export.card import model_card
from refocusd_training.export.onnx import export_onnx
from refocusd_training.export.rdf import HIGH_PERCENTILE, LOW_PERCENTILE, Facts, rdf
from refocusd_training.loop.folder import network_of_run, ranges_of_run
from refocusd_training.networks import RefocusNetwork, description_of
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.camera import Camera
from refocusd_training.simulate.ranges import Ranges, Setting
from refocusd_training.simulate.scene import Scene, simulate_frame
from refocusd_training.simulate.specimen import flux_of

#: Key of an evaluation's table of all figures out of focus, and the figures of it that a card quotes.
FIGURES = "figures_mean_4_8_16_32_um"
QUOTED = (
    "psnr_db",
    "psnr_affine_db",
    "f1",
    "invented",
    "lost",
    "phantoms",
    "vanished",
    "flux_ratio",
    "frc_um",
)
#: Limit of the metrics, because a description has at most 64 KiB in all.
MAX_METRICS_BYTES = 40 << 10
#: Methods that belong to the bundle itself.
OWN = ("input", "refocused", "as written", "refocused bf16", "refocused int8")

#: Defocus of the frames in the validation tensors.
VALIDATION_UM = (0.0, 8.0, 16.0, 32.0)
TYPICAL = Setting("typical", Optics(0.45, 0.461), Camera(110.0, 1.0, 4.0), 900.0)


def _record(run: Path) -> dict[str, Any]:
    path = run / "run.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record["versions"] = {
            **record["versions"],
            "onnx": onnx.__version__,
            "openvino": openvino.__version__.split("-")[0],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a record of a run ({error}): name the folder of a run that has written a "
            "checkpoint"
        ) from error
    return record


def _with_int8(
    facts: Facts, folder: Path, config: TrainingConfig, data: Path | None, trained: Ranges
) -> Facts:
    """Add the int8 network to the folder."""
    from refocusd_training.export.int8 import INT8_FILE, add_int8, calibration

    if data is None:
        batches = calibration([_sample_flux()])
    else:
        source = open_samples(
            config.data, data, size=256, batch=4, seed=config.seed + 1, ranges=trained
        )
        batches = list(itertools.islice(source.batches(0), 12))
    truth = np.stack(
        [(s.truth - s.range.offset) / s.range.scale for s in _validation_scenes()]
    ).astype(np.float32)[:, None]
    outcome = add_int8(folder, batches, truth)
    return replace(facts, int8_cost_db=outcome.cost_db, variants={"int8": INT8_FILE})


def _refocused(network: RefocusNetwork, normalised: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        output: NDArray[np.float32] = network(torch.from_numpy(normalised)).numpy()
    return output


def _sample_flux() -> NDArray[np.float32]:
    source = resources.files("refocusd").joinpath("demo/sample/nuclei.tif")
    with resources.as_file(source) as path:
        return flux_of(tifffile.imread(path))


def _validation_scenes() -> list[Scene]:
    return _sample_scenes(128, VALIDATION_UM)


def _sample_scenes(size: int, levels: tuple[float, ...]) -> list[Scene]:
    flux = _sample_flux()
    rng = np.random.default_rng(32)
    scenes = []
    for level in levels:
        scene = simulate_frame(flux, TYPICAL, Defocus(level), rng)
        inner = scene.raw[100 : 100 + size, 100 : 100 + size].copy()
        truth = scene.truth[100 : 100 + size, 100 : 100 + size]
        scenes.append(Scene(inner, truth, counts_range(inner)))
    return scenes


def receptive_field_px(network: RefocusNetwork, *, size: int = 512) -> int:
    """Measured radius beyond which pixels do not influence the output.

    See `refocusd.models.reference_network.measured_field_px`.  If `size` is too small, twice that size is
    tried once; if that is too small as well, half of it is used.

    Parameters
    ----------
    network : RefocusNetwork
        In inference mode.
    size : int
        Side of the frames that are tried, px.
    """
    scenes = _sample_scenes(384, VALIDATION_UM)
    frames = [scene.range.normalise(scene.raw) for scene in scenes]
    for side, tried in ((size, frames), (2 * size, frames[::2])):
        found = measured_field_px(
            lambda frame: _refocused(network, frame),
            tried,
            multiple=network.size_multiple,
            size=side,
        )
        if found is not None:
            return found
    return size


def _tensors(network: RefocusNetwork) -> dict[str, NDArray[np.generic]]:
    scene = _sample_scenes(256, (12.0,))[0]
    counts = scene.raw.astype(np.float32)
    # bioimage.io's scale_range interpolates percentiles; ours are whole counts.
    low, high = np.percentile(counts, [LOW_PERCENTILE, HIGH_PERCENTILE])
    normalised = ((counts - low) / (high - low + 1e-6)).astype(np.float32)
    scenes = _validation_scenes()
    raws = np.stack([s.range.normalise(s.raw) for s in scenes])[:, None]
    tensors: dict[str, NDArray[np.generic]] = {
        "test_input.npy": counts[None, None],
        "test_output.npy": _refocused(network, normalised[None, None]),
        "validation_raw.npy": raws,
        "validation_refocused.npy": _refocused(network, raws),
    }
    if network.defocus is not None:
        with torch.inference_mode():
            seen = network.forward_with_defocus(torch.from_numpy(normalised[None, None]))[1]
        tensors["test_defocus.npy"] = seen.numpy()
    return tensors


def _short_metrics(path: Path, onnx_sha256: str) -> dict[str, Any]:
    """The part of an evaluation that belongs in the bundle."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return _shortened(document, path, onnx_sha256)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not an evaluation of held-out specimens ({type(error).__name__}: {error}); give what "
            "'refocusd train evaluate --bundle DIR --data DIR --json FILE' wrote"
        ) from error


def _shortened(document: dict[str, Any], path: Path, onnx_sha256: str) -> dict[str, Any]:
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
    short = {key: document[key] for key in keys}
    short |= _quoted(document)
    if deep := _quoted(document.get("deep") or {}):
        short["deep"] = deep
    if told := document.get("defocus"):
        short["defocus"] = {
            key: told[key] for key in ("classes_um", "accuracy", "within_one_class", "mae_um")
        }
    if len(yaml.safe_dump(short)) > MAX_METRICS_BYTES:
        # By microscope, keep only the bundle's own methods, because these tables grow with the methods.
        for key in ("by_microscope", "in_focus_by_microscope"):
            short[key] = {
                name: {method: row for method, row in means.items() if method in OWN}
                for name, means in short[key].items()
            }
    return short


def _quoted(part: dict[str, Any]) -> dict[str, Any]:
    table = part.get(FIGURES)
    if not table:
        return {}
    return {
        FIGURES: {
            method: {name: row[name] for name in QUOTED if row.get(name) is not None}
            for method, row in table.items()
        }
    }


def bundle_id(output: Path, model_id: str = "") -> str:
    """Check that a bundle can be written, and return the id that it will have.

    Parameters
    ----------
    output : Path
        Folder of the bundle.
    model_id : str
        "" for an id made from the name of `output`.

    Raises
    ------
    ConfigError
        If the id is not valid.
    OutputError
        If `output` holds something that is not a bundle, or cannot be written.
    """
    if model_id and not NAME.fullmatch(model_id):
        raise ConfigError(
            f"{model_id!r} cannot be the id of a model: give --id of up to 64 letters, digits, '.', '_' and '-'"
        )
    is_bundle = (output / "rdf.yaml").is_file()
    if output.exists() and not is_bundle and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} holds files that are not a bundle: name another folder")
    files.check_writable(output)
    name = output.absolute().name
    return model_id or (name if NAME.fullmatch(name) else identifier(name))


def put_bundle(folder: Path, output: Path) -> None:
    """Copy a finished bundle to its place; an older one stays there until the copy is complete.

    Raises
    ------
    BundleError
        If the bundle cannot be loaded.
    OutputError
        If it cannot be written, or the older one cannot be removed.
    """
    load_bundle(folder)
    new = output.absolute().with_name(f".{output.absolute().name}.new")
    with files.output(output):
        files.remove_tree(new)
        try:
            shutil.copytree(folder, new)
        except OSError:
            files.remove_tree(new)
            raise
    if not files.remove_tree(output):
        raise OutputError(
            f"the bundle {output} cannot be replaced: close the programs that hold its files "
            f"open; the new one is {new}"
        )
    files.replace(new, output)


def export_bundle(
    run: Path,
    output: Path,
    *,
    model_id: str = "",
    weights: Path | None = None,
    metrics: Path | None = None,
    int8: bool = False,
    data: Path | None = None,
) -> None:
    """Write a bundle; an existing one at the same place is replaced as a whole.

    Parameters
    ----------
    run : Path
        Folder of a training run.
    output : Path
        Folder of the bundle.
    model_id : str
        Id that refocused datasets will state; "" for one made from the name of `output`.
    weights : Path, optional
        An earlier checkpoint of the run instead of the latest.
    metrics : Path, optional
        JSON of `evaluate` for this model, quoted in description and card.
    int8 : bool
        Add an int8 network for CPUs, if it is as good.
    data : Path, optional
        The run's data, for the calibration of int8; by default, frames are simulated from the sample
        image that refocusd ships.

    Raises
    ------
    ConfigError, InputError
        If the run is incomplete or damaged, the metrics belong to other weights, or the id is not valid.
    BundleError
        If the description would be too large.
    EngineError
        If int8 was requested and costs too much quality.
    OutputError
        If `output` holds something that is not a bundle, or cannot be replaced.
    """
    model_id = bundle_id(output, model_id)
    record = _record(run)
    config = load_config(run / "config.toml")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        # Copied first, because a run in progress replaces its weights.
        stored = folder / "weights.safetensors"
        with files.reading(weights or run / "weights.safetensors"):
            shutil.copyfile(weights or run / "weights.safetensors", stored)
        network = network_of_run(run, stored)
        export_onnx(network, folder / "model.onnx")
        for name, array in _tensors(network).items():
            np.save(folder / name, array)
        trained, _ = ranges_of_run(run)
        facts = Facts(
            model_id,
            record,
            description_of(config.network),
            network.size_multiple,
            receptive_field_px(network),
            trained,
            _short_metrics(metrics, sha256_of(folder / "model.onnx")) if metrics else None,
            depth_um=config.data.depth_um if config.data.layers > 1 else None,
        )
        if int8:
            facts = _with_int8(facts, folder, config, data, trained)
        (folder / "README.md").write_text(model_card(facts), encoding="utf-8", newline="\n")
        sums = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        text = yaml.safe_dump(rdf(facts, sums), sort_keys=False, allow_unicode=True, width=100)
        (folder / "rdf.yaml").write_text(text, encoding="utf-8", newline="\n")
        put_bundle(folder, output)
