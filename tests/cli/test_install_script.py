"""The installer for Windows: there is no PowerShell here, so it is parsed, and held against the product."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from refocusd.cli.main import COMMANDS

tree_sitter_powershell = pytest.importorskip(
    "tree_sitter_powershell", reason="not in this environment"
)
from tree_sitter import Language, Node, Parser  # noqa: E402

pytestmark = pytest.mark.fast

SCRIPT = Path(__file__).parents[2] / "docs" / "service" / "install.ps1"
#: Commands of PowerShell 5.1 that it uses.
CMDLETS = {
    "Get-ChildItem",
    "Get-Command",
    "Join-Path",
    "New-Item",
    "New-Object",
    "Out-Null",
    "Remove-Item",
    "Resolve-Path",
    "Set-StrictMode",
    "Start-Sleep",
    "Test-Path",
    "Where-Object",
    "Write-Host",
    "Write-Warning",
}


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


@pytest.fixture(scope="module")
def text() -> str:
    return SCRIPT.read_text(encoding="ascii")  # PowerShell 5.1 reads others as the code page's


@pytest.fixture(scope="module")
def parsed(text: str) -> Node:
    return Parser(Language(tree_sitter_powershell.language())).parse(text.encode()).root_node


def told(node: Node | None) -> str:
    return node.text.decode() if node is not None and node.text is not None else ""


def test_it_is_powershell(parsed: Node) -> None:
    wrong = [f"line {n.start_point[0] + 1}: {told(n)}" for n in nodes(parsed) if n.is_error]
    assert not wrong
    assert not parsed.has_error


def test_the_parser_finds_what_is_wrong(text: str) -> None:
    parser = Parser(Language(tree_sitter_powershell.language()))
    assert parser.parse(text.replace("if (", "if ((", 1).encode()).root_node.has_error


def test_every_command_it_calls_exists(parsed: Node) -> None:
    ours = {told(n) for n in nodes(parsed) if n.type == "function_name"}
    called = {told(n) for n in nodes(parsed) if n.type == "command_name"}
    called = {name for name in called if not name.startswith(("$", "("))}
    assert called - ours == CMDLETS
    assert ours <= called


def test_every_variable_is_set_before_it_is_used(parsed: Node, text: str) -> None:
    # `@name` spreads the list `$name`.
    used = {told(n).lower().replace("@", "$") for n in nodes(parsed) if n.type == "variable"}
    builtin = {"$_", "$null", "$true", "$false", "$lastexitcode", "$psscriptroot"}
    builtin |= {"$erroractionpreference"}
    for name in used - builtin:
        if name.startswith("$env:"):
            continue
        plain = re.escape(name)
        made = rf"(?im)({plain} *=|\[[\w\[\]]+\] *{plain}\b|foreach \({plain} in)"
        assert re.search(made, text), name


def test_it_speaks_of_the_product_as_it_is(text: str) -> None:
    assert "$Refocusd 'view --open'" in text
    assert {"run", "doctor", "view"} <= set(COMMANDS)
    assert set(re.findall(r"@\('run', '([\w-]+)'\)", text)) == {"--stop"}
    for version in ("3.11", "3.12", "3.13"):
        assert f"'{version}'" in text
