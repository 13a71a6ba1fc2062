"""Downloads the planes of BBBC006, and verifies on a second run that they are unchanged.

The output folder holds a folder ``BBBC006_v1_images_z_NN`` for each plane, and a manifest with the
SHA-256 of each downloaded archive (the publisher states none) and of each image.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from refocusd import files
from refocusd.errors import ConfigError, DiskFullError, InputError, OutputError
from refocusd.formats.disk_space import check_free_space
from refocusd.models.bundle import sha256_of
from refocusd_training.data.archive import extract_plane, plane_bytes
from refocusd_training.data.download import download, remote_bytes

BBBC006_URL = "https://data.broadinstitute.org/bbbc/BBBC006"
MANIFEST = "BBBC006_v1_manifest.json"
#: An unpacked plane: 1536 uncompressed files of 520x696 px, 16 bits.
PLANE_BYTES = 1536 * 520 * 696 * 2
#: Space that stays free on the disk, bytes.
RESERVE_BYTES = 1 << 30
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(slots=True)
class FetchReport:
    """Result of fetching each plane.

    Parameters
    ----------
    fetched, verified : list of int
        Planes that were fetched now, and planes that existed and were unchanged.
    sha256 : dict of int to str
        Hash of each plane's archive.
    """

    fetched: list[int] = field(default_factory=list)
    verified: list[int] = field(default_factory=list)
    sha256: dict[int, str] = field(default_factory=dict)


def _archive_name(plane: int) -> str:
    return f"BBBC006_v1_images_z_{plane:02d}.zip"


def fetch_bbbc006(
    planes: Sequence[int],
    output: Path,
    *,
    archives: Path | None = None,
    url: str = BBBC006_URL,
    timeout_s: float = 60.0,
    reserve_bytes: int = RESERVE_BYTES,
    console: Console | None = None,
) -> FetchReport:
    """Fetch planes; existing ones are checked against the manifest.

    Parameters
    ----------
    planes : sequence of int
        0 to 33; 16 is in focus.
    output : Path
    archives : Path, optional
        Folder with archives that were downloaded elsewhere; nothing is downloaded.
    url : str
        http or https folder of the archives.
    timeout_s : float
        Time limit of one network operation.
    reserve_bytes : int
        Space that must stay free on the disk.
    console : rich.console.Console, optional
        Where progress is shown.

    Raises
    ------
    ConfigError
        If there is no such plane, or the URL is not http or https.
    InputError
        If an archive cannot be fetched, is damaged, or differs from the manifest.
    DiskFullError
        If there will not be enough room (before anything is fetched), or the disk is full.
    OutputError
        If the folder cannot be written.
    """
    if wrong := [plane for plane in planes if not 0 <= plane <= 33]:
        raise ConfigError(f"BBBC006 has the planes 0 to 33, not {wrong[0]}")
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"{url} is not an http or https address; for archives on disk use --from")
    report = FetchReport()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    try:
        output.mkdir(parents=True, exist_ok=True)
        known = _read_manifest(output)
        missing = []
        for plane in sorted(set(planes)):
            if _is_whole(output, known.get(f"{plane:02d}")):
                report.verified.append(plane)
                report.sha256[plane] = known[f"{plane:02d}"]["archive_sha256"]
            else:
                missing.append(plane)
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            sizes = {plane: _size(plane, archives, url, timeout_s) for plane in missing}
            if missing:
                check_free_space(output, sum(sizes.values()), reserve_bytes)
            for plane in missing:
                known[f"{plane:02d}"] = _get(
                    plane, output, archives, url, known.get(f"{plane:02d}"), timeout_s, progress
                )
                _write_manifest(output, known)
                report.fetched.append(plane)
                report.sha256[plane] = known[f"{plane:02d}"]["archive_sha256"]
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"{output} cannot be written ({error.strerror}): free some space and run the "
                "command again, which continues where it stopped"
            ) from error
        raise OutputError(f"{output} cannot be written ({error}): check its permissions") from error
    return report


def _size(plane: int, archives: Path | None, url: str, timeout_s: float) -> int:
    """Disk space that a plane needs while it is fetched and unpacked, in bytes."""
    if archives is not None:
        path = archives / _archive_name(plane)
        if not path.is_file():
            raise InputError(
                f"{path} does not exist: download {BBBC006_URL}/{path.name}, or leave plane {plane} out"
            )
        return plane_bytes(path)
    # The unpacked size is known only from the archive itself; a whole plane is the upper limit.
    return (remote_bytes(f"{url}/{_archive_name(plane)}", timeout_s=timeout_s) or 0) + PLANE_BYTES


def _get(
    plane: int,
    output: Path,
    archives: Path | None,
    url: str,
    before: dict[str, Any] | None,
    timeout_s: float,
    progress: Progress,
) -> dict[str, Any]:
    """Fetch, check and unpack one plane; return its entry for the manifest."""
    name = _archive_name(plane)
    task = progress.add_task(f"plane {plane:02d}", total=None)
    archive = (archives or output) / name
    if archives is None and not archive.exists():
        download(
            f"{url}/{name}",
            archive,
            advance=lambda done, total: progress.update(task, completed=done, total=total),
            timeout_s=timeout_s,
        )
    checksum = sha256_of(archive)
    if before is not None and before["archive_sha256"] != checksum:
        raise InputError(
            f"{archive} has the SHA-256 {checksum}, and plane {plane} came from "
            f"{before['archive_sha256']} the first time: delete the file if it is damaged; if the "
            f"publisher has changed it, delete {output / MANIFEST}"
        )
    size = archive.stat().st_size
    digests = extract_plane(archive, output / archive.stem)
    progress.update(task, completed=size, total=size)
    if archives is None:
        files.remove(archive)
    return {
        "source": f"{url}/{name}" if archives is None else name,
        "archive_sha256": checksum,
        "archive_bytes": size,
        "folder": archive.stem,
        "files": digests,
    }


def _read_manifest(output: Path) -> dict[str, dict[str, Any]]:
    path = output / MANIFEST
    if not path.exists():
        return {}
    try:
        planes = json.loads(path.read_text(encoding="utf-8"))["planes"]
        for entry in planes.values():
            _ = entry["archive_sha256"], entry["folder"], dict(entry["files"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a manifest ({error!r}): delete it") from error
    return dict(planes)


def _write_manifest(output: Path, planes: dict[str, dict[str, Any]]) -> None:
    document = {"data": "BBBC006v1, CC0, Ljosa et al. 2012", "planes": planes}
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    files.write_whole(output / MANIFEST, text.encode())


def _is_whole(output: Path, entry: dict[str, Any] | None) -> bool:
    """Whether all images of a plane exist and are unchanged."""
    if entry is None:
        return False
    folder = output / Path(entry["folder"]).name
    for name, digest in entry["files"].items():
        path = folder / Path(name).name
        if not path.is_file() or sha256_of(path) != digest:
            return False
    return bool(entry["files"])
