"""Collect what a Windows PC without internet needs to install refocusd: a folder of wheels, with the installer.

On a computer with internet, of any system, in a checkout of refocusd::

    python -m pip install uv
    python docs/service/wheelhouse.py --python 3.12 --output wheelhouse

``--extras demo,calibrate`` adds extras, and further requirements may follow.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALLER = ("install.ps1", "install.py")
PLATFORM = "win_amd64"
#: Endings of the names of wheels that Windows can install.
FIT = ("-any", f"-{PLATFORM}")


def main() -> None:
    """Resolve for Windows, download, and build refocusd's own wheel."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("wheelhouse"))
    parser.add_argument("--python", default="3.12", help="of that PC: 3.11, 3.12 or 3.13")
    parser.add_argument("--extras", default="", help="separated by commas")
    parser.add_argument("--wheel", type=Path, help="refocusd's wheel, if it is built already")
    parser.add_argument("--constraint", type=Path, help="versions to take, as for pip")
    parser.add_argument("further", nargs="*", metavar="REQUIREMENT")
    arguments = parser.parse_args()
    pip = [sys.executable, "-m", "pip"]
    out = ["--quiet", "--no-deps", str(arguments.wheel or ROOT)]
    arguments.output.mkdir(parents=True, exist_ok=True)
    subprocess.run([*pip, "wheel", "--wheel-dir", str(arguments.output), *out], check=True)
    with tempfile.TemporaryDirectory() as folder:
        wanted, pinned = Path(folder) / "wanted.in", Path(folder) / "pinned.txt"
        wanted.write_text("\n".join(arguments.further), encoding="utf-8")
        # pip resolves for the system that it runs on, and would omit packages that only Windows needs.
        resolve = ["--python-platform", "windows", "--python-version", arguments.python]
        resolve += ["--quiet", "--no-header", "--no-annotate", "--output-file", str(pinned)]
        for extra in filter(None, arguments.extras.split(",")):
            resolve += ["--extra", extra]
        if arguments.constraint:
            resolve += ["--constraint", str(arguments.constraint)]
        sources = [str(ROOT / "pyproject.toml"), str(wanted)]
        subprocess.run(
            [sys.executable, "-m", "uv", "pip", "compile", *resolve, *sources], check=True
        )
        target = ["--platform", PLATFORM, "--python-version", arguments.python]
        target += ["--no-deps", "--dest", str(arguments.output)]
        subprocess.run([*pip, "download", "--quiet", *target, "-r", str(pinned)], check=True)
    # Some pure-Python packages are published as sources only.
    for source in [*arguments.output.glob("*.tar.gz"), *arguments.output.glob("*.zip")]:
        build = ["--quiet", "--no-deps", "--wheel-dir", str(arguments.output), str(source)]
        subprocess.run([*pip, "wheel", *build], check=True)
        source.unlink()
    for name in INSTALLER:
        shutil.copy(Path(__file__).with_name(name), arguments.output)
    found = [file for file in arguments.output.iterdir() if file.name not in INSTALLER]
    if alien := [file.name for file in found if not file.stem.endswith(FIT)]:
        sys.exit(f"no wheels for Windows: {', '.join(alien)}")


if __name__ == "__main__":
    main()
