"""Queries of a ledger that the tests need."""

from __future__ import annotations

from refocusd.ledger import Ledger


def final_states(ledger: Ledger, run: str, acquisition: str) -> dict[str, str]:
    """Canonical axes → final state, for the frames of a run that have one."""
    return {fate.axes: fate.state for fate in ledger.fates(run, acquisition)}
