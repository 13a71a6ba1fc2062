"""``python -m refocusd.bench ORDER REPORT``: a measuring process; both are JSON files."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from refocusd.bench.combination import Order
from refocusd.bench.measure import measure

if __name__ == "__main__":
    ordered = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(measure(ordered)))
