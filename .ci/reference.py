"""Generates the pages of the API reference, one per package, when the site is built."""

from __future__ import annotations

import ast
from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).resolve().parents[1]
ROOTS = {
    "refocusd": ROOT,
    "refocusd_training": ROOT / "training",
    "refocusd_calibration": ROOT / "calibration",
}


def packages(name: str) -> list[Path]:
    """Folders of a package and of the packages in it."""
    top = ROOTS[name] / name
    return [top, *sorted(f.parent for f in top.rglob("__init__.py") if f.parent != top)]


def modules(folder: Path) -> list[Path]:
    """The public modules of a package."""
    return [f for f in sorted(folder.glob("*.py")) if not f.stem.startswith("_")]


def caption(file: Path) -> str:
    """First line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]


lines = [
    "* [Start](index.md)",
    "* Guide",
    "    * guide/*.md",
    "* Decisions",
    "    * decisions/*.md",
    "* Reference",
]
for name, root in ROOTS.items():
    for folder in packages(name):
        dotted = ".".join(folder.relative_to(root).parts)
        page = f"reference/{dotted}.md"
        with mkdocs_gen_files.open(page, "w") as out:
            print(f"# {dotted}\n\n{caption(folder / '__init__.py')}\n", file=out)
            for module in modules(folder):
                print(f"\n::: {dotted}.{module.stem}\n", file=out)
        lines.append(f"    * [{dotted}]({page})")
with mkdocs_gen_files.open("nav.md", "w") as out:
    print("\n".join(lines), file=out)
with mkdocs_gen_files.open("index.md", "w") as out:
    print((ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "]("), file=out)
