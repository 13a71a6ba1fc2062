"""Proof that two processes of one computer belong to the same user.

The loopback interface is reached by every user of the computer.  So the daemon's local
endpoint takes CURVE keys as well: one pair for each user, in a file that only that user can
read.  Who knows its secret half is the user, on either end: a daemon of somebody else, or
another program at the daemon's port, is found out before it gets a frame.

The file's place does not depend on the environment: a script in a terminal of an IDE, whose
``HOME`` or ``XDG_*`` variables are different, must find the daemon that the same user started.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
from pathlib import Path

import platformdirs

from refocusd.errors import ConfigError, OutputError
from refocusd.transport.secure.keys import ClientKeys, KeyStore, ServerKeys, load_client_keys

#: A key file that another user made with ``refocusd keys share``.
KEY_VARIABLE = "REFOCUSD_KEY"
#: Folder of the user's keys, where the usual one cannot be used.
FOLDER_VARIABLE = "REFOCUSD_USER_KEYS"


class _UserStore(KeyStore):
    """A store whose errors say what to do where its folder cannot be used."""

    def server(self) -> ServerKeys:
        try:
            return super().server()
        except (ConfigError, OutputError) as error:
            raise type(error)(
                f"{error}; or name a folder on a disk of this computer in {FOLDER_VARIABLE}"
            ) from error


def user_store() -> KeyStore:
    """The user's own pair of keys, and those that were shared with other users."""
    return _UserStore(os.environ.get(FOLDER_VARIABLE) or _home() / "user-keys")


def own_keys() -> ClientKeys:
    """What a process of this user proves itself with to a daemon of this computer.

    Raises
    ------
    ConfigError
        If the file cannot be read, others can read it, or ZeroMQ has no CURVE.
    OutputError
        If the user's pair cannot be written on first use.
    """
    if file := os.environ.get(KEY_VARIABLE):
        return load_client_keys(file)
    keys = user_store().server()
    return ClientKeys("", keys.public, keys.secret, keys.public)


def forget_shared_key() -> None:
    """Have this process, and those it starts, use the user's own pair: it is a daemon itself."""
    os.environ.pop(KEY_VARIABLE, None)


def derived_secret(purpose: str) -> str:
    """A secret of this user for another `purpose`: the same each time, and no way back to the key.

    Raises
    ------
    ConfigError, OutputError
        As `own_keys`.
    """
    secret = user_store().server().secret
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()[:32]


def _home() -> Path:
    """The user's folder for state, as the system knows it, not the environment."""
    if sys.platform != "win32":
        import pwd

        try:
            home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        except KeyError:  # a user without an entry, as in some containers
            home = Path()
        if home.is_absolute() and home.is_dir():
            return home / ".local" / "state" / "refocusd"
    return Path(platformdirs.user_state_dir("refocusd", appauthor=False))
