"""Install refocusd on an acquisition PC, update it, or remove it again.

`install.ps1`, beside this file, finds a Python and runs this script with it; ``py -3.12 install.py`` does the same.
refocusd gets its own Python environment, and on Windows shortcuts on the desktop and in the start menu: one for
the daemon (`refocusd run`), one for its page.  No administrator rights are needed.  Run it again to update refocusd.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WINDOWS = sys.platform == "win32"
#: The user's folders, by the numbers that Windows gives them (shlobj.h).
DESKTOP, PROGRAMS, STARTUP = 0x10, 0x02, 0x07
#: How a program's window is shown (winuser.h).
NORMAL, MINIMISED = 1, 7
DAEMON, PAGE = "refocusd.lnk", "refocusd live view.lnk"
STOP_WAIT_S = 60
#: Waits, in s, while something holds a file that is to be deleted.
HELD_S = (0.5, 1, 2, 4)


@dataclass(frozen=True)
class Installation:
    """Where refocusd is installed."""

    folder: Path

    @property
    def environment(self) -> Path:
        """The Python environment."""
        return self.folder / "venv"

    def program(self, name: str) -> Path:
        """A program of the environment."""
        return self.environment / (f"Scripts/{name}.exe" if WINDOWS else f"bin/{name}")


def main() -> None:
    """Do what the command line says."""
    options = parse([fold(word) for word in sys.argv[1:]])
    if not (3, 11) <= sys.version_info < (3, 14) or sys.maxsize < 2**32:
        sys.exit(f"refocusd needs a 64-bit Python 3.11, 3.12 or 3.13; this is {sys.version}")
    there = Installation(options.folder.absolute())
    if Path(sys.prefix) == there.environment:
        sys.exit(f"{sys.executable} is part of the installation to be changed: use another Python")
    if options.uninstall:
        uninstall(there, options)
    else:
        install(there, options)


def fold(word: str) -> str:
    """Lower case and one dash: options may be written ``-AutoStart`` or ``--autostart``."""
    return "-" + word.lower().lstrip("-") if re.match(r"--?[A-Za-z]+$", word) else word


def parse(words: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    programs = os.environ.get("LOCALAPPDATA")
    home = Path(programs) / "Programs" if programs else Path.home()
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("-folder", type=Path, default=home / "refocusd", help="where refocusd goes (%(default)s)")
    add("-source", type=Path, help="a checkout of refocusd, or its wheel")
    add(
        "-wheelhouse", type=Path, help="made by wheelhouse.py: nothing is fetched from the internet"
    )
    add("-extras", nargs="+", default=[], help="for example: demo,calibrate")
    add("-autostart", action="store_true", help="start the daemon when this user logs on")
    add("-noshortcuts", action="store_true", help="leave desktop, start menu as they are")
    add("-uninstall", action="store_true", help="remove refocusd; data, ledgers, settings stay")
    return parser.parse_args(words)


def install(there: Installation, options: argparse.Namespace) -> None:
    """Make the environment and the shortcuts, or renew them."""
    wanted = requirement(options)  # first, so that its errors come before anything is changed
    there.folder.mkdir(parents=True, exist_ok=True)
    stop_daemon(there)
    make_environment(there)
    run(*installer(there), *wanted)
    refocusd = there.program("refocusd")
    shell = Path(os.environ.get("COMSPEC", r"C:\Windows\System32\cmd.exe"))
    if WINDOWS and not options.noshortcuts:
        for place in (user_folder(DESKTOP), user_folder(PROGRAMS)):
            shortcut(place / DAEMON, shell, run_in_shell(refocusd), NORMAL)
            # Not the page's address: the page asks for this user's token, which the command adds.
            shortcut(place / PAGE, refocusd, "view --open", MINIMISED)
    if WINDOWS and options.autostart:
        # Minimised: closing its window stops the daemon.
        shortcut(user_folder(STARTUP) / DAEMON, shell, run_in_shell(refocusd), MINIMISED)
    if subprocess.run([refocusd, "doctor"], check=False).returncode:
        say("refocusd is installed; the lines above marked !! say what it lacks.")
    say(f"Start the daemon with the shortcut 'refocusd', or with: {refocusd} run")


def uninstall(there: Installation, options: argparse.Namespace) -> None:
    """Stop the daemon, and remove the environment and the shortcuts."""
    stop_daemon(there)
    if WINDOWS and not options.noshortcuts:
        for place in map(user_folder, (DESKTOP, PROGRAMS, STARTUP)):
            for name in (DAEMON, PAGE):
                (place / name).unlink(missing_ok=True)
    if there.environment.exists():
        delete(there.environment)
    # Only if it contains nothing else.
    if there.folder.exists() and not any(there.folder.iterdir()):
        there.folder.rmdir()
    say("refocusd was removed. Data, ledgers and settings stay.")


def stop_daemon(there: Installation) -> None:
    """Stop the daemon and wait until it no longer answers: before, its files cannot be replaced."""
    refocusd = there.program("refocusd")
    until = time.monotonic() + STOP_WAIT_S
    while refocusd.exists() and succeeds(refocusd, "run", "--stop"):
        if time.monotonic() > until:
            sys.exit(f"the daemon has not ended within {STOP_WAIT_S} s: end it and try again")
        time.sleep(1)


def make_environment(there: Installation) -> None:
    """Create the environment, unless there is one whose Python works."""
    if succeeds(there.program("python"), "-c", ""):
        return
    if there.environment.exists():
        delete(there.environment)
    if importlib.util.find_spec("ensurepip"):
        run(sys.executable, "-m", "venv", there.environment)
    else:  # Python's embeddable package has neither venv nor pip
        run(uv(), "venv", "--python", sys.executable, there.environment)


def delete(folder: Path) -> None:
    """Delete a folder; a scanner, or a program that is about to end, may hold a file in it."""
    for wait_s in HELD_S:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(wait_s)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        sys.exit(f"{folder} cannot be deleted ({error}): end what uses it, and try again")


def installer(there: Installation) -> list[object]:
    """The command that installs packages into the environment."""
    python = there.program("python")
    if succeeds(python, "-m", "pip", "--version"):
        return [python, "-m", "pip", "install", "--upgrade"]
    return [uv(), "pip", "install", "--upgrade", "--python", python]


def requirement(options: argparse.Namespace) -> list[object]:
    """What is installed: from a wheelhouse, a wheel or a checkout."""
    extras = ",".join(filter(None, re.split("[, ]+", " ".join(options.extras))))
    extra = f"[{extras}]" if extras else ""
    wheelhouse = options.wheelhouse
    if wheelhouse is None and options.source is None and any(HERE.glob("refocusd-*.whl")):
        wheelhouse = HERE
    if wheelhouse is not None:
        if not any(wheelhouse.glob("refocusd-*.whl")):
            sys.exit(f"{wheelhouse} has no refocusd: wheelhouse.py makes such a folder")
        return ["--no-index", "--find-links", wheelhouse.absolute(), f"refocusd{extra}"]
    source = (options.source or HERE.parents[1]).absolute()
    if not (source.is_file() or (source / "pyproject.toml").is_file()):
        sys.exit(f"{source} is neither a wheel nor a checkout of refocusd: give it as -Source")
    return [f"{source}{extra}"]


def uv() -> str:
    """The program uv."""
    found = shutil.which("uv")
    if found is None:
        sys.exit(f"{sys.executable} lacks pip or venv. Install Python from python.org, or uv.")
    return found


def succeeds(*command: object) -> bool:
    """Whether a program exists and ends with status 0."""
    try:
        return (
            subprocess.run(list(map(str, command)), capture_output=True, check=False).returncode
            == 0
        )
    except OSError:
        return False


def run(*command: object) -> None:
    """Run a program; exit if it fails."""
    words = list(map(str, command))
    if status := subprocess.run(words, check=False).returncode:
        sys.exit(f"{' '.join(words)} failed with status {status}; its output is above.")


def say(text: str) -> None:
    """Print at once: other programs print in between."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def user_folder(number: int) -> Path:
    """One of this user's folders, wherever the PC's administrator or OneDrive put it."""
    path = ctypes.create_unicode_buffer(260)
    ctypes.OleDLL("shell32").SHGetFolderPathW(None, number, None, 0, path)
    return Path(path.value)


