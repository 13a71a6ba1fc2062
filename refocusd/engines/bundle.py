"""Model bundles: a folder that is also a bioimage.io model (format 0.5).

``rdf.yaml`` describes the model; its ``config.refocusd`` part names every other
file with its sha256, and how frames are normalised.  All of it is checked
before a byte reaches a runtime: sizes are bounded, names are bare, sums match.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from refocusd.errors import BundleError

__all__ = ["SCHEMA", "ModelBundle", "load_bundle", "shipped_bundles"]

#: Version of ``config.refocusd``.
SCHEMA = 1
MAX_RDF_BYTES = 1 << 20
MAX_FILE_BYTES = 2 << 30
_MODELS = Path(__file__).parent / "models"

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Normalisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    low_percentile: Annotated[float, msgspec.Meta(ge=0, le=100)]
    high_percentile: Annotated[float, msgspec.Meta(ge=0, le=100)]


class _Config(msgspec.Struct, frozen=True):
    schema: int
    id: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._-]{1,64}$")]
    normalisation: _Normalisation
    size_multiple: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    receptive_field_px: Annotated[int, msgspec.Meta(ge=0, le=8192)]
    files: dict[str, Sha256]


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """A bundle whose files were all checked.

    Parameters
    ----------
    folder : Path
    model_id : str
    sha256 : str
        Of ``rdf.yaml``, which holds the sums of all other files: it names the
        bundle's whole content.
    low_percentile, high_percentile : float
        Percentiles of a frame that become 0 and 1.
    size_multiple : int
        Height and width given to the network are multiples of this, in px.
    receptive_field_px : int
        Radius beyond which a pixel does not matter to the output, as measured.
    """

    folder: Path
    model_id: str
    sha256: str
    low_percentile: float
    high_percentile: float
    size_multiple: int
    receptive_field_px: int

    @property
    def onnx(self) -> Path:
        """The network as ONNX."""
        return self.folder / "model.onnx"


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(path.parent.name for path in _MODELS.glob("*/rdf.yaml"))


def load_bundle(name: str | Path) -> ModelBundle:
    """Check a bundle and describe it.

    Parameters
    ----------
    name : str or path
        A shipped bundle's name, or the folder of a bundle.

    Raises
    ------
    BundleError
        If it is missing, incomplete, altered (sha256) or of another kind.
    """
    folder = _MODELS / name if str(name) in shipped_bundles() else Path(name)
    rdf = folder / "rdf.yaml"
    try:
        if rdf.stat().st_size > MAX_RDF_BYTES:
            raise BundleError(
                f"{rdf} is larger than {MAX_RDF_BYTES} bytes: not a model description"
            )
        text = rdf.read_bytes()
    except OSError as error:
        raise BundleError(
            f"no model bundle at {folder} ({error.strerror}: rdf.yaml); name a folder that holds one, "
            f"or one of the shipped models: {', '.join(shipped_bundles())}"
        ) from error
    config = _read_config(rdf, text)
    if "model.onnx" not in config.files:
        raise BundleError(f"the bundle {folder} lists no model.onnx; export it again")
    for file, expected in config.files.items():
        _check_file(folder, file, expected)
    return ModelBundle(
        folder=folder,
        model_id=config.id,
        sha256=hashlib.sha256(text).hexdigest(),
        low_percentile=config.normalisation.low_percentile,
        high_percentile=config.normalisation.high_percentile,
        size_multiple=config.size_multiple,
        receptive_field_px=config.receptive_field_px,
    )


def _read_config(rdf: Path, text: bytes) -> _Config:
    try:
        description: Any = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BundleError(f"{rdf} is not YAML: {error}") from error
    try:
        config = msgspec.convert(description["config"]["refocusd"], _Config)
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{rdf} has no config.refocusd part: it is not a bundle that refocusd made"
        ) from error
    except msgspec.ValidationError as error:
        raise BundleError(f"{rdf}: config.refocusd: {error}; export the bundle again") from error
    if config.schema != SCHEMA:
        raise BundleError(
            f"{rdf} has schema {config.schema}, this refocusd reads {SCHEMA}; use a matching version"
        )
    if config.normalisation.low_percentile >= config.normalisation.high_percentile:
        raise BundleError(f"{rdf}: low_percentile must be below high_percentile")
    return config


def _check_file(folder: Path, file: str, expected: str) -> None:
    path = folder / file
    if Path(file).name != file or file in ("", ".", ".."):
        raise BundleError(f"the bundle {folder} names {file!r}, which is not a bare file name")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BundleError(f"{path} is larger than {MAX_FILE_BYTES >> 30} GiB")
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"the bundle {folder} is incomplete: {file}: {error.strerror}") from error
    if found != expected:
        raise BundleError(
            f"{path} is not the file that the bundle was made with (sha256 {found[:12]}…, expected "
            f"{expected[:12]}…); copy the bundle again, or reinstall refocusd if it was shipped with it"
        )
