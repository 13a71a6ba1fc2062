"""Reads a bundle's ``config.refocusd``, with bounds on everything.

It is in the bundle's own ``rdf.yaml``, or, for a bioimage.io model from elsewhere, in a
``refocusd.yaml`` beside the unchanged ``rdf.yaml``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from refocusd.errors import BundleError
from refocusd.files import read_limited

#: Version of ``config.refocusd``.
SCHEMA = 1
MAX_RDF_BYTES = 1 << 16
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})$")
#: Limits of a network's description; refocusd's own architectures need less than a tenth.
MAX_NETWORK_VALUES, MAX_NETWORK_DEPTH = 512, 6

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Precision = Annotated[str, msgspec.Meta(pattern="^[a-z0-9]{1,16}$")]
_Channel = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class NormalisationDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Conversion of counts to network units.

    Parameters
    ----------
    kind : {"percentiles", "mean_std", "fixed"}
        Two percentiles of the whole frame become 0 and 1; its mean and standard deviation
        become 0 and 1; or (counts - offset) / scale with the values given here.
    low_percentile, high_percentile : float
        For ``percentiles``.
    offset, scale : float
        For ``fixed``, in counts.
    """

    kind: Literal["percentiles", "mean_std", "fixed"] = "percentiles"
    low_percentile: Annotated[float, msgspec.Meta(ge=0, le=100)] = 1.0
    high_percentile: Annotated[float, msgspec.Meta(ge=0, le=100)] = 99.9
    offset: Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)] = 0.0
    scale: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0


class TensorNames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files of the tensors that an engine is checked with; those not in `Description.files` do not exist.

    Parameters
    ----------
    test_input, test_output : str
        Test tensors as bioimage.io defines them.
    validation_raw, validation_refocused : str
        Raw and refocused frames in network units.
    output_offset, output_scale : float
        (``test_output`` - offset) / scale is in network units.
    """

    test_input: _Name = "test_input.npy"
    test_output: _Name = "test_output.npy"
    validation_raw: _Name = "validation_raw.npy"
    validation_refocused: _Name = "validation_refocused.npy"
    output_offset: Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)] = 0.0
    output_scale: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0


class Description(msgspec.Struct, frozen=True):
    """The section ``config.refocusd`` of a bundle; unknown keys are ignored.

    Parameters
    ----------
    schema : int
        `SCHEMA`.
    id : str
    normalisation : NormalisationDescription
    size_multiple, receptive_field_px : int
        In px.
    files : dict of str to sha256
        Every file of the bundle except the one that holds this section.
    optics : dict of str to (low, high)
        Ranges that the model was trained for, see `ModelBundle.trained`.
    onnx : str
        Name of the network's file.
    weights : str
        Name of the safetensors file; empty if there is none.
    documentation : str
        Name of the card's file; empty if there is none.
    variants : dict of precision to file name
        The network prepared for other precisions, as ONNX.
    network : dict, optional
        The architecture, for backends that build it themselves.
    channels : list of str
        Channels that the model is meant for; empty for any.
    tolerance : dict of precision to float
        Largest difference allowed between an engine and the bundle's tensors, in network units.
    title : str
    tensors : TensorNames
    fine_sigma_px : float, optional
        For a network that works at the scale of the blur: the width of the blur that it is made
        for, a standard deviation in px.
    """

    schema: int
    id: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._-]{1,64}$")]
    normalisation: NormalisationDescription
    size_multiple: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    receptive_field_px: Annotated[int, msgspec.Meta(ge=0, le=8192)]
    files: Annotated[dict[str, Sha256], msgspec.Meta(max_length=256)]
    optics: dict[str, tuple[float, float]] = {}
    onnx: _Name = "model.onnx"
    weights: Annotated[str, msgspec.Meta(max_length=255)] = "weights.safetensors"
    documentation: Annotated[str, msgspec.Meta(max_length=255)] = "README.md"
    variants: Annotated[dict[_Precision, _Name], msgspec.Meta(max_length=16)] = {}
    network: dict[str, Any] | None = None
    channels: Annotated[list[_Channel], msgspec.Meta(max_length=256)] = []
    tolerance: Annotated[dict[_Precision, _Amount], msgspec.Meta(max_length=16)] = {}
    title: Annotated[str, msgspec.Meta(max_length=512)] = ""
    tensors: TensorNames = TensorNames()
    fine_sigma_px: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None


class _PlainLoader(yaml.SafeLoader):
    """Loads YAML without references, a few bytes of which can expand to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a model description must not contain references (*name)")
        return super().compose_node(parent, index)


# Numbers in base 60 (1:2:3) are not needed in a model description, and slow to read.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
    + [
        ("tag:yaml.org,2002:int", _INTEGER)
        for tag, _ in resolvers
        if tag == "tag:yaml.org,2002:int"
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> tuple[bytes, Any]:
    """Bytes and content of a YAML file of at most `MAX_RDF_BYTES`; nothing in it is executed.

    Raises
    ------
    OSError
        If it cannot be read.
    BundleError
        If it is not a file, too large, or not YAML.
    """
    text = read_limited(path, MAX_RDF_BYTES)
    try:
        return text, yaml.load(text, _PlainLoader)  # noqa: S506 (a SafeLoader)
    except Exception as error:
        raise BundleError(f"{path} is not YAML: {error}") from error


def read_description(path: Path, content: Any) -> Description:
    """Check ``config.refocusd`` of a description that was read.

    Parameters
    ----------
    path : Path
        The file that was read, for error messages.
    content : object
        Its content, from `read_yaml`.

    Raises
    ------
    BundleError
    """
    try:
        described = msgspec.convert(content["config"]["refocusd"], Description)
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{path} has no config.refocusd part: it is not a bundle that refocusd made; a model "
            "from elsewhere is added with `refocusd models add`"
        ) from error
    except (msgspec.ValidationError, UnicodeError) as error:
        raise BundleError(f"{path}: config.refocusd: {error}; export the bundle again") from error
    if described.schema != SCHEMA:
        raise BundleError(
            f"{path} has schema {described.schema}, but this version of refocusd reads {SCHEMA}; use a matching version"
        )
    norm = described.normalisation
    if norm.low_percentile >= norm.high_percentile:
        raise BundleError(f"{path}: low_percentile must be below high_percentile")
    for file in (described.onnx, *described.variants.values()):
        if file not in described.files:
            raise BundleError(f"the bundle {path.parent} does not list {file}; export it again")
    if described.network is not None:
        _check_plain(path, described.network)
    return described


def _check_plain(path: Path, network: dict[str, Any]) -> None:
    """Refuse anything but a limited number of finite numbers and strings, in lists and mappings."""
    left = MAX_NETWORK_VALUES
    todo: list[tuple[Any, int]] = [(network, 0)]
    while todo:
        value, depth = todo.pop()
        left -= 1
        if left < 0 or depth > MAX_NETWORK_DEPTH:
            raise BundleError(
                f"{path}: config.refocusd.network is larger or deeper than a network description may be"
            )
        if isinstance(value, dict):
            if not all(isinstance(key, str) and len(key) <= 64 for key in value):
                raise BundleError(
                    f"{path}: config.refocusd.network has a key that is not a short word"
                )
            todo += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            todo += [(item, depth + 1) for item in value]
        elif not _is_scalar(value):
            raise BundleError(
                f"{path}: config.refocusd.network holds {type(value).__name__} values"
            )


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= 256
    if isinstance(value, (bool, type(None))):
        return True
    # The comparison is also false for NaN and infinity.
    return isinstance(value, (int, float)) and abs(value) < 1e15
