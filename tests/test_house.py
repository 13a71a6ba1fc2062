"""What the repository states about itself is true: package tables, examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOPS = (
    ROOT / "refocusd",
    ROOT / "training/refocusd_training",
    ROOT / "calibration/refocusd_calibration",
)
pytestmark = pytest.mark.skipif(
    not TOPS[0].exists(), reason="of an installed refocusd there are no sources here"
)


def with_examples() -> list[str]:
    """Dotted names of the modules whose docstrings contain examples."""
    return [
        ".".join(path.relative_to(top.parent).with_suffix("").parts)
        for top in TOPS
        for path in sorted(top.rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


def test_every_package_lists_its_modules_as_they_describe_themselves() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "package_tables.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}run python .ci/package_tables.py"


@pytest.mark.parametrize("name", with_examples())
def test_examples_in_docstrings_give_what_they_show(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    assert len(with_examples()) > 3


@pytest.mark.fast
def test_what_may_be_missing_is_imported_only_by_tests_that_are_left_out_without_it() -> None:
    tests = ROOT / "tests"
    needed = runpy.run_path(str(tests / "conftest.py"))["NEEDED"]
    left_out = tuple(path for paths in needed.values() for path in paths)
    imports = re.compile(rf"^(?:from|import) (?:{'|'.join(needed)})\b", re.MULTILINE)
    found = [
        path.relative_to(tests).as_posix()
        for path in tests.rglob("test_*.py")
        if imports.search(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 10
    assert [path for path in found if not path.startswith(left_out)] == []
