"""``python -m refocusd.doctor.trial``: attaches a ring in a process that can be ended."""

from __future__ import annotations

import sys

import msgspec

from refocusd.errors import RefocusdError
from refocusd.frame import checksum
from refocusd.processes.order import read_order
from refocusd.processes.trial import REFUSED, print_report
from refocusd.transport.ring import RingAddress, SharedRing

#: This module, for `refocusd.processes.trial.attempt`.
TRIAL = "refocusd.doctor.trial"


class RingOrder(msgspec.Struct, frozen=True):
    """Attach this ring and read a uint16 frame of `shape` at `offset`."""

    address: RingAddress
    offset: int
    shape: tuple[int, int]


class RingReport(msgspec.Struct, frozen=True):
    """What was read."""

    checksum: int


def main() -> int:
    """Carry out the order on standard input."""
    order = read_order(RingOrder)
    try:
        with SharedRing.attach(order.address) as ring:
            read = RingReport(checksum(ring.view(order.offset, order.shape, "uint16")))
    except RefocusdError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    print_report(read)
    return 0


if __name__ == "__main__":
    sys.exit(main())
