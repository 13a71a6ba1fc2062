"""Gain of refocused frames over raw ones: the shipped bundle on specimens and microscopes not seen in training.

    python -m benchmarks.quality.refocus_quality --data FOLDER [--json FILE] [--limit N]

FOLDER holds the BBBC038 images (`refocusd train fetch-bbbc038`) and, if available,
BBBC006 in-focus fields.  Prints PSNR by defocus, nuclei and light for the raw
frame, the network, and deconvolution with one PSF and with the true one, and how well
the network estimates the defocus; on flat and on deep specimens.
It runs `refocusd train evaluate` and keeps a summary of the result; with `--csv`, that command
writes the figures of every frame.
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