def run_in_shell(refocusd: Path) -> str:
    """Arguments for cmd: start the daemon, and keep the window open if it ends with an error."""
    return f'/d /c ""{refocusd}" run & if errorlevel 1 pause"'


def shortcut(path: Path, target: Path, arguments: str, show: int) -> None:
    """Write a shortcut, or say why that failed: refocusd works without it."""
    try:
        write_shortcut(path, target, arguments, show)
    except OSError as error:  # the desktop may be protected against ransomware
        say(f"{path} was not made ({error.strerror or error}). It would run: {target} {arguments}")


def write_shortcut(path: Path, target: Path, arguments: str, show: int) -> None:
    """Write a shortcut, by the COM objects of Windows (shobjidl_core.h, objidl.h)."""
    ole = ctypes.OleDLL("ole32")
    ole.CoInitialize(None)
    link, file = ctypes.c_void_p(), ctypes.c_void_p()
    shell_link = guid("00021401-0000-0000-C000-000000000046")
    interface = guid("000214F9-0000-0000-C000-000000000046")
    ole.CoCreateInstance(shell_link, None, 1, interface, ctypes.byref(link))
    call(link, 20, str(target))  # SetPath
    call(link, 11, arguments)  # SetArguments
    call(link, 9, str(Path.home()))  # SetWorkingDirectory
    call(link, 15, show)  # SetShowCmd
    call(link, 0, guid("0000010B-0000-0000-C000-000000000046"), ctypes.byref(file))  # IPersistFile
    call(file, 6, str(path), 1)  # Save


def guid(text: str) -> Any:
    """The GUID of an interface or object, as COM expects it."""
    return ctypes.create_string_buffer(uuid.UUID(text).bytes_le, 16)


def call(this: ctypes.c_void_p, number: int, *arguments: object) -> None:
    """Call a method of a COM object by its place in the object's table; OSError if it fails."""
    types = [
        {str: ctypes.c_wchar_p, int: ctypes.c_int}.get(type(argument), ctypes.c_void_p)
        for argument in arguments
    ]
    table = ctypes.cast(this, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))).contents
    method = ctypes.WINFUNCTYPE(ctypes.HRESULT, ctypes.c_void_p, *types)(table[number])
    method(this, *arguments)


if __name__ == "__main__":
    main()
