"""The guide: every command in it parses, every example runs, every link leads somewhere."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from live import keys, quick_settings, running

import refocusd
from refocusd.cli.main import build_parser
from refocusd.config import Settings, load_settings
from refocusd.demo.microscope import DemoMicroscope
from refocusd.sources.pycromanager import Source

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted([*(DOCS / "guide").glob("*.md"), *(DOCS / "service").glob("*.md")])
#: Other programs that the guide uses.
OTHERS = {
    "Activate", "Add-MpPreference", "New-NetFirewallRule", "New-ScheduledTaskAction",
    "New-ScheduledTaskSettingsSet", "New-ScheduledTaskTrigger", "Register-ScheduledTask",
    "Start-ScheduledTask", "Unregister-ScheduledTask", "cp", "journalctl", "loginctl", "mkdir",
    "nssm", "powershell", "py", "python", "python3", "systemctl",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if match[1] in languages:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(page, line, match[1], match[2]))
    return found


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Yield the place of each command, and its words without leading variables."""
    for block in blocks("sh", "powershell"):
        windows = block.language == "powershell"
        for text in block.text.replace("\\\n", " ").splitlines():
            # In PowerShell a backslash is part of a path.
            words = shlex.split(text.replace("\\", "/") if windows else text, comments=True)
            if words[1:2] == ["="]:  # $name = command
                words = words[2:]
            while words and re.match(r"[A-Z_]+=", words[0]):  # NAME=value command
                words = words[1:]
            if words:
                yield f"{block} {text}", words


LINES = list(command_lines())
OURS = [(where, words[1:]) for where, words in LINES if Path(words[0]).stem == "refocusd"]
IN_TEXT = [
    (f"{page.name}: {text}", shlex.split(text)[1:])
    for page in PAGES
    for text in re.findall(r"`(refocusd [a-z-][^`]*)`", page.read_text(encoding="utf-8"))
]


#: Commands that the text names without the path or sub-command that they need.
NEED_MORE = {"calibrate", "ctl", "demo", "process"}


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    made = build_parser()
    (commands,) = (a for a in made._actions if isinstance(a, argparse._SubParsersAction))
    if "calibrate" not in commands.choices:  # the installed metadata are older than the command
        from refocusd_calibration.cli.commands import register

        register(commands)
    return made


def test_the_guide_has_its_commands() -> None:
    named = {words[0] for _, words in OURS if words}
    assert len(OURS) > 40
    assert {"run", "doctor", "keys", "worker", "verify", "resume", "process", "export"} <= named
    assert {"calibrate", "view", "config", "replay", "demo"} <= named


@pytest.mark.parametrize(("where", "words"), OURS + IN_TEXT, ids=[w for w, _ in OURS + IN_TEXT])
def test_a_command_of_the_guide_parses(
    parser: argparse.ArgumentParser,
    capsys: pytest.CaptureFixture[str],
    where: str,
    words: list[str],
) -> None:
    if words == ["--help"] or (len(words) == 1 and words[0] in NEED_MORE):
        return
    try:
        parsed = parser.parse_args(words)
    except SystemExit:
        pytest.fail(f"{where}: {capsys.readouterr().err}")
    flags = {n: v for n, v in vars(parsed).items() if n in Settings.__struct_fields__}
    if parsed.subcommand in ("run", "config", "doctor", "process", "replay"):
        load_settings(flags=flags, environment={})


def test_other_programs_are_those_that_are_known() -> None:
    strange = {where for where, words in LINES if Path(words[0]).stem not in OTHERS | {"refocusd"}}
    assert not strange


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_of_the_guide_are_settings(block: Block) -> None:
    msgspec.convert(tomllib.loads(block.text), Settings)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_an_example_of_the_guide_runs(
    block: Block,
    demo_microscope: DemoMicroscope,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "import ndv" in block.text:
        pytest.skip(
            "ndv has an environment of its own: tests/napari_plugin/test_in_ndv.py runs this"
        )
    monkeypatch.chdir(tmp_path)
    sources: list[Source] = []

    def remembered(*arguments: Any, **named: Any) -> Source:
        sources.append(Source(*arguments, **named))
        return sources[-1]

    monkeypatch.setattr(refocusd, "Source", remembered, raising=False)
    with running(quick_settings(tmp_path)) as daemon:
        monkeypatch.setenv("REFOCUSD_ENDPOINT", daemon.endpoint)
        # Without a display: the examples assume a computer with a screen.
        text = block.text.replace('name="cells")', 'name="cells", show_display=False)')
        exec(compile(text, str(block), "exec"), {})
        (source,) = sources
        counts = source.wait(30)
    assert counts is not None
    raw = keys(tmp_path / "data" / "cells_1")
    assert raw
    assert set(keys(tmp_path / "data" / "cells_1_refocused")) == set(raw)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not (DOCS.parent / there.relative_to(DOCS.parent).parts[0]).exists():
            continue  # .ci/windows and .ci/versions run the tests without the sources
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_first() -> None:
    first = (DOCS / "guide" / "README.md").read_text(encoding="utf-8")
    for page in (DOCS / "guide").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in first


def test_the_unit_runs_a_command_that_parses(parser: argparse.ArgumentParser) -> None:
    text = (DOCS / "service" / "refocusd.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    words = shlex.split(line)
    assert words[0].endswith("/bin/refocusd")
    assert parser.parse_args(words[1:]).subcommand == "run"
    assert os.path.normpath(words[-1]).endswith("refocusd.toml")


def test_the_recipes_for_windows_run_a_command_that_parses(parser: argparse.ArgumentParser) -> None:
    text = (DOCS / "service" / "windows.md").read_text(encoding="utf-8")
    task = re.findall(r"refocusd\.exe' -Argument '([^']+)'", text)
    service = re.findall(r"^nssm install refocusd \S+refocusd\.exe (.+)$", text, re.MULTILINE)
    assert [len(task), len(service)] == [1, 1]
    for line in task + service:
        parsed = parser.parse_args(line.split())
        assert parsed.subcommand == "run"
        assert f"config init --output {parsed.config}" in text
