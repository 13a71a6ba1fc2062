"""Adds models to the user's folder and removes them, completely or not at all."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refocusd import files
from refocusd.errors import BundleError, EngineError, OutputError
from refocusd.frame import Pixels
from refocusd.models.archive import Package, open_package
from refocusd.models.bioimageio import Adopted, adopt, identifier
from refocusd.models.bundle import SIDECAR, ModelBundle, load_bundle
from refocusd.models.description import MAX_RDF_BYTES, read_yaml
from refocusd.models.library import NAME, models_folder, shipped_bundles

_DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml")
#: The remains of an interrupted run are deleted after this time, s.
_STALE_S = 86400.0
#: Prefixes of temporary folders; a model's name never begins with a dot.
_STAGE, _OLD = ".adding-", ".removed-"


@dataclass(frozen=True, slots=True)
class Added:
    """A model that was added.

    Parameters
    ----------
    name : str
        Name of the model in the folder.
    bundle : ModelBundle
    adopted : Adopted, optional
        Measurements of a foreign model.
    """

    name: str
    bundle: ModelBundle
    adopted: Adopted | None


def add_bundle(
    path: Path,
    *,
    frames: Callable[[], Sequence[Pixels]],
    name: str | None = None,
    replace: bool = False,
) -> Added:
    """Check a model and copy it into the user's folder.

    Parameters
    ----------
    path : Path
        Folder or zip: a bundle of refocusd, or any bioimage.io model that refocusd can use.
    frames : callable
        Returns typical frames, uint16; called only if a foreign network is measured.
    name : str, optional
        Name of the model; by default its own id.
    replace : bool
        Whether an older model of this name may be replaced.

    Raises
    ------
    BundleError
        If it is not a model, or not one that refocusd can use.
    OutputError
        If the name is taken, or the folder cannot be written.
    """
    if name is not None:
        _check_name(name)
    library = models_folder()
    try:
        library.mkdir(parents=True, exist_ok=True)
        _clear(library)
        stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=library))
    except OSError as error:
        raise OutputError(f"{library} cannot be written: {error.strerror}") from error
    try:
        with open_package(path) as package:
            adopted = _staged(package, stage, frames)
        bundle = load_bundle(stage)
        own = bundle.model_id if NAME.fullmatch(bundle.model_id) else identifier(bundle.model_id)
        chosen = name or own
        _check_name(chosen)
        target = library / chosen
        _move(stage, target, replace=replace)
    except (BundleError, EngineError) as error:
        message = str(error).replace(str(stage), str(path))
        raise type(error)(f"{path} is not added: {message}") from error
    finally:
        files.remove_tree(stage)
    return Added(chosen, load_bundle(target), adopted)


def remove_bundle(name: str) -> Path:
    """Delete a model from the user's folder.

    Raises
    ------
    BundleError
        If there is no such model, or it is shipped with refocusd.
    OutputError
        If it cannot be deleted.
    """
    if name in shipped_bundles():
        raise BundleError(f"{name} is shipped with refocusd and cannot be removed")
    target = models_folder() / name
    if not NAME.fullmatch(name) or not target.is_dir():
        raise BundleError(f"{models_folder()} holds no model {name}; `refocusd models` lists them")
    old = _aside(target)
    files.remove_tree(old)
    return target


def _staged(
    package: Package, stage: Path, frames: Callable[[], Sequence[Pixels]]
) -> Adopted | None:
    sizes = package.sizes
    if SIDECAR in sizes:
        # A foreign model that refocusd has adopted before, with its checksums.
        package.copy(sorted(sizes), stage)
        return None
    rdf = next((name for name in _DESCRIPTIONS if name in sizes), None)
    if rdf is None:
        raise BundleError(f"it holds no {_DESCRIPTIONS[0]}, so it is not a bioimage.io model")
    content = _peek(package, rdf, sizes[rdf])
    if _is_ours(content):
        package.copy([rdf, *_listed(content)], stage)
        return None
    return adopt(package, rdf, content, stage, frames())


def _peek(package: Package, rdf: str, size: int) -> Any:
    if size > MAX_RDF_BYTES:
        raise BundleError(f"{rdf} is larger than {MAX_RDF_BYTES} bytes: not a model description")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        package.copy([rdf], Path(scratch))
        try:
            return read_yaml(Path(scratch) / rdf)[1]
        except BundleError as error:
            raise BundleError(str(error).replace(str(Path(scratch) / rdf), rdf)) from error


def _is_ours(content: Any) -> bool:
    config = content.get("config") if isinstance(content, dict) else None
    return isinstance(config, dict) and "refocusd" in config


def _listed(content: Any) -> list[str]:
    """Files of refocusd's own bundle; `load_bundle` checks them once they are staged."""
    files = content["config"]["refocusd"]
    files = files.get("files") if isinstance(files, dict) else None
    if not isinstance(files, dict):
        raise BundleError("its config.refocusd lists no files: export it again")
    return [str(name) for name in files]


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise BundleError(
            f"{name!r} is not a valid name for a model; give one with --name, of letters, digits, '.', '_' "
            "and '-', not ending in '.', and none of Windows' devices (con, nul, ...)"
        )
    if name in shipped_bundles():
        raise BundleError(
            f"a model called {name} is shipped with refocusd; give this one another name with --name"
        )


def _move(stage: Path, target: Path, *, replace: bool) -> None:
    """Rename the stage into place; an older model is missing only between two renames."""
    old: Path | None = None
    if target.exists():
        if not replace:
            raise OutputError(
                f"there is a model at {target} already: replace it with --replace, or name this one with --name"
            )
        old = _aside(target)
    try:
        files.replace(stage, target)
    except OSError as error:
        if old is not None:
            files.replace(old, target)
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error
    if old is not None:
        files.remove_tree(old)


def _aside(target: Path) -> Path:
    old = target.parent / f"{_OLD}{os.getpid()}-{time.monotonic_ns()}"
    try:
        files.replace(target, old)
    except OSError as error:
        raise OutputError(
            f"{target} cannot be moved ({error.strerror}); stop what uses it (`refocusd run`) first"
        ) from error
    return old


def _clear(library: Path) -> None:
    for entry in library.iterdir():
        # Another process may be deleting the same folder.
        with suppress(FileNotFoundError):
            if (
                entry.name.startswith((_STAGE, _OLD))
                and time.time() - entry.stat().st_mtime > _STALE_S
            ):
                files.remove_tree(entry)
