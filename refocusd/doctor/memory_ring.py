"""Check of the shared ring: created here, attached and read by another process.

``python -m refocusd.doctor.memory_ring`` is that process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec
import numpy as np

from refocusd.doctor.case import Case, Finding, broken, fine, not_applicable
from refocusd.errors import RefocusdError, TransportError, WorkerError
from refocusd.frame import checksum
from refocusd.processes.order import read_order
from refocusd.processes.trial import REFUSED, attempt, print_report
from refocusd.transport.ring import PAGE, RingAddress, SharedRing

#: This module, for `refocusd.processes.trial.attempt`.
TRIAL = "refocusd.doctor.memory_ring"
TRIAL_S = 30.0
_SHAPE = (64, 64)


class RingOrder(msgspec.Struct, frozen=True):
    """Attach this ring and read a uint16 frame of `shape` at `offset`."""

    address: RingAddress
    offset: int
    shape: tuple[int, int]


class RingReport(msgspec.Struct, frozen=True):
    """Checksum of the pixels that were read."""

    checksum: int


def ring(case: Case) -> Iterator[Finding]:
    """Create a ring of the configured size; another process must read the same pixels in it."""
    mib = case.settings.ring_mib
    if case.settings.inline:
        yield not_applicable("not used (inline = true): pixels go through the socket")
        return
    advice = (
        "set inline = true to do without; on Linux the daemon and its peers must run as the same "
        "user, in the same container"
    )
    try:
        with SharedRing.create(mib << 20) as made:
            pixels = np.random.default_rng(0).integers(0, 4096, _SHAPE, dtype=np.uint16)
            made.view(PAGE, _SHAPE, "uint16")[...] = pixels
            report = attempt(TRIAL, RingOrder(made.address, PAGE, _SHAPE), RingReport, TRIAL_S)
    except (TransportError, WorkerError) as error:
        yield broken(str(error), advice)
        return
    if report.checksum != checksum(pixels):
        yield broken("another process does not read the pixels that were written", advice)
    else:
        yield fine(f"{mib} MiB of shared memory, attached by another process")


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
