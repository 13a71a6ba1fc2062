"""Writes the table of modules in each package's docstring, from the modules' own docstrings.

``python .ci/package_tables.py`` writes all tables; ``--check`` only names those that are out of date (a
test runs it).
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("refocusd", "training/refocusd_training", "calibration/refocusd_calibration")
WIDTH = 100
#: A simple table of reStructuredText, with or without a header.
TABLE = re.compile(r"^(=+ +=+)\n(?:(?!=+ +=+\n).*\n)+\1\n(?:(?:(?!=+ +=+\n).*\n)+\1\n)?", re.M)


def main() -> int:
    """Write or check the tables of all packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for top in TOPS:
        for init in sorted((ROOT / top).rglob("__init__.py")):
            text = init.read_text(encoding="utf-8")
            renewed = with_table(text, rows_of(init.parent))
            if renewed != text:
                stale.append(str(init.relative_to(ROOT)))
                if not check:
                    init.write_text(renewed, encoding="utf-8")
    for name in stale:
        sys.stdout.write(f"{name}: {'out of date' if check else 'written'}\n")
    return 1 if check and stale else 0


def rows_of(folder: Path) -> list[tuple[str, str]]:
    """Name and first line of each module, then of each package, in a folder."""
    modules = [f for f in sorted(folder.glob("*.py")) if f.stem != "__init__"]
    packages = [f / "__init__.py" for f in sorted(folder.iterdir()) if (f / "__init__.py").exists()]
    rows = [(f"`{file.stem}`", first_line(file)) for file in modules]
    return rows + [(f"`{file.parent.name}/`", first_line(file)) for file in packages]


def first_line(file: Path) -> str:
    """First line of a module's docstring, without a colon or full stop at its end."""
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return said.split("\n")[0].rstrip(":.")


def with_table(text: str, rows: list[tuple[str, str]]) -> str:
    """A package's source with the table of its docstring renewed, or added before its last lines."""
    parsed = ast.parse(text).body
    if not rows or not parsed or not isinstance(parsed[0], ast.Expr):
        return text
    first = parsed[0]
    lines = text.split("\n")
    doc = "\n".join(lines[first.lineno - 1 : first.end_lineno]).strip()[3:-3].rstrip("\n")
    table = table_of(rows)
    found = next((m for m in TABLE.finditer(doc + "\n") if lists_modules(m[0], rows)), None)
    if found:
        rest = (doc + "\n")[found.end() :].lstrip("\n")
        doc = f"{(doc + chr(10))[: found.start()]}{table}\n\n{rest}"
    else:
        head, _, rest = doc.partition("\n\n")
        doc = f"{head}\n\n{table}\n" + (f"\n{rest}" if rest else "")
    doc = re.sub(r"\n{3,}", "\n\n", doc.rstrip("\n"))
    return "\n".join(
        [*lines[: first.lineno - 1], *f'"""{doc}\n"""'.split("\n"), *lines[first.end_lineno :]]
    )


def lists_modules(table: str, rows: list[tuple[str, str]]) -> bool:
    """Whether a table lists the modules; other tables of a docstring are left unchanged."""
    names = {name.strip("`/") for name, _ in rows}
    return bool(names & set(re.findall(r"^`(\w+)/?`", table, re.M)))


def table_of(rows: list[tuple[str, str]]) -> str:
    """Rows as a simple table of reStructuredText."""
    left = max(len(name) for name, _ in rows)
    rule = "=" * left + "  " + "=" * (WIDTH - left - 2)
    return "\n".join([rule, *(f"{name:{left}}  {said}".rstrip() for name, said in rows), rule])


if __name__ == "__main__":
    sys.exit(main())
