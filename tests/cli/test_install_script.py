"""The installer for Windows.

Without PowerShell, `install.ps1` is only parsed; `install.py`, which does the work, is run.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tree_sitter import Node

SERVICE = Path(__file__).parents[2] / "docs" / "service"
SCRIPT, INSTALLER = SERVICE / "install.ps1", SERVICE / "install.py"
#: Commands of PowerShell 5.1 that `install.ps1` uses.
CMDLETS = {"ForEach-Object", "Get-Command", "Join-Path", "Out-Null", "Set-StrictMode"}
#: A stand-in for refocusd's wheel: it records its calls, and `run --stop` succeeds as often as the
#: file `daemons` beside the record says.
PRODUCT = """
import os, sys
from pathlib import Path
calls = Path(os.environ["CALLS"])
def main():
    with calls.open("a") as file:
        file.write(" ".join(sys.argv[1:]) + chr(10))
    if sys.argv[1:] == ["run", "--stop"]:
        daemons = calls.with_name("daemons")
        left = int(daemons.read_text()) if daemons.exists() else 0
        daemons.write_text(str(left - 1))
        return left <= 0
    return 1
"""


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def told(node: Node | None) -> str:
    return node.text.decode() if node is not None and node.text is not None else ""


def parse(text: str) -> Node:
    """The syntax tree of a script for PowerShell."""
    powershell = pytest.importorskip("tree_sitter_powershell", reason="not in this environment")
    from tree_sitter import Language, Parser

    return Parser(Language(powershell.language())).parse(text.encode()).root_node


@pytest.fixture(scope="module")
def text() -> str:
    return SCRIPT.read_text(encoding="ascii")  # PowerShell 5.1 reads others in the code page


@pytest.mark.fast
def test_it_is_powershell(text: str) -> None:
    parsed = parse(text)
    wrong = [f"line {n.start_point[0] + 1}: {told(n)}" for n in nodes(parsed) if n.is_error]
    assert not wrong
    assert not parsed.has_error


@pytest.mark.fast
def test_the_parser_finds_what_is_wrong(text: str) -> None:
    assert parse(text.replace("if (", "if ((", 1)).has_error


@pytest.mark.fast
@pytest.mark.parametrize(
    "page",
    sorted([*SERVICE.glob("*.md"), *SERVICE.parent.glob("guide/*.md")]),
    ids=lambda page: page.name,
)
def test_the_recipes_are_powershell(page: Path) -> None:
    recipes = re.findall(r"^```powershell\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    for recipe in recipes:
        assert not parse(recipe).has_error, recipe


@pytest.mark.fast
def test_every_command_it_calls_exists(text: str) -> None:
    parsed = parse(text)
    ours = {told(n) for n in nodes(parsed) if n.type == "function_name"}
    called = {told(n).strip("'") for n in nodes(parsed) if n.type == "command_name"}
    called |= {n.strip("'") for n in re.findall(r"& ('\w+')", text)}
    called = {name for name in called if not name.startswith(("$", "("))}
    assert called - ours == CMDLETS | {"py", "python", "uv"}
    assert ours <= called


@pytest.mark.fast
def test_every_variable_is_set_before_it_is_used(text: str) -> None:
    # `@name` expands the list `$name`.
    used = {told(n).lower().replace("@", "$") for n in nodes(parse(text)) if n.type == "variable"}
    builtin = {"$_", "$args", "$false", "$lastexitcode", "$psscriptroot", "$erroractionpreference"}
    for name in used - builtin:
        plain = re.escape(name)
        made = rf"(?im)({plain} *=|\[[\w\[\]]+\] *{plain}\b|foreach \({plain} in)"
        assert re.search(made, text), name


@pytest.mark.fast
def test_its_options_are_those_of_the_installer(text: str) -> None:
    (named,) = re.findall(r"same options: ([^;]*);", text.replace("\n", " "))
    assert set(re.findall(r"-(\w+)", named.lower())) == set(options()) - {"h"}


def options() -> list[str]:
    """The installer's options, by their names."""
    done = installer("-h")
    assert done.returncode == 0, done.stderr
    return re.findall(r"^  -(\w+)", done.stdout, re.MULTILINE)


