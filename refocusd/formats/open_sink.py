"""Starting and continuing a refocused dataset of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

from refocusd.errors import ConfigError, OutputError
from refocusd.formats.image_files import RAW_IMAGE
from refocusd.formats.ndtiff.layout import INDEX_NAME
from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.formats.ome_zarr.layout import is_omezarr
from refocusd.formats.ome_zarr.mirror.layout import is_mirror
from refocusd.formats.ome_zarr.store.reader import store_of
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.sink import Sink

SinkKind = Literal["ndtiff", "ome-zarr"]


def create_sink(kind: SinkKind, path: Path, summary: Mapping[str, Any] | None = None) -> Sink:
    """Start a dataset in a new folder.

    Parameters
    ----------
    kind : {"ndtiff", "ome-zarr"}
    path : Path
        Folder that does not exist yet (or is empty), e.g. ``<raw>_refocused``.
    summary : mapping, optional
        Summary metadata of the raw dataset (JSON-serialisable).  If they name an existing OME-Zarr
        store, or an existing TIFF of large frames, and `path` ends in ``.zarr``, the new dataset is
        an OME-Zarr with the layout of that one, whatever `kind` is.

    Raises
    ------
    ConfigError
        If there is no such kind.
    OutputError
        If the folder exists or cannot be made, or the summary is not JSON.
    """
    path = Path(path)
    about = summary or {}
    if path.name.endswith(".zarr"):
        # The models of OME-Zarr take a fifth of a second to import.
        from refocusd.formats.ome_zarr.mirror.writer import MirrorSink

        if (store := store_of(about)) is not None:
            return MirrorSink.create(path, about, store)
        if (image := Path(str(about.get(RAW_IMAGE, "")))).is_file():
            from refocusd.formats.ome_zarr.mirror.slide_layout import write_slide_layout

            with (
                TemporaryDirectory(ignore_cleanup_errors=True) as folder,
                open_dataset(image) as slides,
            ):
                write_slide_layout(slides, Path(folder))
                return MirrorSink.create(path, about, Path(folder))
    if kind == "ndtiff":
        return NDTiffSink.create(path, summary)
    if kind == "ome-zarr":
        # Its models take a fifth of a second to import.
        from refocusd.formats.ome_zarr.writer import OmeZarrSink

        return OmeZarrSink.create(path, summary)
    raise ConfigError(f"no output of the kind {kind!r}: choose {' or '.join(get_args(SinkKind))}")


def append_sink(path: Path) -> Sink:
    """Continue a dataset that `create_sink` started, whatever ended its writer.

    Raises
    ------
    OutputError
        If there is no dataset of ours, if its index is damaged, or if another
        process is writing it.
    """
    path = Path(path)
    kind = sink_kind(path)
    if kind == "ndtiff":
        return NDTiffSink.append(path)
    if kind == "ome-zarr":
        if is_mirror(path):
            from refocusd.formats.ome_zarr.mirror.writer import MirrorSink

            return MirrorSink.append(path)
        from refocusd.formats.ome_zarr.writer import OmeZarrSink

        return OmeZarrSink.append(path)
    raise OutputError(
        f"{path} holds neither an NDTiff nor an OME-Zarr dataset of refocusd: name the folder of "
        "a refocused dataset, or start a new one"
    )


def sink_kind(path: Path) -> SinkKind | None:
    """Find the kind of dataset in a folder; None if there is none."""
    path = Path(path)
    if (path / INDEX_NAME).is_file():
        return "ndtiff"
    return "ome-zarr" if is_omezarr(path) or is_mirror(path) else None
