"""Assigns wells and fields to training, validation and test, as a function of the name.

A hash of the name is used instead of a shuffle: if a plate lacks a well or has an additional one, all other
wells keep their side.  In a small set, the hash only determines the order, because it could otherwise hold
out six of ten.  Everything with the same name is on the same side: sites, channels, planes and crops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from refocusd_training.data.split import Side

#: Fewer names than this are ordered by the hash and divided by the shares.
FEW = 30
#: Wells of BBBC006 on whose fields every bundle is evaluated.
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
        Shares; with fewer than `FEW` names they are met to the nearest field.  With three or more
        names, a share above 0 gives its side at least one of them.

    Returns
    -------
    dict of str to str
        By name, in their sorted order.
    """
    ordered = sorted(set(names))
    by_hash = sorted(ordered, key=lambda n: hashlib.sha256(f"{seed} {n.lower()}".encode()).digest())
    if 3 <= len(ordered) < FEW:
        return dict(sorted(_at_shares(by_hash, validate, test).items()))
    sides = {name: side_of(name, seed=seed, validate=validate, test=test) for name in ordered}
    if len(ordered) < 3:
        return sides
    # The field whose hash is nearest to the range of the missing side: validation lies above test.
    if test > 0 and "test" not in sides.values():
        sides[by_hash[0]] = "test"
    if validate > 0 and "validate" not in sides.values():
        sides[next(name for name in by_hash if sides[name] != "test")] = "validate"
    if "train" not in sides.values():
        sides[by_hash[-1]] = "train"
    return sides


def _at_shares(names: Sequence[str], validate: float, test: float) -> dict[str, Side]:
    """Sides of names in a given order, divided by the shares."""
    tested, validated = (
        max(round(share * len(names)), 1) if share > 0 else 0 for share in (test, validate)
    )
    # At least one name is left for training.
    validated = min(validated, len(names) - 1 - min(tested, len(names) - 2))
    tested = min(tested, len(names) - 1 - validated)
    sides: dict[str, Side] = dict.fromkeys(names, "train")
    sides |= dict.fromkeys(names[: tested + validated], "validate")
    sides |= dict.fromkeys(names[:tested], "test")
    return sides
