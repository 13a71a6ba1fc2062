"""Loads weights trained on ImageNet: torchvision's official files, by URL or from a path.

The names of these files end with the first digits of their sha256, which is checked;
nothing in them is executed.  ResNet-34: BSD-3-Clause; VGG-16: CC BY 4.0 (Simonyan and
Zisserman), both trained on ImageNet.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn

from refocusd.errors import InputError

#: Means the official file in place of a path.
IMAGENET = "imagenet"
RESNET34_URL = "https://download.pytorch.org/models/resnet34-b627a593.pth"
VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
NO_ENCODER = 'set network.encoder_weights to "" and frozen_steps to 0: from scratch'
_SUM_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")
#: Key of batch norm's counter of batches, which is not a weight.
_COUNTER = "num_batches_tracked"


def load_encoder(encoder: nn.Module, source: str) -> str:
    """Load an official ResNet file into an encoder for one channel.

    The first convolution's kernels are summed over colours, so that a grey frame gives the same
    features as a picture with three equal channels.

    Parameters
    ----------
    encoder : nn.Module
        A ResNet with torchvision's names.
    source : str
        `IMAGENET` or a path.

    Returns
    -------
    str
        Name of the file.

    Raises
    ------
    InputError
        If the file cannot be obtained, its checksum is wrong, or it belongs to another network.
    """
    path, state = _state_of(source, RESNET34_URL, NO_ENCODER)
    first = state.get("conv1.weight")
    if first is not None and first.ndim == 4 and first.shape[1] == 3:
        state["conv1.weight"] = first.sum(dim=1, keepdim=True)
    wanted = encoder.state_dict()
    found = {key: value for key, value in state.items() if not key.startswith("fc.")}
    for key, value in wanted.items():
        if key.endswith(_COUNTER):
            found.setdefault(key, value)
    _refuse_misfit(path, wanted, found)
    encoder.load_state_dict(found)
    return path.name


def vgg16_features(source: str) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of VGG-16's 13 convolutions, float32, in order.

    Parameters
    ----------
    source : str
        `IMAGENET`, or the path of that file or of a ``.npz`` with the same keys.

    Raises
    ------
    InputError
        If the file cannot be obtained, its checksum is wrong, or it belongs to another network.
    """
    path, state = _state_of(source, VGG16_URL, "choose a loss.name other than 'feature'")
    layers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    wanted = {}
    for layer, channels, out in zip(layers, widths[:-1], widths[1:], strict=True):
        wanted[f"features.{layer}.weight"] = torch.empty(out, channels, 3, 3, device="meta")
        wanted[f"features.{layer}.bias"] = torch.empty(out, device="meta")
    found = {key: value for key, value in state.items() if key.startswith("features.")}
    _refuse_misfit(path, wanted, found)
    return [(found[f"features.{n}.weight"], found[f"features.{n}.bias"]) for n in layers]


def read_state(path: Path) -> dict[str, Tensor]:
    """Check and read the tensors of a ``.pth`` or ``.npz`` file, floating-point ones as float32.

    Raises
    ------
    InputError
        If it is missing, damaged, or does not match the checksum in its name.
    """
    _check_sum(path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                state = {name: torch.from_numpy(file[name]) for name in file.files}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return {
            str(name): value.float() if value.is_floating_point() else value
            for name, value in state.items()
        }
    except (
        OSError,
        ValueError,
        RuntimeError,
        EOFError,
        AttributeError,
        TypeError,
        KeyError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:
        raise InputError(
            f"{path} cannot be read as weights ({type(error).__name__}: {str(error)[:200]}); "
            "download the file again"
        ) from error


def _state_of(source: str, url: str, without: str) -> tuple[Path, dict[str, Tensor]]:
    """The file and its tensors; `without` tells the user how to do without them."""
    path = _downloaded(url, without) if source == IMAGENET else Path(source)
    if not path.is_file():
        raise InputError(
            f"{path} is not there: give the path of {url.rsplit('/', 1)[1]}, or {without}"
        )
    return path, read_state(path)


def _downloaded(url: str, without: str) -> Path:
    """Path of the file in torch's cache, after downloading it if necessary."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    matched = _SUM_IN_NAME.search(path.name)
    assert matched is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=matched.group(1))
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"{url} could not be fetched ({error}): check the network, or download the file "
            f"elsewhere and give its path instead of {IMAGENET!r}, or {without}"
        ) from error
    return path


def _check_sum(path: Path) -> None:
    matched = _SUM_IN_NAME.search(path.name)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give the path of the weights"
        ) from error
    if matched is not None and not found.startswith(matched.group(1)):
        raise InputError(
            f"{path} has the sha256 {found[:12]}…, its name says {matched.group(1)}…: it is "
            "incomplete or altered, download it again"
        )


def _refuse_misfit(path: Path, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    bad = [k for k in wanted if k in found and not torch.isfinite(found[k]).all()]
    if bad:
        raise InputError(
            f"{path} holds values in {bad[0]!r} that are no numbers: download the file again"
        )
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    other = [k for k in wanted if k in found and wanted[k].shape != found[k].shape]
    for what, keys in (
        ("lacks", missing),
        ("has besides", unknown),
        ("has in other shapes", other),
    ):
        if keys:
            raise InputError(
                f"{path} holds weights of another network: it {what} {keys[0]!r} and "
                f"{len(keys) - 1} more; give the official file of the network that was asked for"
            )
