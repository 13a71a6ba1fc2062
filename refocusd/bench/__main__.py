"""``python -m refocusd.bench``: a measuring process (`refocusd.processes.trial`)."""

from __future__ import annotations

from refocusd.bench.combination import Order
from refocusd.bench.measure import measure
from refocusd.processes.order import read_order
from refocusd.processes.trial import print_report

if __name__ == "__main__":
    print_report(measure(read_order(Order)))
