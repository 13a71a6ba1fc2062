"""Model bundles: folders that are also bioimage.io models (format 0.5).

``rdf.yaml`` describes the model; its ``config.refocusd`` part lists every other
file with its sha256, and says how frames are normalised.  All of it is checked
before a runtime opens any file: sizes are bounded, names are bare, hashes match.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import BundleError
from refocusd.files import read_limited, reading
from refocusd.frame import Pixels
from refocusd.imaging.normalise import MIN_SCALE, CountsRange, counts_range
from refocusd.models.description import (
    Description,
    read_description,
    read_yaml,
)
from refocusd.models.library import find_bundle, shipped_bundles, user_bundles
from refocusd.models.onnx_guard import refuse_outside_weights

#: File with refocusd's section for a bundle from elsewhere, beside its description.
SIDECAR = "refocusd.yaml"
#: File with the thresholds by which the results of a bundle's model are judged.
VERDICT = "verdict.toml"
MAX_FILE_BYTES = 2 << 30
MAX_CARD_BYTES = 1 << 20
#: Largest number of values of one tensor.
MAX_PIXELS = 1 << 26
#: Least standard deviation, counts, by which frames are scaled: less is noise.  It corresponds to
#: the 16 counts between percentiles 1 and 99.9 of Gaussian noise.
MIN_STD = 3.0
_COUNTS = CountsRange(0.0, 1.0)


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """A bundle whose files have all been checked.

    Parameters
    ----------
    folder : Path
    model_id : str
    sha256 : str
        SHA-256 of the description, which holds the hashes of all other files: it identifies the
        bundle's whole content.
    low_percentile, high_percentile : float
        Percentiles of a frame that become 0 and 1 if `normalisation` is ``percentiles``.
    size_multiple : int
        Height and width given to the network are multiples of this, in px.
    receptive_field_px : int
        Measured radius beyond which a pixel does not matter to the output.
    trained : dict of str to (low, high)
        Ranges that the model was trained for, as far as the bundle states them: ``na``,
        ``wavelength_um``, ``pixel_um``, ``spherical_waves``, and ``defocus_um`` or
        ``blur_px`` (standard deviation).
    normalisation : {"percentiles", "mean_std", "fixed"}
        How `counts_range` finds offset and scale of a frame.
    fixed_range : CountsRange
        Offset and scale if `normalisation` is ``fixed``.
    onnx : Path
        The network as ONNX.
    weights : Path, optional
        The network's weights as safetensors.
    variants : dict of precision to Path
        The network prepared for other precisions, as ONNX, e.g. ``int8``.
    network : dict of str to object, optional
        The architecture: finite numbers, strings, and lists and mappings of them.
    channels : tuple of str
        Channels that the model is meant for; empty for any.
    tolerance : dict of precision to float
        Largest difference allowed between an engine and the bundle's tensors, in network units.
    title : str
        The model's name in words.
    documentation : Path, optional
        The model's card.
    foreign : bool
        Whether this is a bioimage.io model that refocusd did not make.
    test : (Path, Path), optional
        Test tensors as bioimage.io defines them: the network's input before normalisation, and its
        output.
    validation : (Path, Path), optional
        Raw and refocused frames in network units.
    network_output : CountsRange
        Converts the output test tensor to network units, if a postprocessing step undoes the
        normalisation: (value - offset) / scale.
    fine_sigma_px : float, optional
        For a network that works at the scale of the blur: the width of the blur that it is made
        for, a standard deviation in px.
    verdict : Path, optional
        Thresholds by which its results are judged, as `refocusd train trust` fits them.
    """

    folder: Path
    model_id: str
    sha256: str
    low_percentile: float
    high_percentile: float
    size_multiple: int
    receptive_field_px: int
    onnx: Path
    trained: dict[str, tuple[float, float]] = field(default_factory=dict)
    normalisation: Literal["percentiles", "mean_std", "fixed"] = "percentiles"
    fixed_range: CountsRange = _COUNTS
    weights: Path | None = None
    variants: dict[str, Path] = field(default_factory=dict)
    network: dict[str, object] | None = None
    channels: tuple[str, ...] = ()
    tolerance: dict[str, float] = field(default_factory=dict)
    title: str = ""
    documentation: Path | None = None
    foreign: bool = False
    test: tuple[Path, Path] | None = None
    validation: tuple[Path, Path] | None = None
    network_output: CountsRange = _COUNTS
    fine_sigma_px: float | None = None
    verdict: Path | None = None

    def counts_range(self, pixels: Pixels) -> CountsRange:
        """Offset and scale of a whole frame for this model.

        Parameters
        ----------
        pixels : ndarray of uint8 or uint16, shape (height, width)
        """
        if self.normalisation == "fixed":
            return self.fixed_range
        if self.normalisation == "mean_std":
            std = float(pixels.std(dtype=np.float64))
            return CountsRange(float(pixels.mean(dtype=np.float64)), max(std, MIN_STD))
        found = counts_range(pixels, self.low_percentile, self.high_percentile)
        if self.low_percentile > 0 and self.high_percentile < 100:
            return found
        # The ends of a histogram cannot be estimated from samples: one pixel decides.
        low = float(pixels.min()) if self.low_percentile == 0 else found.offset
        high = float(pixels.max()) if self.high_percentile == 100 else found.offset + found.scale
        return CountsRange(low, max(high - low, MIN_SCALE))

    @property
    def card(self) -> str:
        """The model's card, Markdown; empty if there is none.

        Raises
        ------
        BundleError
            If it cannot be read, or is larger than a card should be.
        """
        if self.documentation is None:
            return ""
        with reading(self.documentation, BundleError):
            return read_limited(self.documentation, MAX_CARD_BYTES).decode("utf-8", "replace")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_bundle(name: str | Path) -> ModelBundle:
    """Check a bundle and describe it.

    Parameters
    ----------
    name : str or path
        A shipped bundle's name, the name of one in the user's model folder, or the folder
        of a bundle; looked for in this order.

    Raises
    ------
    BundleError
        If it is missing, incomplete, altered (sha256) or of another kind.
    """
    folder = find_bundle(name)
    foreign = (folder / SIDECAR).is_file()
    path = folder / (SIDECAR if foreign else "rdf.yaml")
    try:
        text, content = read_yaml(path)
    except OSError as error:
        raise BundleError(
            f"no model bundle at {folder} ({error.strerror}: {path.name}); name a folder that holds one, "
            f"or one of these models: {', '.join([*shipped_bundles(), *user_bundles()])}"
        ) from error
    described = read_description(path, content)
    for file, expected in described.files.items():
        _check_file(folder, file, expected)
    # A network can refer to further files beside it as its weights, so no file may be unchecked.
    unlisted = {entry.name for entry in folder.iterdir()} - set(described.files) - {path.name}
    if unlisted:
        raise BundleError(
            f"the bundle {folder} holds files that its {path.name} does not list "
            f"({', '.join(sorted(unlisted)[:5])}); move them away"
        )
    for file in (described.onnx, *described.variants.values()):
        refuse_outside_weights(folder / file)
    title = described.title or _title(content)
    return _bundle(folder, described, hashlib.sha256(text).hexdigest(), title, foreign)


def _bundle(
    folder: Path, described: Description, sha256: str, title: str, foreign: bool
) -> ModelBundle:
    norm = described.normalisation

    def listed(file: str) -> Path | None:
        return folder / file if file in described.files else None

    def pair(first: str, second: str) -> tuple[Path, Path] | None:
        both = first in described.files and second in described.files
        return (folder / first, folder / second) if both else None

    tensors = described.tensors

    return ModelBundle(
        folder=folder,
        model_id=described.id,
        sha256=sha256,
        low_percentile=norm.low_percentile,
        high_percentile=norm.high_percentile,
        size_multiple=described.size_multiple,
        receptive_field_px=described.receptive_field_px,
        onnx=folder / described.onnx,
        trained=described.optics,
        normalisation=norm.kind,
        fixed_range=CountsRange(norm.offset, norm.scale),
        weights=listed(described.weights),
        variants={precision: folder / file for precision, file in described.variants.items()},
        network=described.network,
        channels=tuple(described.channels),
        tolerance=described.tolerance,
        title=title,
        documentation=listed(described.documentation),
        foreign=foreign,
        test=pair(tensors.test_input, tensors.test_output),
        validation=pair(tensors.validation_raw, tensors.validation_refocused),
        network_output=CountsRange(tensors.output_offset, tensors.output_scale),
        fine_sigma_px=described.fine_sigma_px,
        verdict=listed(VERDICT),
    )


def _title(content: object) -> str:
    name = content.get("name") if isinstance(content, dict) else None
    return name[:512] if isinstance(name, str) else ""


def _check_file(folder: Path, file: str, expected: str) -> None:
    path = folder / file
    bare = Path(file).name == file and file.isprintable() and file not in ("", ".", "..")
    if not bare:
        raise BundleError(f"the bundle {folder} names {file!r}, which is not a bare file name")
    try:
        if not path.is_file():
            raise BundleError(f"the bundle {folder} is incomplete: {file} is not a file there")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BundleError(f"{path} is larger than {MAX_FILE_BYTES >> 30} GiB")
        found = sha256_of(path)
    except OSError as error:
        raise BundleError(f"the bundle {folder} is incomplete: {file}: {error.strerror}") from error
    if found != expected:
        raise BundleError(
            f"{path} is not the file that the bundle was made with (sha256 {found[:12]}…, expected "
            f"{expected[:12]}…); copy the bundle again, or reinstall refocusd if it was shipped with it"
        )


def read_frames(path: Path, channels: int = 1) -> NDArray[np.float32]:
    """Read the frames of one tensor of a bundle.

    Parameters
    ----------
    path : Path
        ``.npy`` of real numbers, shape (n, channels, height, width).
    channels : int

    Returns
    -------
    ndarray of float32, shape (n, channels, height, width)

    Raises
    ------
    BundleError
        If it is not such a file, has more than 64 million values, or some that are not finite.
    """
    try:
        with reading(path, BundleError), path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = header(stream)
            pixels = math.prod(shape)
            if len(shape) != 4 or shape[1] != channels or min(shape) < 1 or pixels > MAX_PIXELS:
                raise BundleError(
                    f"{path} has shape {shape}: frames are (n, {channels}, height, width)"
                )
            if dtype.hasobject or dtype.kind not in "fiu":
                raise BundleError(f"{path} holds {dtype}: frames are real numbers")
            if path.stat().st_size != stream.tell() + pixels * dtype.itemsize:
                raise BundleError(f"{path} is shorter or longer than its header states")
            data = np.fromfile(stream, dtype, pixels)
    except BundleError:
        raise
    except Exception as error:
        # numpy's reader of headers passes on any error of its parser.
        raise BundleError(f"{path} is not an .npy file ({error})") from error
    frames = data.reshape(shape, order="F" if fortran else "C").astype(np.float32)
    if not np.isfinite(frames).all():
        raise BundleError(f"{path} holds values that are not finite")
    return np.ascontiguousarray(frames)
