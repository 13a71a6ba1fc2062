"""Opening a dataset of any kind."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from refocusd.errors import InputError
from refocusd.files import open_shared
from refocusd.formats.dataset import Dataset
from refocusd.formats.file_names import listed_images
from refocusd.formats.image_files import open_images
from refocusd.formats.ndtiff.index import INDEX_NAME
from refocusd.formats.ndtiff.reader import GrowingNDTiff, NDTiffReader, ndtiff_folder
from refocusd.formats.ome_zarr.layout import is_omezarr
from refocusd.formats.ome_zarr.mirror.layout import is_mirror
from refocusd.formats.ome_zarr.mirror.reader import MirrorReader
from refocusd.formats.ome_zarr.reader import OmeZarrReader
from refocusd.formats.ome_zarr.store.groups import GROUP_NAMES, is_store
from refocusd.formats.ome_zarr.store.reader import StoreReader
from refocusd.formats.tiff.growing_file import Opener
from refocusd.formats.tiff.growing_ome import ENDINGS, GrowingOmeTiff
from refocusd.formats.tiff.page import MAX_FRAME_BYTES
from refocusd.formats.tiff.separate_files import METADATA_FILE, GrowingSeparateFiles, is_image_name
from refocusd.formats.tiff.stacks import MicroManagerStacks, is_stack, is_stack_name
from refocusd.frame import counted

#: An address such as ``s3://bucket/plate.zarr``, also as a path; a single letter is a drive.
ADDRESS = re.compile("[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
#: refocusd's own stores satisfy `is_store` as well, so they are tried first.
_ZARR_READERS = (
    (is_omezarr, OmeZarrReader),
    (is_mirror, MirrorReader),
    (is_store, StoreReader),
)


def kind_of(names: Sequence[str]) -> str:
    """Kind of dataset that a folder may grow into, by the names of its files; empty for none.

    It is ``ndtiff``, ``ome-zarr``, ``stacks`` or ``separate``.  The last is one position of a dataset
    of separate image files, see `separate_files.run_of`.
    """
    if INDEX_NAME in names:
        return "ndtiff"
    if not GROUP_NAMES.isdisjoint(names):
        return "ome-zarr"
    if METADATA_FILE in names and any(is_image_name(name) for name in names):
        return "separate"
    return "stacks" if any(is_stack_name(name) for name in names) else ""


def open_dataset(
    path: str | Path,
    *,
    growing: bool = False,
    max_frame_bytes: int = MAX_FRAME_BYTES,
    opener: Opener = open_shared,
) -> Dataset:
    """Open frames on disk, and check everything that can be checked without reading them.

    ====================================  ==========================================
    an NDTiff dataset                     the folder with ``NDTiff.index``, its
                                          parent if that holds just one, or one of
                                          its ``*_NDTiffStack*.tif``
    an OME-Zarr of refocusd               its folder
    an OME-Zarr of any other writer       the folder of a plate, a well, an image or a
                                          collection of images
    a TIFF, OME-TIFF, ImageJ, MetaMorph
    or Micro-Manager stack, or a PNG      the file
    a folder of these                     the folder, or (BBBC006) its parent
    ====================================  ==========================================

    Parameters
    ----------
    path : str or Path
    growing : bool
        Another process is writing it now: an NDTiff dataset, image stacks or separate
        image files of Micro-Manager, an OME-TIFF of ome-writers or an OME-Zarr store.
        Frames that cannot be used are reported by `Dataset.unusable`; the others are read.
    max_frame_bytes : int
        A frame that claims to be larger is refused before memory is allocated for it.
    opener : callable
        Opens the files of a growing dataset.

    Raises
    ------
    InputError
        If there is no such path, nothing in it is a dataset, a file is damaged, or
        its frames are not of type uint8 or uint16.
    """
    path = Path(path)
    try:
        if growing:
            return _open_growing(path, opener)
        _refuse_unreadable(path)
        for is_such, reader in _ZARR_READERS:
            if is_such(path):
                return reader(path, max_frame_bytes=max_frame_bytes)
        if (folder := ndtiff_folder(path)) is not None:
            return NDTiffReader(folder, max_frame_bytes=max_frame_bytes)
        if _is_of_stacks(path):
            return MicroManagerStacks(path, name=stem_of(path))
        return open_images(path, max_frame_bytes, stem_of(path))
    except (OSError, ValueError, OverflowError) as error:
        # A folder that may not be entered, a path that is not valid, or sizes that are impossible.
        raise InputError(
            f"{path} cannot be read ({error}): check it and its permissions"
        ) from error


def _refuse_unreadable(path: Path) -> None:
    """Refuse an address, a path that does not exist, and a packed dataset.

    Raises
    ------
    InputError
    """
    if not path.exists():
        if ADDRESS.match(path.as_posix()):
            raise InputError(
                f"{path} is an address: datasets are read from disks; mount it, or copy it here"
            )
        raise InputError(f"{path} does not exist: give the folder of a dataset, or a file")
    if path.suffix.lower() == ".zip" and path.is_file():
        raise InputError(f"{path} is packed: unpack it, and give the folder in it")


def _open_growing(path: Path, opener: Opener) -> Dataset:
    if path.name.lower().endswith(ENDINGS) and path.is_file():
        growing = GrowingOmeTiff(path, opener)
        growing.refresh()
        return growing
    kind = kind_of(os.listdir(path))  # noqa: PTH208 (names only)
    if kind == "separate" or (not kind and any(path.glob(f"*/{METADATA_FILE}"))):
        files = GrowingSeparateFiles(path)
        files.refresh()
        return files
    if not kind:
        raise InputError(
            f"{path} holds no NDTiff dataset, no image stacks of Micro-Manager and no OME-Zarr: give "
            "the folder of one"
        )
    dataset: Dataset
    if kind == "ome-zarr":
        dataset = StoreReader(path, growing=True)
    elif kind == "ndtiff":
        dataset = GrowingNDTiff(path, opener)
    else:
        dataset = MicroManagerStacks(path, opener, growing=True)
    while dataset.refresh():
        pass
    return dataset


def _is_of_stacks(path: Path) -> bool:
    if path.is_file():
        return is_stack(path)
    files = listed_images(path)
    others = [file for file in files if not (is_stack_name(file.name) and is_stack(file))]
    if others and len(others) < len(files):
        raise InputError(
            f"{path} holds image stacks of Micro-Manager and {counted(len(others), 'other image')}, such as "
            f"{others[0].name}: put the others elsewhere"
        )
    return bool(files) and not others


def stem_of(path: Path) -> str:
    """Name of a file without its ending; empty for a folder."""
    return path.stem.removesuffix(".ome").removesuffix(".companion") if path.is_file() else ""
