"""How much better refocused frames are: the shipped bundle on what it never saw.

    python -m benchmarks.quality.refocus_quality --data FOLDER [--json FILE] [--limit N]

FOLDER holds the BBBC038 images (`refocusd train fetch-bbbc038`) and, if there
are any, BBBC006 in-focus fields.  Prints PSNR by defocus, nuclei and light for the raw
frame, the network, and deconvolution with one PSF and with the true one, and how well
the network tells the defocus; on plane and on deep specimens.
It is `refocusd train evaluate` with a summary of its result kept here; `--csv` of that command
has every single frame.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from refocusd_training.evaluation.run import Options, run_held_out

from benchmarks.quality.summarise import summarise

RESULTS = Path(__file__).parents[1] / "results" / "refocus_quality.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", default="live-nuclei", help="folder or shipped name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    options = Options(json=arguments.json, limit=arguments.limit)
    run_held_out(arguments.bundle, arguments.data, options)
    summarise(arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
