"""Cache of compiled engines, by what they were compiled from.

An entry is named after the hash of its `EngineKey`: model, runtime and version, device,
precision, range of shapes.  Another key finds nothing, so an engine is never used for anything
that it was not built for.  An entry holds its key in full and the hash of its
payload; one that is truncated, altered or has another key is deleted and built again.

Entries are written to a temporary file and then moved into place, so that there are no half entries.
If two processes want the same engine, one builds it and the other waits; on a file system
without locks both build it, and one of two equal entries remains.
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
#: Longest wait for a lock, s.
PATIENCE_S = 600.0
POLL_S = 0.1
#: An unfinished file older than this, s, was left by a killed writer.
LEFTOVER_S = 3600.0


def cache_folder() -> Path:
    """Folder for what refocusd can make again: ``REFOCUSD_CACHE``, or else the user's cache."""
    named = os.environ.get("REFOCUSD_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("refocusd", False))


class EngineKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides whether a compiled engine may be used.

    Parameters
    ----------
    kind : str
        What the entry holds, e.g. ``onnx with engine`` or ``tiles``.
    source_sha256 : str
        SHA-256 of the ONNX file or the weights that it is built from.
    runtime : str
        Runtime and its full version, e.g. ``tensorrt_rtx 1.7.1.116``.
    target : str
        Device and driver that it runs on.
    precision : str
    shapes : str
        Smallest, best and largest shape of the network's input.
    """

    kind: str
    source_sha256: str
    runtime: str
    target: str
    precision: str
    shapes: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the key, the name of its entry."""
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
        If all entries together are larger, those used least recently are deleted.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self.folder = folder or cache_folder() / "engines"
        self._max_bytes = max_bytes

    def path(self, key: EngineKey) -> Path:
        """Path of a key's entry, whether it exists or not."""
        return self.folder / f"{key.digest}{SUFFIX}"

    def get(self, key: EngineKey) -> bytes | None:
        """The engine stored for a key; None if there is no intact one."""
        path = self.path(key)
        try:
            if path.stat().st_size > MAX_ENTRY_BYTES:
                raise ValueError("too large")
            payload = _payload(path.read_bytes(), key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("the cache entry %s cannot be used (%s) and is made again", path, error)
            with suppress(OSError):
                remove(path)
            return None
        with suppress(OSError):
            os.utime(path)  # the time of its last use
        return payload

    def put(self, key: EngineKey, payload: bytes) -> None:
        """Store an engine; if that fails, it is built again the next time."""
        header = msgspec.json.encode(
            _Header(key, len(payload), hashlib.sha256(payload).hexdigest())
        )
        path = self.path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Windows refuses this while another process reads the old entry, which is equally good.
            write_whole(path, MAGIC, LENGTH.pack(len(header)), header, payload)
        except OSError as error:
            log.warning("the cache folder %s cannot be written: %s", self.folder, error.strerror)
        self._tidy(path)

    def discard(self, key: EngineKey) -> None:
        """Remove the entry of a key."""
        with suppress(OSError):
            remove(self.path(key))

    def get_or_build(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """The engine stored for a key, or the one that `build` returns, which is then stored.

        If `build` raises an error, it is passed on, and nothing is stored.
        """
        found = self.get(key)
        if found is not None:
            return found
        with self._one_builder(key):
            found = self.get(key)  # another process may have built it meanwhile
            if found is None:
                found = build()
                self.put(key, found)
        return found

    # -- the folder ----------------------------------------------------------------------

    def _tidy(self, kept: Path) -> None:
        """Remove the least recently used entries, and files left by killed writers."""
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
        """Hold the lock of a key; the system releases it if the process dies."""
        path = self.folder / f"{key.digest}.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError:
            yield  # nothing can be stored there either
            return
        with file:
            deadline = time.monotonic() + PATIENCE_S
            while not lock(file.fileno()):
                if time.monotonic() > deadline:
                    log.warning(
                        "another process has been building this engine for %.0f s: building it here too",
                        PATIENCE_S,
                    )
                    break
                time.sleep(POLL_S)
            yield


def _payload(entry: bytes, key: EngineKey) -> bytes:
    """The engine in an entry.

    Raises
    ------
    ValueError
        If it is not complete, or has another key.
    """
    start = len(MAGIC) + LENGTH.size
    if not entry.startswith(MAGIC) or len(entry) < start:
        raise ValueError("not a cache entry")
    (length,) = LENGTH.unpack_from(entry, len(MAGIC))
    if length > MAX_HEADER_BYTES or len(entry) < start + length:
        raise ValueError("truncated")
    try:
        header = msgspec.json.decode(entry[start : start + length], type=_Header)
    except msgspec.DecodeError as error:
        raise ValueError("damaged") from error
    if header.key != key:
        raise ValueError("for another key")
    payload = entry[start + length :]
    if len(payload) != header.payload_bytes:
        raise ValueError("truncated")
    if hashlib.sha256(payload).hexdigest() != header.payload_sha256:
        raise ValueError("altered")
    return payload
