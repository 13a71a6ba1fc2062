"""Extracts the images of one archived plane safely.

The archive is not trusted: only members with a published name are extracted, under that name,
and each only up to a size that no field exceeds.  The size is measured while a member is written, because
the archive's directory may be wrong.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from refocusd import files
from refocusd.errors import InputError
from refocusd_training.data.bbbc006 import FILE_NAME, MOST_BYTES

#: A plane has 1536 files; an archive with many times more is not one.
MOST_FILES = 8192
CHUNK = 1 << 20


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The images by file name."""
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if entry.is_dir() or "__MACOSX" in name.parts or not FILE_NAME.fullmatch(name.name):
            continue
        if name.name in found:
            raise InputError(f"{path} has two files named {name.name}: download the archive again")
        if entry.file_size > MOST_BYTES or entry.flag_bits & 1:
            raise InputError(
                f"{entry.filename} in {path} is encrypted, or larger than a BBBC006 field: this is "
                "not the published archive"
            )
        found[name.name] = entry
    if not found:
        raise InputError(f"{path} has no file with a published name: it is not a BBBC006 plane")
    if len(found) > MOST_FILES:
        raise InputError(f"{path} has {len(found)} images, but a BBBC006 plane has 1536")
    return found


def plane_bytes(path: Path) -> int:
    """Disk space that the images of an archive need.

    Raises
    ------
    InputError
        If it is not an archive of a BBBC006 plane.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in _members(archive, path).values())
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def extract_plane(path: Path, output: Path) -> dict[str, str]:
    """Extract the images of an archive into a folder, which appears only when it is complete.

    Parameters
    ----------
    path : Path
        Archive of one plane.
    output : Path
        Folder; an existing one is replaced.

    Returns
    -------
    dict of str to str
        SHA-256 by file name.

    Raises
    ------
    InputError
        If the archive is damaged or is not a plane.
    OSError
        If the folder cannot be written.
    """
    draft = output.with_name(f"{output.name}.part")
    files.remove_tree(draft)
    draft.mkdir(parents=True)
    digests: dict[str, str] = {}
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    with archive:
        for name, entry in sorted(_members(archive, path).items()):
            digests[name] = _extract(archive, entry, draft / name, path)
    files.remove_tree(output)
    files.replace(draft, output)
    return digests


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, path: Path) -> str:
    digest = hashlib.sha256()
    left = MOST_BYTES
    with target.open("wb") as file:
        try:
            with archive.open(entry) as member:
                while chunk := member.read(CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise InputError(
                            f"{entry.filename} in {path} is larger when unpacked than the archive states"
                        )
                    digest.update(chunk)
                    file.write(chunk)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise _damaged(path, error) from error
    return digest.hexdigest()


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is damaged, or not a zip archive ({error}): delete it and download it again"
    )
