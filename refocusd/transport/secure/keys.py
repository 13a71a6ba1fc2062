"""Key pairs (CURVE) and the allow-list, which determine who may connect from another host.

A key store is one folder::

    server.json         the daemon's own key pair; made on first use
    peers/peer-*.json   one file per issued key: name, public key, dates

`refocusd keys new NAME` issues a key: a file to be taken to the other host.  It
contains that host's secret, which is stored nowhere else.  A name is used only once,
so that it identifies a key in the log for ever.

Secrets are in files that only their user can read, and are never printed.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import platformdirs
import zmq

from refocusd.errors import ConfigError, OutputError
from refocusd.files import remove, replace
from refocusd.transport.secure.private_file import read_private, write_private

log = logging.getLogger(__name__)

#: Lower case only, because a name is part of a file name, and some file systems ignore case.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
#: A CURVE key in ZeroMQ's printable form (https://rfc.zeromq.org/spec/32/, Z85).
Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}$")]


class ServerKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The daemon's own key pair."""

    public: Key
    secret: Key

    def __repr__(self) -> str:
        return f"ServerKeys({self.public})"


class ClientKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys with which a peer on another host proves its identity.

    Parameters
    ----------
    name : str
        Name of the peer at the daemon.
    public, secret : str
        The peer's key pair.
    server : str
        The daemon's public key; connections to anything else fail.
    """

    name: str
    public: Key
    secret: Key
    server: Key

    def __repr__(self) -> str:
        return f"ClientKeys({self.name})"


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An issued key.

    Parameters
    ----------
    name, public : str
    created : str
        Date and time, ISO 8601.
    revoked : str
        Likewise; empty while the key is valid.
    """

    name: str
    public: Key
    created: str
    revoked: str = ""


def default_key_folder() -> Path:
    """Default folder of the key store."""
    return Path(platformdirs.user_config_dir("refocusd", appauthor=False)) / "keys"


def require_curve() -> None:
    """Make sure that the installed ZeroMQ can encrypt.

    Raises
    ------
    ConfigError
        If it cannot.
    """
    if not zmq.has("curve"):
        raise ConfigError(
            f"the installed ZeroMQ {zmq.zmq_version()} was built without CURVE encryption, so nothing "
            "but this host can be reached; install pyzmq from the package index (its wheels have it)"
        )


def load_client_keys(path: str | Path) -> ClientKeys:
    """Read the file that `refocusd keys new` made.

    Raises
    ------
    ConfigError
        If it cannot be read, other users can read it, or it is not such a file.
    """
    require_curve()
    path = Path(path)
    keys = read_private(path, ClientKeys, "make one with `refocusd keys new` on the daemon's host")
    _check_pair(path, keys, "copy it again, or make a new one with `refocusd keys new`")
    return keys


def _check_pair(path: Path, keys: ClientKeys | ServerKeys, otherwise: str) -> None:
    if zmq.curve_public(keys.secret.encode()).decode() != keys.public:
        raise ConfigError(
            f"the key file {path} is damaged: its public key does not belong to its secret key; "
            + otherwise
        )


