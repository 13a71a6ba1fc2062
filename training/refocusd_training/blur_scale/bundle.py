"""Makes a model bundle from the trained network: ONNX, safetensors, test tensors, card."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file

from refocusd_training.blur_scale.frames import Frames
from refocusd_training.export.bundle import bundle_id, put_bundle
from refocusd_training.export.onnx import write_onnx
from refocusd_training.export.rdf import description, free_sides, same_sides, source, tensor
from refocusd_training.networks.blur_scale import FINE_SIGMA_PX, BlurScaleNet
from refocusd_training.networks.build import BLUR_SCALE

#: Largest difference allowed between an engine and the test tensors, in network units.
TOLERANCE = {"f32": 2e-3, "f16": 5e-2, "bf16": 0.2, "int8": 0.3}
#: The same for other programs, which may allow no more than a hundredth of an output's maximum.
REPRODUCED = 1e-4
#: Radius beyond which a pixel does not matter to the output, px of the reduced frame.
RECEPTIVE_FIELD_PX = 96
_OUTPUTS = ["refocused", "interval", "blur"]


def export_scale_bundle(
    network: BlurScaleNet,
    frames: Frames,
    output: Path,
    *,
    model_id: str,
    card: str,
    training: Mapping[str, Any],
) -> None:
    """Write a bundle; an existing one at the same place is replaced as a whole.

    Parameters
    ----------
    network : BlurScaleNet
    frames : Frames
        Two of its frames become the test tensors.
    output : Path
    model_id : str
    card : str
        Model card, Markdown.
    training : mapping
        Record of the training, in plain numbers and strings.

    Raises
    ------
    ConfigError, OutputError
        See `bundle_id` and `put_bundle`.
    """
    bundle_id(output, model_id)
    network = network.eval().float()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        write_onnx(
            network,
            channels=3,
            size_multiple=network.size_multiple,
            names=("seen", _OUTPUTS),
            path=folder / "model.onnx",
        )
        weights = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
        batch = frames.batch(2)
        planes = batch.known[:, :, None, None].expand(-1, -1, *batch.frame.shape[2:])
        seen = torch.cat([batch.frame, planes], 1)
        with torch.inference_mode():
            answers = network(seen)
        _save(folder / "test_input.npy", seen)
        for name, answer in zip(_OUTPUTS, answers, strict=True):
            _save(folder / _tensor_file(name), answer)
        (folder / "README.md").write_text(card, encoding="utf-8")
        sums = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
        }
        described = _rdf(model_id, sums, network, training)
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=100)
        (folder / "rdf.yaml").write_text(text, encoding="utf-8")
        put_bundle(folder, output)


def _save(path: Path, values: torch.Tensor) -> None:
    array: NDArray[np.float32] = np.ascontiguousarray(values.numpy(), dtype=np.float32)
    np.save(path, array, allow_pickle=False)


def _tensor_file(output: str) -> str:
    return "test_output.npy" if output == "refocused" else f"test_{output}.npy"


def _rdf(
    model_id: str, sums: Mapping[str, str], network: BlurScaleNet, training: Mapping[str, Any]
) -> dict[str, Any]:
    step = network.size_multiple
    channels = {
        "refocused": ["fluorescence"],
        "interval": ["below", "above"],
        "blur": ["ratio", "uncertainty"],
    }
    meaning = {
        "refocused": "In-focus estimate in the input's normalised units.",
        "interval": "How far 90 % of true pixels lie under and over the estimate at most.",
        "blur": "True over stated width of the blur, and the uncertainty of its logarithm.",
    }
    outputs = [
        tensor(
            name,
            meaning[name],
            channels[name],
            [] if name == "blur" else same_sides("seen"),
            source(_tensor_file(name), sums),
        )
        for name in _OUTPUTS
    ]
    seen = tensor(
        "seen",
        f"The frame at the scale of its blur, normalised; log of the width over {FINE_SIGMA_PX:g} px; "
        "uncertainty of that.",
        ["fluorescence", "log_width", "uncertainty"],
        free_sides(step),
        source("test_input.npy", sums),
    )
    return description(
        f"refocusd {model_id.replace('-', ' ')}",
        "Estimates the in-focus frame of out-of-focus fluorescence frames, at the scale of their "
        "blur, while they are acquired.",
        sums,
        inputs=[seen],
        outputs=outputs,
        attachments=["weights.safetensors"],
        tolerance=REPRODUCED,
        refocusd={
            "schema": 1,
            "id": model_id,
            "normalisation": {"low_percentile": 1.0, "high_percentile": 99.9},
            "fine_sigma_px": FINE_SIGMA_PX,
            "size_multiple": step,
            "receptive_field_px": RECEPTIVE_FIELD_PX,
            "tolerance": TOLERANCE,
            "network": {
                "name": BLUR_SCALE,
                "channels": [pair[0].out_channels for pair in network.down],  # type: ignore[index]
            },
            "files": dict(sorted(sums.items())),
            "training": dict(training),
        },
    )
