"""The shared ring: made here, attached and read by another process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refocusd.doctor.case import Case, Finding, broken, fine, not_applicable
from refocusd.doctor.trial import TRIAL, RingOrder, RingReport
from refocusd.errors import TransportError, WorkerError
from refocusd.frame import checksum
from refocusd.processes.trial import attempt
from refocusd.transport.ring import PAGE, SharedRing

TRIAL_S = 30.0
_SHAPE = (64, 64)


def ring(case: Case) -> Iterator[Finding]:
    """Make a ring of the size that is set; another process must read the same pixels in it."""
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
        yield broken("another process reads other pixels than were written", advice)
    else:
        yield fine(f"{mib} MiB of shared memory, attached by another process")