def installer(
    *words: object,
    calls: Path | None = None,
    python: str | Path = sys.executable,
    script: Path = INSTALLER,
) -> subprocess.CompletedProcess[str]:
    """Run the installer as `install.ps1` does."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"CALLS": str(calls), "COLUMNS": "200", "UV_OFFLINE": "1"}
    return subprocess.run(
        [str(python), str(script), *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """A wheelhouse in a folder with a space in its name."""
    folder = tmp_path / "my wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "refocusd-9.9-py3-none-any.whl", "w") as wheel:
        wheel.writestr("refocusd.py", PRODUCT)
        about = "refocusd-9.9.dist-info"
        wheel.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: refocusd\nVersion: 9.9\n"
            "Provides-Extra: demo\nProvides-Extra: zarr\n",
        )
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/entry_points.txt", "[console_scripts]\nrefocusd = refocusd:main\n")
        wheel.writestr(f"{about}/RECORD", "")
    return folder


@pytest.mark.timeout(400)
def test_it_installs_updates_and_removes(wheelhouse: Path, tmp_path: Path) -> None:
    if not (importlib.util.find_spec("ensurepip") or shutil.which("uv")):
        pytest.skip("neither ensurepip nor uv is here")
    calls, folder = tmp_path / "calls", tmp_path / "my programs" / "refocusd"
    given = ["-Folder", folder, "-NoShortcuts"]
    extras = ["-Extras", "demo,zarr"]

    done = installer(*given, *extras, "-Wheelhouse", wheelhouse, calls=calls)
    assert done.returncode == 0, done.stdout + done.stderr
    assert calls.read_text().split("\n") == ["doctor", ""]
    # The doctor of that wheel reports a problem.
    assert "is installed; the lines above marked !!" in done.stdout

    # A daemon that takes its time to end.
    calls.with_name("daemons").write_text("2")
    kept = folder / "venv" / "kept"
    kept.touch()
    beside = Path(shutil.copy(INSTALLER, wheelhouse))
    done = installer(*given, *extras, calls=calls, script=beside)
    assert done.returncode == 0, done.stdout + done.stderr
    assert calls.read_text().splitlines()[1:] == 3 * ["run --stop"] + ["doctor"]
    assert kept.exists()

    own = folder / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    assert "use another Python" in installer(*given, "-Uninstall", python=own).stderr
    assert own.exists()

    (folder / "of the user").touch()
    done = installer(*given, "-Uninstall", calls=calls)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in folder.iterdir()] == ["of the user"]
    (folder / "of the user").unlink()
    done = installer(*given, "-Uninstall", calls=calls)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not folder.exists()


@pytest.mark.fast
@pytest.mark.parametrize("system", ["win_amd64", "manylinux_2_28_x86_64"])
def test_a_wheelhouse_has_the_installer_and_only_wheels_for_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    """The download is simulated here; `.ci/wine-setup` really does it."""

    def run(command: list[str], check: bool) -> None:
        if "download" in command:
            (tmp_path / f"numpy-2.4.6-cp312-cp312-{system}.whl").touch()

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["wheelhouse.py", "--output", str(tmp_path)])
    if system == "win_amd64":
        runpy.run_path(str(SERVICE / "wheelhouse.py"), run_name="__main__")
    else:
        with pytest.raises(SystemExit, match="no wheels for Windows: numpy"):
            runpy.run_path(str(SERVICE / "wheelhouse.py"), run_name="__main__")
    for script in (SCRIPT, INSTALLER):
        assert (tmp_path / script.name).read_bytes() == script.read_bytes()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["-Wheelhouse", "{empty}"], "{empty} has no refocusd"),
        (["-Source", "{empty}"], "{empty} is neither a wheel nor a checkout"),
        (["-Remove"], "unrecognized arguments: -remove"),
    ],
)
def test_what_is_wrong_is_reported_before_anything_is_made(
    tmp_path: Path, words: list[str], why: str
) -> None:
    empty, folder = tmp_path / "empty", tmp_path / "refocusd"
    empty.mkdir()
    done = installer("-Folder", folder, *(word.format(empty=empty) for word in words))
    assert done.returncode != 0
    assert why.format(empty=empty) in done.stderr
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "win32", reason="shortcuts are of Windows")
def test_a_shortcut_starts_what_it_should(tmp_path: Path) -> None:
    made = tmp_path / "a shortcut.lnk"
    program = tmp_path / "refocusd.exe"
    program.touch()
    write = "import install, sys; from pathlib import Path as P; install.write_shortcut("
    write += "P(sys.argv[1]), P(sys.argv[2]), 'view --open', install.MINIMISED)"
    subprocess.run([sys.executable, "-c", write, made, program], cwd=SERVICE, check=True)
    content = made.read_bytes()
    assert "view --open".encode("utf-16-le") in content
    assert "refocusd.exe".encode("utf-16-le") in content
    # ShowCommand of the header (MS-SHLLINK, 2.1).
    assert int.from_bytes(content[60:64], "little") == 7


@pytest.mark.fast
def test_a_desktop_that_is_protected_leaves_the_installation_whole(tmp_path: Path) -> None:
    """Windows can prevent unknown programs from writing there."""
    refuse = (
        "import install, pathlib\ndef refuse(*_): raise PermissionError(13, 'Access is denied')\n"
    )
    refuse += "install.write_shortcut = refuse\n"
    refuse += (
        "install.shortcut(pathlib.Path('refocusd.lnk'), pathlib.Path('refocusd.exe'), 'run', 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", refuse], cwd=SERVICE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (
        "refocusd.lnk was not made (Access is denied). It would run: refocusd.exe run"
        in done.stdout
    )


@pytest.mark.fast
def test_an_environment_that_a_scanner_holds_is_deleted_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "venv").mkdir()
    delete = runpy.run_path(str(INSTALLER))["delete"]
    rmtree, waits, held_for = shutil.rmtree, list[float](), 2
    monkeypatch.setattr(time, "sleep", waits.append)

    def refused(folder: Path, *, ignore_errors: bool = False) -> None:
        if held_for <= len(waits):
            rmtree(folder)
        elif not ignore_errors:
            raise PermissionError(13, "it is held")

    monkeypatch.setattr(shutil, "rmtree", refused)
    delete(tmp_path / "venv")
    assert not (tmp_path / "venv").exists()
    assert len(waits) == 2

    (tmp_path / "venv").mkdir()
    held_for = 100
    with pytest.raises(SystemExit, match="end what uses it"):
        delete(tmp_path / "venv")


@pytest.mark.skipif(sys.platform != "win32", reason="cmd is of Windows")
@pytest.mark.parametrize(("status", "waits"), [(0, False), (3, True)])
def test_an_error_of_the_daemon_stays_in_its_window(
    tmp_path: Path, status: int, waits: bool
) -> None:
    """The window waits for a key; the end of standard input counts as one.  Python runs `run`."""
    (tmp_path / "run").write_text(f"print('begun'); raise SystemExit({status})", encoding="ascii")
    write = "import install, sys; print(install.run_in_shell(sys.executable))"
    words = subprocess.run(
        [sys.executable, "-c", write], cwd=SERVICE, capture_output=True, text=True, check=True
    ).stdout.strip()
    done = subprocess.run(
        f"cmd {words}",
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "begun" in done.stdout
    assert ("any key" in done.stdout) is waits
    assert done.returncode == status
