"""The checks in order, each with its time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from refocusd.doctor import disk, engine, machine, memory_ring, network
from refocusd.doctor.case import Case, Finding, broken, doubtful


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Parameters
    ----------
    name : str
        Name of its findings in the report, unless they have their own.
    look : callable
        Carries it out; returns its findings.
    limit_s : float
        Time limit.
    needed : bool
        Whether nothing can be refocused if the check cannot be carried out.
    """

    name: str
    look: Callable[[Case], Iterable[Finding]]
    limit_s: float = 10.0
    needed: bool = False


CHECKS: tuple[Check, ...] = (
    Check("Python", machine.python, needed=True),
    Check("packages", machine.packages, needed=True),
    Check("memory", machine.memory),
    Check("clock", machine.clock),
    Check("anti-virus", machine.anti_virus),
    Check("GPU", engine.devices),
    Check("backends", engine.backends),
    Check("engine", engine.engine, limit_s=engine.TRIAL_S + 5, needed=True),
    Check("ring", memory_ring.ring, limit_s=memory_ring.TRIAL_S + 5, needed=True),
    Check("daemon", network.daemon),
    Check("view", network.view_port),
    Check("remote workers", network.listen),
    Check("Micro-Manager", network.bridge),
    Check("ledgers", disk.ledgers, limit_s=20, needed=True),
    Check("output folder", disk.output, limit_s=20, needed=True),
    Check("disk speed", disk.speed, limit_s=disk.SPEED_S * 4 + 10),
    Check("room", disk.room),
)


def examine(case: Case, checks: Iterable[Check] = CHECKS) -> Iterator[Finding]:
    """Carry the checks out, one after the other.

    Parameters
    ----------
    case : Case
    checks : iterable of Check

    Yields
    ------
    Finding
        The findings of each check once it is done.  A check that raises or takes too long gives one
        as well.
    """
    for check in checks:
        yield from _carry_out(check, case)


def _carry_out(check: Check, case: Case) -> list[Finding]:
    found: list[Finding] = []
    cannot = broken if check.needed else doubtful

    def look() -> None:
        try:
            found.extend(check.look(case))
        except Exception as error:  # noqa: BLE001 (a check that fails is a finding, never an end)
            found.append(
                cannot(
                    f"this check failed: {type(error).__name__}: {error}",
                    "please report this line",
                )
            )

    # A thread that hangs in a dead network share cannot be ended; a daemon thread can be left behind.
    thread = threading.Thread(target=look, name=f"doctor-{check.name}", daemon=True)
    thread.start()
    thread.join(check.limit_s)
    late = cannot(
        f"no answer within {check.limit_s:g} s",
        "a disk, a network share or a driver does not answer: try it outside refocusd",
    )
    findings = [*tuple(found), late] if thread.is_alive() else found
    return [replace(finding, name=finding.name or check.name) for finding in findings]
