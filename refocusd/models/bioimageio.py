"""Adopts a bioimage.io model from elsewhere.

Its files are not changed; the values that they lack are derived or measured, and
written into ``refocusd.yaml`` with the sha256 of everything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from refocusd.errors import BundleError, EngineError
from refocusd.frame import Pixels
from refocusd.models.archive import Package
from refocusd.models.bioimageio_rdf import ForeignModel, read_foreign
from refocusd.models.bundle import SIDECAR, ModelBundle, load_bundle, read_frames, sha256_of
from refocusd.models.description import SCHEMA, Description, TensorNames
from refocusd.models.onnx_guard import refuse_outside_weights
from refocusd.models.reference_network import (
    STEP,
    ReferenceNetwork,
    measured_field_px,
    middle_square,
)

#: Largest difference allowed between an engine and a foreign model's tensors, in network units.
TOLERANCE = {"f32": 1e-3, "f16": 1e-2, "bf16": 5e-2}
#: Largest difference allowed between our run of a model and its test tensor, relative to its largest value.
REPRODUCED = 2e-3
VALIDATION_RAW, VALIDATION_REFOCUSED = "refocusd_raw.npy", "refocusd_refocused.npy"
_SIDE = 128


@dataclass(frozen=True, slots=True)
class Adopted:
    """Measurements made while a model was adopted.

    Parameters
    ----------
    size_multiple, receptive_field_px : int
    deviation : float
        Largest difference from the model's own test tensor, in network units.
    """

    size_multiple: int
    receptive_field_px: int
    deviation: float


def adopt(
    package: Package, rdf: str, content: Any, folder: Path, frames: Sequence[Pixels]
) -> Adopted:
    """Copy the required files of a foreign model into `folder`, and describe it.

    Parameters
    ----------
    package : Package
    rdf : str
        Name of its description.
    content : object
        Content of the description.
    folder : Path
        An empty folder.
    frames : sequence of ndarray of uint16, shape (height, width)
        At least two typical frames; the receptive field is measured on them.

    Raises
    ------
    BundleError
        If refocusd cannot use this model; the message says why.
    EngineError
        If its network does not run.
    """
    model = read_foreign(content)
    wanted = [model.onnx, model.test_input, model.test_output]
    if model.documentation is not None and model.documentation.name in package.sizes:
        wanted.append(model.documentation)
    names = list(dict.fromkeys([rdf, *(file.name for file in wanted)]))
    if SIDECAR in names or {VALIDATION_RAW, VALIDATION_REFOCUSED} & set(names):
        raise BundleError("it holds files with the names of refocusd's own files")
    package.copy(names, folder)
    for file in wanted:
        if file.sha256 and sha256_of(folder / file.name) != file.sha256:
            raise BundleError(f"{file.name} does not have the sha256 that the description states")
    # This must come before anything opens the file.
    refuse_outside_weights(folder / model.onnx.name)
    network = ReferenceNetwork(folder / model.onnx.name)
    multiple = _size_multiple(network, model)
    deviation = _reproduced(network, model, folder)
    bundle = _describe(model, folder, multiple, 0)
    ready = [bundle.counts_range(frame).normalise(frame) for frame in frames]
    measured = measured_field_px(network, ready, multiple=multiple)
    if measured is None and model.halo_px == 0:
        raise BundleError(
            f"{model.onnx.name} has a receptive field of more than 240 px: its output at a pixel depends on the "
            "whole frame, and frames that must be cut into tiles would show seams"
        )
    field = max(measured or 0, -(-model.halo_px // STEP) * STEP)
    side = -(-max(_SIDE, model.least_px) // multiple) * multiple
    crops = [middle_square(frame, side) for frame in frames]
    raw = np.stack([bundle.counts_range(crop).normalise(crop) for crop in crops])[:, None]
    np.save(folder / VALIDATION_RAW, raw)
    np.save(folder / VALIDATION_REFOCUSED, network(raw))
    _describe(model, folder, multiple, field)
    return Adopted(multiple, field, deviation)


def exactly_normalised(bundle: ModelBundle, counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalise test tensors as bioimage.io does, with percentiles interpolated between samples.

    Parameters
    ----------
    bundle : ModelBundle
    counts : ndarray of float32, shape (n, 1, height, width)

    Returns
    -------
    ndarray of float32, same shape
        In network units; each frame is normalised by itself.
    """
    return np.stack([_normalised(bundle, frame) for frame in counts])


