"""Copies a model from a folder or a zip into an empty folder, within bounds.

Only ordinary files at the top level (or in the only folder of a zip) are copied, and only
into the given folder.
"""

from __future__ import annotations

import itertools
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from refocusd.errors import BundleError, OutputError

MAX_ENTRIES = 1024
MAX_FILE_BYTES = 2 << 30
MAX_TOTAL_BYTES = 4 << 30
#: No network compresses a hundredfold; an archive made to fill the disk does.
MAX_RATIO = 100
_CHUNK = 1 << 20
#: Space that stays free on the disk, bytes.
RESERVE_BYTES = 64 << 20
#: Compression methods that every zip tool has, and for which `_DAMAGED` is complete.
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: Exceptions of `zipfile` for a file that is not a zip, or is damaged.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class Package:
    """The files of a folder or a zip.

    Parameters
    ----------
    where : str
        The folder or zip, for error messages.
    sizes : mapping of str to int
        Name and size of each file, in bytes.
    open : callable
        Opens a file, given its name, for reading.
    """

    where: str
    sizes: Mapping[str, int]
    open: Callable[[str], IO[bytes]]

    def copy(self, names: list[str], folder: Path) -> None:
        """Copy files into a folder.

        Raises
        ------
        BundleError
            If a file is missing, damaged or too large.
        OutputError
            If there is no room, or a file cannot be written.
        """
        sizes = self.sizes
        if missing := sorted(set(names) - set(sizes)):
            raise BundleError(f"{self.where} holds no {missing[0]}: download the package again")
        total = sum(sizes[name] for name in names)
        if total > MAX_TOTAL_BYTES or any(sizes[name] > MAX_FILE_BYTES for name in names):
            raise BundleError(
                f"{self.where} holds {total >> 20} MiB; a model has files of at most "
                f"{MAX_FILE_BYTES >> 30} GiB, {MAX_TOTAL_BYTES >> 30} GiB together"
            )
        if shutil.disk_usage(folder).free < total + RESERVE_BYTES:
            raise OutputError(f"{folder} has no room for {total >> 20} MiB: free some space")
        for name in names:
            self._copy(name, sizes[name], folder / name)

    def _copy(self, name: str, size: int, target: Path) -> None:
        try:
            with self.open(name) as source, target.open("xb") as copy:
                while chunk := source.read(min(_CHUNK, size + 1)):
                    size -= len(chunk)
                    if size < 0:
                        raise BundleError(f"{self.where}: {name} is larger than the archive states")
                    copy.write(chunk)
        except OSError as error:
            raise OutputError(f"{name} of {self.where} cannot be copied: {error}") from error
        except _DAMAGED as error:
            raise BundleError(f"{self.where} is damaged at {name} ({error})") from error


def _folder(folder: Path) -> Package:
    entries = list(itertools.islice(folder.iterdir(), MAX_ENTRIES + 1))
    _refuse_many(str(folder), len(entries))
    files = [entry for entry in entries if entry.is_file() and not entry.is_symlink()]
    sizes = {file.name: file.stat().st_size for file in files}
    return Package(str(folder), sizes, lambda name: (folder / name).open("rb"))


def _zip(archive: zipfile.ZipFile, where: str) -> Package:
    entries = archive.infolist()
    _refuse_many(where, len(entries))
    for entry in entries:
        _check(entry, where)
    paths = {PurePosixPath(entry.filename): entry for entry in entries if not entry.is_dir()}
    tops = {path.parts[0] for path in paths}
    if len(tops) == 1 and all(len(path.parts) > 1 for path in paths):
        top = tops.pop()
        paths = {path.relative_to(top): entry for path, entry in paths.items()}
    files = {str(path): entry for path, entry in paths.items() if len(path.parts) == 1}
    sizes = {name: entry.file_size for name, entry in files.items()}
    return Package(where, sizes, lambda name: archive.open(files[name]))


def _refuse_many(where: str, entries: int) -> None:
    if entries > MAX_ENTRIES:
        raise BundleError(f"{where} holds more than {MAX_ENTRIES} files, so it is not a model")


def _check(entry: zipfile.ZipInfo, where: str) -> None:
    name = entry.filename
    parts = name.removesuffix("/").split("/")
    bad_name = (
        not name.isprintable()
        or any(sign in name for sign in "\\:")
        or any(part in ("", ".", "..") for part in parts)
    )
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if bad_name or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BundleError(f"{where} holds {name[:100]!r}, which is not a plain file inside it")
    if entry.flag_bits & 1:
        raise BundleError(f"{where} is encrypted: unpack it and add the folder")
    if entry.compress_type not in _PACKED:
        raise BundleError(
            f"{where} uses an uncommon compression: unpack it and add the folder, or "
            "pack it again as an ordinary zip (deflate)"
        )
    if entry.file_size > _CHUNK and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        raise BundleError(
            f"{where}: {name[:100]} would grow more than {MAX_RATIO}-fold, so it is not unpacked"
        )


@contextmanager
def open_package(path: Path) -> Iterator[Package]:
    """Open a folder or a zip.

    Raises
    ------
    BundleError
        If it is neither, is damaged, or holds something that no model holds.
    """
    if path.is_dir():
        yield _folder(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; name a folder or a zip") from error
    except _DAMAGED as error:
        raise BundleError(f"{path} is neither a folder nor a whole zip ({error})") from error
    with archive:
        names = [entry.filename.casefold() for entry in archive.infolist()]
        if len(set(names)) < len(names):
            raise BundleError(f"{path} holds two files with the same name, so it is not unpacked")
        yield _zip(archive, str(path))
