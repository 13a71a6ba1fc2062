"""Compiled engines, kept by what they were compiled from.

An entry's name is the sum of its `EngineKey`: model, runtime and version, device,
precision, range of shapes.  Whoever asks with another key finds nothing, so no engine is
ever used where it was not built for.  An entry holds its key in full and the sum of its
payload; one that is cut off, altered or of another key is thrown away and built again.

Entries are written beside and then moved into place, so that there is never half of one.
Of two processes that want the same engine one builds and the other waits for it; where
the file system has no locks both build, and one of two equal entries stays.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import platformdirs

from refocusd.files import lock, remove, write_whole

log = logging.getLogger(__name__)

#: Limit for all entries together; a ResNet-34 U-net in f16 takes 80 MiB.
MAX_CACHE_BYTES = 4 << 30
#: A larger file is not a valid entry.
MAX_ENTRY_BYTES = 2 << 30
MAX_HEADER_BYTES = 16 << 10
MAGIC = b"refocusd engine 1\n"
LENGTH = struct.Struct("<I")
SUFFIX = ".engine"
#: A lock is waited for no longer than this, s.
PATIENCE_S = 600.0
POLL_S = 0.1
#: An unfinished file older than this, s, was left by a killed writer.
LEFTOVER_S = 3600.0


def cache_folder() -> Path:
    """Where refocusd keeps what it can make again: ``REFOCUSD_CACHE``, else the user's cache."""
    named = os.environ.get("REFOCUSD_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("refocusd", False))


class EngineKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that decides whether a compiled engine may be used.

    Parameters
    ----------
    kind : str
        ``engine``, or what else is kept, e.g. ``runtime-cache``.
    source_sha256 : str
        Of the ONNX or the weights that it is built from.
    runtime : str
        Runtime and its full version, e.g. ``tensorrt_rtx 1.7.1.116``.
    target : str
        Device and driver that it runs on.
    precision : str
    shapes : str
        Least, best and largest shape of the network's input.
    """

    kind: str
    source_sha256: str
    runtime: str
    target: str
    precision: str
    shapes: str = ""

    @property
    def digest(self) -> str:
        """Name of the entry: sha256 of the key."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: EngineKey
    payload_bytes: int
    payload_sha256: str


class EngineCache:
    """A folder of engines.

    Parameters
    ----------
    folder : Path, optional
        ``engines`` in `cache_folder` unless given.
    max_bytes : int
        Entries used least recently go beyond it.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self.folder = folder or cache_folder() / "engines"
        self._max_bytes = max_bytes

    def path(self, key: EngineKey) -> Path:
        """Where the entry of a key lies, if there is one."""
        return self.folder / f"{key.digest}{SUFFIX}"

    def get(self, key: EngineKey) -> bytes | None:
        """The engine stored for a key; None if there is no intact one."""
        path = self.path(key)
        try:
            if path.stat().st_size > MAX_ENTRY_BYTES:
                raise ValueError("larger than any engine")
            payload = _payload(path.read_bytes(), key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("what was kept in %s is of no use (%s): it is made again", path, error)
            with suppress(OSError):
                remove(path)
            return None
        with suppress(OSError):
            os.utime(path)  # used last now
        return payload

    def put(self, key: EngineKey, payload: bytes) -> None:
        """Store an engine; if that fails, it is built again the next time."""
        header = msgspec.json.encode(
            _Header(key, len(payload), hashlib.sha256(payload).hexdigest())
        )
        path = self.path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Windows refuses while another process reads the old entry, which is equally good.
            write_whole(path, MAGIC, LENGTH.pack(len(header)), header, payload)
        except OSError as error:
            log.warning("what was made cannot be kept in %s: %s", self.folder, error.strerror)
        self._tidy(path)

    def discard(self, key: EngineKey) -> None:
        """Remove the entry of a key."""
        with suppress(OSError):
            remove(self.path(key))

    def get_or_build(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """The engine stored for a key, or the one that `build` returns, which is then stored.

        Errors of `build` pass, and nothing is kept.
        """
        found = self.get(key)
        if found is not None:
            return found
        with self._one_builder(key):
            found = self.get(key)  # somebody else may have built it meanwhile
            if found is None:
                found = build()
                self.put(key, found)
        return found

    # -- the folder ----------------------------------------------------------------------

    def _tidy(self, kept: Path) -> None:
        """Remove the least recently used entries, and files that killed writers left."""
        entries: list[tuple[float, int, Path]] = []
        now = time.time()
        with suppress(OSError):
            for path in self.folder.iterdir():
                with suppress(OSError):
                    status = path.stat()
                    if path.suffix == SUFFIX:
                        entries.append((status.st_mtime, status.st_size, path))
                    elif now - status.st_mtime > LEFTOVER_S:
                        remove(path)
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._max_bytes:
                break
            if path != kept:
                with suppress(OSError):
                    remove(path)
                    total -= size

    @contextmanager
    def _one_builder(self, key: EngineKey) -> Iterator[None]:
        """Hold the key's lock, which the system releases if the process dies."""
        path = self.folder / f"{key.digest}.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError:
            yield  # nothing can be kept there either
            return
        with file:
            deadline = time.monotonic() + PATIENCE_S
            while not lock(file.fileno()):
                if time.monotonic() > deadline:
                    log.warning("somebody else builds for %.0f s: building too", PATIENCE_S)
                    break
                time.sleep(POLL_S)
            yield


def _payload(entry: bytes, key: EngineKey) -> bytes:
    """The engine in an entry.

    Raises
    ------
    ValueError
        If it is not whole, or not of `key`.
    """
    start = len(MAGIC) + LENGTH.size
    if not entry.startswith(MAGIC) or len(entry) < start:
        raise ValueError("no entry")
    (length,) = LENGTH.unpack_from(entry, len(MAGIC))
    if length > MAX_HEADER_BYTES or len(entry) < start + length:
        raise ValueError("cut off")
    try:
        header = msgspec.json.decode(entry[start : start + length], type=_Header)
    except msgspec.DecodeError as error:
        raise ValueError("damaged") from error
    if header.key != key:
        raise ValueError("of another key")
    payload = entry[start + length :]
    if len(payload) != header.payload_bytes:
        raise ValueError("cut off")
    if hashlib.sha256(payload).hexdigest() != header.payload_sha256:
        raise ValueError("altered")
    return payload
