"""Proof that two processes of one computer belong to the same user.

Every user of the computer can reach the loopback interface.  The daemon's local endpoint
therefore uses CURVE keys as well: one pair per user, in a file that only that user can
read.  Knowledge of the secret key proves the user, on both ends: another user's daemon, or
another program at the daemon's port, is detected before it gets a frame.

The location of the file does not depend on the environment: a script in a terminal of an IDE, whose
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
#: Folder of the user's keys, if the usual one cannot be used.
FOLDER_VARIABLE = "REFOCUSD_USER_KEYS"


class _UserStore(KeyStore):
    """A store whose errors say what to do if its folder cannot be used."""

    def server(self) -> ServerKeys:
        try:
            return super().server()
        except (ConfigError, OutputError) as error:
            raise type(error)(
                f"{error}; or name a folder on a disk of this computer in {FOLDER_VARIABLE}"
            ) from error


def user_store() -> KeyStore:
    """The user's own key pair, and the keys that were shared with other users."""
    return _UserStore(os.environ.get(FOLDER_VARIABLE) or _home() / "user-keys")


def own_keys() -> ClientKeys:
    """The keys with which a process of this user proves its identity to a daemon of this computer.

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
    """Let this process and its children use the user's own pair, because it is a daemon itself."""
    os.environ.pop(KEY_VARIABLE, None)


def derived_secret(purpose: str) -> str:
    """A secret of this user for another `purpose`: always the same, and the key cannot be derived from it.

    Raises
    ------
    ConfigError, OutputError
        As `own_keys`.
    """
    secret = user_store().server().secret
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()[:32]


def _home() -> Path:
    """The user's folder for state, according to the system and not the environment."""
    if sys.platform != "win32":
        import pwd

        try:
            home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        except KeyError:  # a user without an entry, as in some containers
            home = Path()
        if home.is_absolute() and home.is_dir():
            return home / ".local" / "state" / "refocusd"
    return Path(platformdirs.user_state_dir("refocusd", appauthor=False))
