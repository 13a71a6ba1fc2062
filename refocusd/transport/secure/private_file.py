"""Small files that only their user may read; they are written whole or not at all, and never overwritten."""

from __future__ import annotations

import logging
import os
import secrets
import struct
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from refocusd.errors import ConfigError, OutputError
from refocusd.files import open_shared, remove, replace

log = logging.getLogger(__name__)

#: Such files are a few hundred bytes; nothing larger is read.
MAX_FILE = 1 << 16

_Kind = TypeVar("_Kind", bound=msgspec.Struct)


def read_private(path: Path, kind: type[_Kind], otherwise: str, *, secret: bool = True) -> _Kind:
    """Read a file that `write_private` wrote.

    Parameters
    ----------
    path : Path
    kind : type of struct
    otherwise : str
        Advice in the error message if the content is not a `kind`.
    secret : bool
        Whether other users must not be able to read it.

    Raises
    ------
    ConfigError
        If it cannot be read, other users can read it, or its content is not a `kind`.
    """
    try:
        with open_shared(path) as stream:
            status = os.fstat(stream.fileno())
            text = stream.read(MAX_FILE)
    except OSError as error:
        raise ConfigError(f"the key file {path} cannot be read: {error.strerror}") from error
    if secret and status.st_mode & _others(status):
        raise ConfigError(
            f"the key file {path} holds a secret, and other users can read it: `chmod 600` it (on a "
            "disk of this host, where that is not possible)"
        )
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no key file of refocusd ({error}); {otherwise}") from error


def write_private(path: Path, content: msgspec.Struct) -> None:
    """Write a file that only its user can read, whole or not at all.

    Parameters
    ----------
    path : Path
        Its folder is created if needed.
    content : struct

    Raises
    ------
    FileExistsError
        If `path` exists already.
    OutputError
        If it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    text = msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        # Also a file in place of the folder: `FileExistsError` would mean that `path` exists.
        raise OutputError(f"the folder {path.parent} cannot be made: {error.strerror}") from error
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            _only_for_its_user(beside)
            _name(beside, path)
        finally:
            remove(beside, missing_ok=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def let_read(path: Path, user: str) -> bool:
    """Let one other user of this computer read a private file; False if this is impossible."""
    if sys.platform == "win32":
        return _set_access(path, "/grant", f"{user}:R")
    else:  # noqa: RET505 (for mypy, which checks one platform at a time)
        import pwd

        try:
            uid = pwd.getpwnam(user).pw_uid
            os.setxattr(path, "system.posix_acl_access", _access_list(uid))
        except (KeyError, OSError, AttributeError):
            # There is no such user, or the file system or the operating system has no access lists.
            return False
        return True


def _access_list(uid: int) -> bytes:
    """POSIX access list of a file that its owner may write and one more user read (acl(5))."""
    anyone = 0xFFFFFFFF
    owner, user, group, mask, other = 1, 2, 4, 16, 32
    write, read = 6, 4
    entries = (
        (owner, write, anyone),
        (user, read, uid),
        (group, 0, anyone),
        (mask, read, anyone),
        (other, 0, anyone),
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _others(status: os.stat_result) -> int:
    """Bits of a file's mode that let others than its user, and those it was shared with, read it.

    With an access list, the group's bits stand for the users that are named in it.  Windows has no
    such bits; there, the folder's access list decides.
    """
    if sys.platform == "win32":
        return 0
    else:  # noqa: RET505 (for mypy, which checks one platform at a time)
        return 0o077 if status.st_uid == os.getuid() else 0o007


def _name(beside: Path, path: Path) -> None:
    """Give a finished file its name unless that is taken, so that no incomplete file is ever read."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # file systems such as exFAT have no links
        if path.exists():
            raise FileExistsError(path) from None
        replace(beside, path)


def _only_for_its_user(path: Path) -> None:
    """On Windows, remove inherited access; on other systems, the file's mode suffices."""
    if sys.platform == "win32":
        # By identifier, because the name may also be that of a local account, or (Entra) of no account.
        if not _set_access(path, "/inheritance:r", "/grant:r", f"*{_account()}:F"):
            log.warning("%s may be readable for other users of this host", path)


def _set_access(path: Path, *change: str) -> bool:
    """Change the access list of a file on Windows; whether this succeeded."""
    # The full path, so that no program of this name in the current folder or the PATH is run.
    program = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "icacls.exe"
    done = subprocess.run(
        [str(program), str(path), *change],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        # So that no console window appears if this process has none (a script in a GUI program).
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    return done.returncode == 0


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    TOKEN_QUERY, TOKEN_USER = 8, 1

    def _account() -> str:
        """Security identifier of the account that this process runs as.

        Raises
        ------
        OSError
        """
        system = ctypes.WinDLL("advapi32", use_last_error=True)
        token, text, nbytes = wintypes.HANDLE(), wintypes.LPWSTR(), wintypes.DWORD()
        # It starts with a pointer to the identifier, which has up to 68 bytes.
        user = ctypes.create_string_buffer(128)
        this_process = wintypes.HANDLE(-1)
        if not (
            system.OpenProcessToken(this_process, TOKEN_QUERY, ctypes.byref(token))
            and system.GetTokenInformation(token, TOKEN_USER, user, len(user), ctypes.byref(nbytes))
            and system.ConvertSidToStringSidW(ctypes.c_void_p.from_buffer(user), ctypes.byref(text))
        ):
            raise ctypes.WinError(ctypes.get_last_error())
        ctypes.WinDLL("kernel32").CloseHandle(token)
        return str(text.value)
