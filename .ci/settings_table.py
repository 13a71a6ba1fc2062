"""Writes the table of settings in the guide, from `refocusd.config`.

``python .ci/settings_table.py`` writes it; ``--check`` only reports, by its exit status, whether it is out of
date (a test runs it).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec

from refocusd.config import SETTINGS, Settings
from refocusd.toml_value import toml_value

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "settings.md"
PLACE = re.compile(
    r"(?<=<!-- settings: made by `python \.ci/settings_table\.py` -->\n).*?(?=<!-- end -->)",
    re.DOTALL,
)


def main() -> int:
    """Write the table, or check whether it is up to date."""
    rows = ["| setting | default | values | meaning |", "|---|---|---|---|"]
    for name, value in msgspec.to_builtins(Settings()).items():
        setting = SETTINGS[name]
        folder = setting.help.startswith("Folder") and value
        default = "a folder of your user" if folder else f"`{toml_value(value)}`"
        rows.append(f"| `{name}` | {default} | {setting.kind} | {setting.help} |")
    table = "\n".join(rows) + "\n"
    text = PAGE.read_text(encoding="utf-8")
    renewed, found = PLACE.subn(lambda _: table, text)
    if sys.argv[1:] == ["--check"]:
        return 0 if found and renewed == text else 1
    PAGE.write_text(renewed, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