def _normalised(bundle: ModelBundle, frame: NDArray[np.float32]) -> NDArray[np.float32]:
    values = frame.astype(np.float64)
    if bundle.normalisation == "fixed":
        offset, scale = bundle.fixed_range.offset, bundle.fixed_range.scale
    elif bundle.normalisation == "mean_std":
        offset, scale = float(values.mean()), float(values.std()) + 1e-6
    else:
        ends = np.percentile(values, [bundle.low_percentile, bundle.high_percentile])
        offset, scale = float(ends[0]), float(ends[1] - ends[0]) + 1e-6
    return ((values - offset) / scale).astype(np.float32)


def _size_multiple(network: ReferenceNetwork, model: ForeignModel) -> int:
    """The step of the sides that the network takes, px: the stated one if it works."""
    at_least = -(-model.least_px // model.step_px) * model.step_px
    refused: EngineError | None = None
    for multiple in dict.fromkeys((model.step_px, at_least)):
        try:
            for height, width in ((1, 1), (1, 2), (3, 2)):
                network(np.zeros((1, 1, height * multiple, width * multiple), np.float32))
        except EngineError as error:
            refused = error
        else:
            return multiple
    raise BundleError(
        f"{model.onnx.name} does not take the sizes that its description states: {refused}"
    ) from refused


def _reproduced(network: ReferenceNetwork, model: ForeignModel, folder: Path) -> float:
    """Largest difference between the network's output here and its test output, if small enough."""
    bundle = _describe(model, folder, 1, 0)
    assert bundle.test is not None
    raw, expected = (read_frames(path) for path in bundle.test)
    if raw.shape != expected.shape:
        raise BundleError(f"its test tensors are of shapes {raw.shape} and {expected.shape}")
    expected = (expected - model.output.offset) / np.float32(model.output.scale)
    found = network(exactly_normalised(bundle, raw))
    deviation = float(np.abs(found - expected).max())
    allowed = REPRODUCED * max(1.0, float(np.abs(expected).max()))
    if not deviation <= allowed:
        raise BundleError(
            f"its test tensor is not reproduced: the difference is {deviation:.2g} in network units, "
            f"{allowed:.2g} is allowed; its description and its network do not belong together"
        )
    return deviation


def _describe(model: ForeignModel, folder: Path, multiple: int, field: int) -> ModelBundle:
    """Write the sidecar for the files that are in the folder now, and read it back."""
    described = Description(
        schema=SCHEMA,
        id=identifier(model.title),
        normalisation=model.normalisation,
        size_multiple=multiple,
        receptive_field_px=field,
        files={
            path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != SIDECAR
        },
        onnx=model.onnx.name,
        weights="",
        documentation=model.documentation.name if model.documentation else "",
        tolerance=TOLERANCE,
        title=model.title,
        tensors=TensorNames(
            test_input=model.test_input.name,
            test_output=model.test_output.name,
            validation_raw=VALIDATION_RAW,
            validation_refocused=VALIDATION_REFOCUSED,
            output_offset=model.output.offset,
            output_scale=model.output.scale,
        ),
    )
    content = {"config": {"refocusd": msgspec.to_builtins(described)}}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    (folder / SIDECAR).write_text(
        "# Written by `refocusd models add`: values that the model's own description lacks.\n"
        + text,
        encoding="utf-8",
        newline="\n",
    )
    return load_bundle(folder)


def identifier(title: str) -> str:
    """Convert a title to a name of letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.casefold()).strip("-")[:48].strip("-") or "model"