class KeyStore:
    """The folder with the daemon's key pair and the allow-list.

    Parameters
    ----------
    folder : path, optional
        By default, the user's configuration folder.  It is created on the first write.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else default_key_folder()

    def server(self) -> ServerKeys:
        """The daemon's key pair, made on first use.

        Raises
        ------
        ConfigError
            If it cannot be read, or ZeroMQ has no CURVE.
        OutputError
            If it cannot be written.
        """
        require_curve()
        path = self.folder / "server.json"
        if not path.exists():
            public, secret = zmq.curve_keypair()
            # If another process has written one meanwhile, that pair is used.
            with contextlib.suppress(FileExistsError):
                write_private(path, ServerKeys(public.decode(), secret.decode()))
        otherwise = "move it away for a new one; every host then needs a new key"
        keys = read_private(path, ServerKeys, otherwise)
        _check_pair(path, keys, otherwise)
        return keys

    def peers(self) -> list[Peer]:
        """All issued keys by name, including revoked ones.

        Raises
        ------
        ConfigError
            If one of the files is not a valid key.
        """
        return [self.read_peer(path) for path in sorted(self.peer_files())]

    def new(self, name: str, output: str | Path) -> ClientKeys:
        """Issue a key.

        Parameters
        ----------
        name : str
            Lower-case letters, digits, ``-`` and ``_``; not used before.
        output : path
            The file for the other host; must not exist.

        Raises
        ------
        ConfigError
            For a bad name, or one that was used.
        OutputError
            If `output` exists, or cannot be written.
        """
        path = self._path(name)
        if path.exists():
            peer = self.read_peer(path)
            until = f" and revoked {peer.revoked}" if peer.revoked else ""
            raise ConfigError(
                f"the key {name!r} was made {peer.created}{until}; choose another name: each is used once"
            )
        server = self.server()
        public, secret = (key.decode() for key in zmq.curve_keypair())
        keys = ClientKeys(name=name, public=public, secret=secret, server=server.public)
        output = Path(output)
        try:
            write_private(output, keys)
        except FileExistsError as error:
            raise OutputError(
                f"{output} exists already; choose another --output: nothing is overwritten"
            ) from error
        try:
            write_private(path, Peer(name, public, _now()))
        except FileExistsError as error:
            remove(output)
            raise ConfigError(
                f"the key {name!r} was made by another process just now; choose another name"
            ) from error
        except OutputError:
            remove(output)
            raise
        return keys

    def revoke(self, name: str) -> Peer:
        """Revoke a key permanently; a running daemon notices within a second.

        Raises
        ------
        ConfigError
            If there is no such key, or it was revoked before.
        OutputError
            If the file cannot be written.
        """
        path = self._path(name)
        if not path.exists():
            known = ", ".join(peer.name for peer in self.peers()) or "none"
            raise ConfigError(f"no key {name!r} was made in {self.folder}; there are: {known}")
        peer = self.read_peer(path)
        if peer.revoked:
            raise ConfigError(f"the key {name!r} was revoked {peer.revoked} already")
        revoked = msgspec.structs.replace(peer, revoked=_now())
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            write_private(beside, revoked)
            replace(beside, path)
        except OSError as error:
            remove(beside, missing_ok=True)
            raise OutputError(f"{path} cannot be written: {error.strerror}") from error
        return revoked

    def peer_files(self) -> list[Path]:
        """The files of the allow-list; empty if the store was not used yet.

        Raises
        ------
        ConfigError
            If the folder cannot be read.
        """
        try:
            return list((self.folder / "peers").glob("peer-*.json"))
        except OSError as error:
            raise ConfigError(f"{self.folder} cannot be read: {error.strerror}") from error

    def read_peer(self, path: Path) -> Peer:
        """Read one file of the allow-list.

        Raises
        ------
        ConfigError
            If it is not a valid key.
        """
        otherwise = "delete it, and make a new key with `refocusd keys new`"
        peer = read_private(path, Peer, otherwise, secret=False)
        if path != self._path(peer.name):
            raise ConfigError(f"{path} holds the key {peer.name!r}; {otherwise}")
        return peer

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is not a name for a key: use up to 63 lower-case letters, digits, - and _, "
                "for example gpu-2"
            )
        # The prefix avoids names that Windows reserves (con, nul, ...).
        return self.folder / "peers" / f"peer-{name}.json"


class AllowList:
    """The valid keys of a store, which are read again whenever its files change.

    A file that cannot be read gives access to nobody.

    Parameters
    ----------
    store : KeyStore
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._seen: set[tuple[str, int, int, int]] | None = None
        #: Public key → name.  It is replaced as a whole and never changed, so that any thread may read it.
        self.names: dict[str, str] = {}
        #: Names of the valid keys.
        self.good: frozenset[str] = frozenset()
        self.refresh()

    def refresh(self) -> None:
        """Read the files again if one was added, changed or removed."""
        seen: set[tuple[str, int, int, int]] = set()
        files: list[Path] = []
        try:
            for path in self._store.peer_files():
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    seen.add((path.name, found.st_mtime_ns, found.st_size, found.st_ino))
                    files.append(path)
        except (ConfigError, OSError) as error:
            log.warning("no key is accepted: %s", error)
            files = []
        if self._seen is not None and seen == self._seen:
            return
        names: dict[str, str] = {}
        for path in files:
            try:
                peer = self._store.read_peer(path)
            except ConfigError as error:
                log.warning("a key is not accepted: %s", error)
            else:
                if not peer.revoked:
                    names[peer.public] = peer.name
        self._seen = seen
        self.names = names
        self.good = frozenset(names.values())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
