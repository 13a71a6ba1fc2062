"""Which well or field trains, validates and tests: a function of its name.

A hash, not a shuffle: a plate that lacks a well, or gets one more, leaves every other well where
it was.  Of a small set the hash gives the order alone, or it would hold out six of ten.
Whatever shares a name is on one side as a whole: sites, channels, planes and crops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from refocusd_training.split import Side

__all__ = ["TEST_WELLS", "side_of", "sides_of"]

#: Fewer names than these are cut at the shares, not at the hash.
FEW = 30
#: Wells of BBBC006 whose fields every bundle is evaluated on.
TEST_WELLS = frozenset({"a02", "a03", "a04", "a05", "a06"})


def side_of(name: str, *, seed: int, validate: float, test: float) -> Side:
    """Side of one well or field.

    Parameters
    ----------
    name : str
    seed : int
    validate, test : float
        Shares, met on average.
    """
    digest = hashlib.sha256(f"{seed} {name.lower()}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test:
        return "test"
    return "validate" if place < test + validate else "train"


def sides_of(names: Iterable[str], *, seed: int, validate: float, test: float) -> dict[str, Side]:
    """Sides of all wells or fields.

    Parameters
    ----------
    names : iterable of str
    seed : int
    validate, test : float
        Shares; of fewer than `FEW` names they are met to the nearest field, and a share above 0
        gives its side at least one of three or more.

    Returns
    -------
    dict of str to str
        By name, in their sorted order.
    """
    ordered = sorted(set(names))
    if len(ordered) < 3 or len(ordered) >= FEW:
        return {name: side_of(name, seed=seed, validate=validate, test=test) for name in ordered}
    tested, validated = (
        max(round(share * len(ordered)), 1) if share > 0 else 0 for share in (test, validate)
    )
    # At least one is trained on.
    validated = min(validated, len(ordered) - 1 - min(tested, len(ordered) - 2))
    tested = min(tested, len(ordered) - 1 - validated)
    by_hash = sorted(ordered, key=lambda n: hashlib.sha256(f"{seed} {n.lower()}".encode()).digest())
    sides: dict[str, Side] = dict.fromkeys(by_hash, "train")
    sides |= dict.fromkeys(by_hash[: tested + validated], "validate")
    sides |= dict.fromkeys(by_hash[:tested], "test")
    return {name: sides[name] for name in ordered}
