"""Model bundles: a folder that is also a bioimage.io model (format 0.5).

``rdf.yaml`` describes the model; its ``config.refocusd`` part names every other
file with its sha256, and how frames are normalised.  All of it is checked
before a byte reaches a runtime: sizes are bounded, names are bare, sums match.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from refocusd.errors import BundleError

__all__ = ["SCHEMA", "ModelBundle", "load_bundle", "shipped_bundles"]

#: Version of ``config.refocusd``.
SCHEMA = 1
MAX_RDF_BYTES = 1 << 16
MAX_FILE_BYTES = 2 << 30
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})$")
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
    optics: dict[str, tuple[float, float]] = {}


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
    trained : dict of str to (low, high)
        Ranges that the model was trained for, as far as the bundle tells: ``na``,
        ``wavelength_um``, ``pixel_um``, ``spherical_waves``, ``defocus_um``.
    """

    folder: Path
    model_id: str
    sha256: str
    low_percentile: float
    high_percentile: float
    size_multiple: int
    receptive_field_px: int
    trained: dict[str, tuple[float, float]] = field(default_factory=dict)

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
        if rdf.exists() and not rdf.is_file():
            raise BundleError(f"{rdf} is no file")
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
    # A network can name further files beside it as its weights: none unchecked.
    unlisted = {path.name for path in folder.iterdir()} - set(config.files) - {"rdf.yaml"}
    if unlisted:
        raise BundleError(
            f"the bundle {folder} holds files that its rdf.yaml does not list "
            f"({', '.join(sorted(unlisted)[:5])}); move them away"
        )
    return ModelBundle(
        folder=folder,
        model_id=config.id,
        sha256=hashlib.sha256(text).hexdigest(),
        low_percentile=config.normalisation.low_percentile,
        high_percentile=config.normalisation.high_percentile,
        size_multiple=config.size_multiple,
        receptive_field_px=config.receptive_field_px,
        trained=config.optics,
    )


class _PlainLoader(yaml.SafeLoader):
    """YAML without references: a few bytes of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a model description has no references (*name)")
        return super().compose_node(parent, index)


# Not needed in a model description, and slow to build: 1:2:3 as a number in base 60.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
    + [
        ("tag:yaml.org,2002:int", _INTEGER)
        for tag, _ in resolvers
        if tag == "tag:yaml.org,2002:int"
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_config(rdf: Path, text: bytes) -> _Config:
    try:
        description: Any = yaml.load(text, _PlainLoader)  # noqa: S506 (a SafeLoader)
    except Exception as error:
        raise BundleError(f"{rdf} is not YAML: {error}") from error
    try:
        config = msgspec.convert(description["config"]["refocusd"], _Config)
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{rdf} has no config.refocusd part: it is not a bundle that refocusd made"
        ) from error
    except (msgspec.ValidationError, UnicodeError) as error:
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
    bare = Path(file).name == file and file.isprintable() and file not in ("", ".", "..")
    if not bare:
        raise BundleError(f"the bundle {folder} names {file!r}, which is not a bare file name")
    try:
        if not path.is_file():
            raise BundleError(f"the bundle {folder} is incomplete: {file} is no file there")
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
