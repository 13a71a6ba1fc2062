"""Downloads one large file over HTTP: resumes where it stopped, and checks that it is complete."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refocusd import files
from refocusd.errors import InputError

CHUNK = 1 << 20
#: Number of consecutive attempts without a new byte after which the download fails.
FRUITLESS_ATTEMPTS = 3

_NETWORK = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class _Version:
    """Identifies a version of a remote file."""

    etag: str | None
    modified: str | None
    total: int | None


def remote_bytes(url: str, *, timeout_s: float = 60.0) -> int | None:
    """Size of a remote file; None if the server does not say.

    Raises
    ------
    InputError
        If there is no such file, or the network fails.
    """
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - checked by `download`
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            length = answer.headers.get("Content-Length")
            return int(length) if length else None
    except (*_NETWORK, ValueError) as error:
        raise _failed(url, error) from error


def download(
    url: str,
    target: Path,
    *,
    advance: Callable[[int, int | None], None],
    timeout_s: float = 60.0,
) -> None:
    """Download to a new file; the part from an earlier, interrupted call is kept.

    Until it is complete, the file is called ``NAME.part``; ``NAME.part.json`` beside it
    states which version of the remote file it belongs to.

    Parameters
    ----------
    url : str
        http or https.
    target : Path
    advance : callable
        Called with the number of bytes so far and in all; None if the latter is unknown.
    timeout_s : float
        Time limit of one network operation.

    Raises
    ------
    InputError
        If the network fails, or the remote file changes while it is fetched.
    OSError
        If the file cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    note = part.with_name(f"{part.name}.json")
    fruitless = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            total = _continue(url, part, note, advance, timeout_s)
            problem: Exception | None = None
        except urllib.error.HTTPError as error:
            # What the server refuses, it refuses again.
            raise _failed(url, error) from error
        except _NetworkError as error:
            total, problem = None, error
        done = part.stat().st_size if part.exists() else 0
        if problem is None and (total is None or done == total):
            break
        if done > (total or done):
            files.remove(part)
            raise InputError(f"{url} sent more than it announced: try again")
        fruitless = fruitless + 1 if done <= before else 0
        if fruitless >= FRUITLESS_ATTEMPTS:
            raise _failed(
                url, problem or ConnectionError("the connection was closed early")
            ) from problem
    files.replace(part, target)
    files.remove(note, missing_ok=True)


class _NetworkError(Exception):
    """The connection failed, not the disk."""


def _continue(
    url: str,
    part: Path,
    note: Path,
    advance: Callable[[int, int | None], None],
    timeout_s: float,
) -> int | None:
    """Fetch the missing part over one connection; returns the size of the whole file."""
    known = _read_note(note)
    have = part.stat().st_size if part.exists() and known is not None else 0
    if known is not None and have and have == known.total:
        return known.total
    headers = {}
    if have and known is not None:
        headers["Range"] = f"bytes={have}-"
        if condition := known.etag or known.modified:
            headers["If-Range"] = condition
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked by the caller
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            # The remote file is another version, shorter than the part here: start again.
            error.close()
            files.remove(note, missing_ok=True)
            raise _NetworkError("the partial download does not fit the remote file") from error
        raise
    except _NETWORK as error:
        raise _NetworkError(str(error)) from error
    with answer:
        partial = answer.status == http.HTTPStatus.PARTIAL_CONTENT and have > 0
        start = have if partial else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else None
        said = _Version(answer.headers.get("ETag"), answer.headers.get("Last-Modified"), total)
        if partial and known is not None and known.total not in (None, total):
            files.remove(note, missing_ok=True)
            raise _NetworkError("the remote file has changed")
        note.write_text(json.dumps([said.etag, said.modified, said.total]), encoding="utf-8")
        with part.open("r+b" if partial else "wb") as file:
            file.seek(start)
            done = start
            while True:
                try:
                    chunk = answer.read(CHUNK)
                except http.client.IncompleteRead as error:
                    file.write(error.partial)
                    raise _NetworkError("the connection was closed early") from error
                except _NETWORK as error:
                    raise _NetworkError(str(error)) from error
                if not chunk:
                    return total
                file.write(chunk)
                done += len(chunk)
                advance(done, total)


def _read_note(note: Path) -> _Version | None:
    try:
        etag, modified, total = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return None
    return _Version(etag, modified, total)


def _failed(url: str, error: Exception) -> InputError:
    return InputError(
        f"{url} could not be fetched ({error}): check the network and run the command again, "
        "which continues where it stopped; or download the file elsewhere and use --from"
    )
