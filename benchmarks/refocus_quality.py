"""How much better refocused frames are: the shipped bundle on what it never saw.

    python benchmarks/refocus_quality.py --data FOLDER [--json FILE] [--limit N]

FOLDER holds the BBBC038 images (`refocusd train fetch-bbbc038`) and, if there
are any, BBBC006 in-focus fields.  Prints PSNR by defocus for the raw frame, the
network in f32 and bf16, and Richardson-Lucy with one PSF and with the true one.
A few minutes on two cores; Richardson-Lucy takes most of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from refocusd_training.evaluation import evaluate, held_out_cases, print_table, write_json

RESULTS = Path(__file__).parent / "results" / "refocus_quality.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", default="live-nuclei", help="folder or shipped name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    results = evaluate(arguments.bundle, held_out_cases(arguments.data, limit=arguments.limit))
    print_table(results)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.json, arguments.bundle, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
