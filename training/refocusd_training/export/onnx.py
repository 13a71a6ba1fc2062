"""Exports any network of the registry as one ONNX file."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from refocusd_training.networks import RefocusNetwork

OPSET = 18


class _WithDefocus(nn.Module):
    """The network with both of its outputs."""

    def __init__(self, network: RefocusNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.forward_with_defocus(raw)


def export_onnx(network: RefocusNetwork, path: Path) -> None:
    """Write the network as one ONNX file.

    The input is ``raw``, the outputs are ``refocused`` and, if the network has that head, ``defocus``.
    Batch, height and width are dynamic; height and width are multiples of the network's
    `size_multiple`.

    Parameters
    ----------
    network : RefocusNetwork
        In inference mode.
    path : Path
    """
    headed = network.defocus is not None
    write_onnx(
        _WithDefocus(network).eval() if headed else network,
        channels=1,
        size_multiple=network.size_multiple,
        names=("raw", ["refocused", "defocus"] if headed else ["refocused"]),
        path=path,
    )


def write_onnx(
    network: nn.Module,
    *,
    channels: int,
    size_multiple: int,
    names: tuple[str, list[str]],
    path: Path,
) -> None:
    """Write any network with one input as one ONNX file with dynamic batch, height and width.

    Parameters
    ----------
    network : nn.Module
        In inference mode.
    channels, size_multiple : int
        Channels of its input, and the step of its sides, px.
    names : (str, list of str)
        Names of its input and its outputs.
    path : Path
    """
    # The exporter logs every constant that it merges.
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)
    batch = torch.export.Dim("batch", min=1, max=64)
    high = torch.export.Dim("high", min=1, max=512)
    wide = torch.export.Dim("wide", min=1, max=512)
    step = size_multiple
    program = torch.onnx.export(
        network,
        (torch.zeros(2, channels, 4 * step, 6 * step),),
        dynamo=True,
        input_names=[names[0]],
        output_names=names[1],
        dynamic_shapes=({0: batch, 2: step * high, 3: step * wide},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # The exporter stores source paths of this machine with every node.
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
