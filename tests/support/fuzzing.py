"""Damages inputs on purpose, and judges what their readers do with them.

A `Target` is a reader with good inputs to damage.  Each damaged input is determined by
the target's name, a seed and an index, so that these three identify a finding and
``Target.draw`` reproduces it:

>>> data = target.draw(seed=0, index=4711)  # doctest: +SKIP

======================== ======================================================
`damaged`                bytes: bits, boundary values, cuts, insertions, splices
`changed_tree`           fields of msgpack, JSON or YAML: swapped, odd, missing
`judge`, `fuzz`          feed inputs and hold the reader to time, memory, errors
======================== ======================================================

A reader may return, or raise a `RefocusdError`; anything else is a defect.
"""

from __future__ import annotations

import copy
import os
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from refocusd.errors import RefocusdError

#: Inputs of each target in a short round; set the variable for more.
ROUNDS = int(os.environ.get("REFOCUSD_FUZZ_ROUNDS", "60"))
#: Processor time of this process that one input may take: an input of disproportionate cost takes
#: #: minutes, and 16 000 open brackets take 1.2 s on a slow processor.
SECONDS = 4.0
#: Wall time that one input may take on a shared machine: more counts as a hang.
WALL_SECONDS = 20.0
#: Memory that one small damaged input may take.
MEMORY_BYTES = 8 << 20
#: Boundary values of the integers in files and messages.
BOUNDARIES = (
    *(0, 1, 31, 33, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000),
    *(0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF),
)
#: Values that a field is rarely given.
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 255, -(2**31), 2**31, 2**32, 2**63 - 1, -(2**63)),
    *(0.0, -0.5, 1e308, 5e-324, float("nan"), float("inf")),
    *("", "\0", "..", "../../escaped", "/dev/zero", "C:\\x", "NUL", "a" * 5000, "\n", "\ufeff"),
    *("1e999", "0x10", "µ\u202e\U0001f52c", "{}", "[]", [], {}, [[[[]]]], {"": {}}, [0] * 2000),
)


# -- bytes -------------------------------------------------------------------------------


def weak_places(content: bytes) -> list[int]:
    """Offsets of headers and directories: damage matters there, and most other bytes are pixels."""
    return [at for at in range(len(content)) if at < 400 or content[at : at + 2] == b"\0\1"]


def damaged(
    content: bytes, rng: Random, *, weak: Sequence[int] = (), tokens: Sequence[bytes] = ()
) -> bytes:
    """Damage bytes in one of the ways in which chance or attackers do.

    Parameters
    ----------
    content : bytes
    rng : random.Random
    weak : sequence of int
        Offsets at which half of the damage is done.
    tokens : sequence of bytes
        Words of the format, which chance would not produce.
    """
    data = bytearray(content)
    if not data:
        return rng.randbytes(rng.randint(0, 40))

    def place() -> int:
        chosen = rng.choice(weak) if weak and rng.random() < 0.5 else rng.randrange(len(data))
        return min(chosen, len(data) - 1)

    match rng.randrange(8 if tokens else 7):
        case 0:
            for _ in range(rng.randint(1, 12)):
                data[place()] ^= 1 << rng.randrange(8)
        case 1:
            for _ in range(rng.randint(1, 4)):
                data[place()] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        case 2:
            del data[rng.randrange(len(data)) :]
        case 3:
            start = place()
            del data[start : start + rng.randint(1, 64)]
        case 4:
            value = rng.choice((*BOUNDARIES, len(data)))
            at = place() // 2 * 2
            size = rng.choice((2, 4, 8))
            data[at : at + size] = (value & (256**size - 1)).to_bytes(
                size, rng.choice(("little", "big"))
            )
        case 5:
            start, other = place(), place()
            length = rng.randint(1, 40)
            data[start : start + length] = data[other : other + length]
        case 6:
            start = place()
            data[start:start] = (
                rng.randbytes(rng.randint(1, 16))
                if rng.random() < 0.5
                else data[start : start + rng.randint(1, 40)] * rng.choice((1, 2, 100))
            )
        case _:
            start = place()
            data[start : start + rng.choice((0, 0, 1, 8))] = rng.choice(tokens)
    return bytes(data)


# -- fields ------------------------------------------------------------------------------


def _fields(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a tree with each of its keys."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _fields(value)


def changed_tree(
    tree: dict[str, Any], rng: Random, strange: Sequence[Any] = STRANGE
) -> dict[str, Any]:
    """Copy plain data and change one to three fields.

    Parameters
    ----------
    tree : dict
        Of dicts, lists and scalars.
    rng : random.Random
    strange : sequence
        Values to try, if the encoding does not take all of `STRANGE`.
    """
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        fields = list(_fields(tree))
        if not fields:
            break
        container, key = rng.choice(fields)
        value = container[key]
        match rng.randrange(7):
            case 0 | 1:
                container[key] = copy.deepcopy(rng.choice(strange))
            case 2:
                del container[key]
            case 3:  # two fields swapped, wherever they are
                other, other_key = rng.choice(fields)
                theirs = copy.deepcopy(other[other_key])
                other[other_key] = copy.deepcopy(value)
                container[key] = theirs
            case 4:
                if isinstance(container, dict):
                    container[rng.choice(("", "surplus", f"{key}\0", f"{key} "))] = value
                else:
                    container.insert(key, value)
            case 5:
                container[key] = [value] if rng.random() < 0.5 else {"": value}
            case _:
                container[key] = _bent(value, rng)
    return tree


def _bent(value: Any, rng: Random) -> Any:
    """A value similar to the one given."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 1000, str(value), float(value)))
    if isinstance(value, float):
        return rng.choice((-value, value * 1e30, str(value), value or 1))
    if isinstance(value, str):
        text = damaged(value.encode(), rng)
        return text.decode("utf-8", "replace")
    if isinstance(value, list):
        return value * rng.choice((0, 2, 50)) if len(value) < 100 else value[:1]
    return None


# -- the judge ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A reader, and good inputs to damage.

    Parameters
    ----------
    name : str
    seeds : sequence of bytes
    mutate : callable
        Damages one of them.
    feed : callable
        Lets the reader read the input; returns one word for what happened.
    nbytes : int
        Memory that reading one input may take.
    seconds : float
        Processor time that it may take.
    messages : int
        Number of messages in one input, for targets that take a conversation.
    """

    name: str
    seeds: Sequence[bytes]
    mutate: Callable[[bytes, Random], bytes]
    feed: Callable[[bytes], str]
    nbytes: int = MEMORY_BYTES
    seconds: float = SECONDS
    messages: int = 1

    def draw(self, seed: int, index: int) -> bytes:
        """The input with that number: always the same."""
        rng = Random(f"{self.name} {seed} {index}")
        return self.mutate(rng.choice(self.seeds), rng)


@dataclass(frozen=True)
class Defect:
    """An input that a reader failed on."""

    target: str
    seed: int
    index: int
    what: str
    data: bytes = field(repr=False)


@dataclass
class Report:
    """The outcomes of the inputs of one target."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    most_bytes: int = 0
    defects: list[Defect] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return self.outcomes.total()

    def share(self, outcome: str) -> float:
        """Share of the inputs with this outcome."""
        return self.outcomes[outcome] / max(1, self.inputs)


def judge(target: Target, data: bytes) -> tuple[str, str, float, int]:
    """Feed one input; to be called within ``judging()``.

    Returns
    -------
    outcome : str
        The reader's word, the name of a `RefocusdError`, or ``defect``.
    what : str
        For a defect, what was wrong.
    seconds : float
        Processor time.
    nbytes : int
        Peak of Python's memory above the level before; 0 if it is not traced.
    """
    traced = tracemalloc.is_tracing()
    before = tracemalloc.get_traced_memory()[0] if traced else 0
    if traced:
        tracemalloc.reset_peak()
    begun, begun_wall = time.process_time(), time.monotonic()
    what = ""
    try:
        outcome = target.feed(data)
    except RefocusdError as error:
        outcome = type(error).__name__
    except Exception as error:  # noqa: BLE001 (this is what is looked for)
        outcome, what = "defect", f"raised {type(error).__name__}: {str(error)[:300]}"
    seconds = time.process_time() - begun
    wall = time.monotonic() - begun_wall
    nbytes = tracemalloc.get_traced_memory()[1] - before if traced else 0
    if not what and (seconds > target.seconds or wall > WALL_SECONDS):
        outcome, what = "defect", f"took {seconds:.1f} s of processor time, {wall:.1f} s in all"
    if not what and nbytes > target.nbytes:
        outcome, what = "defect", f"took {nbytes / 2**20:.0f} MiB"
    return outcome, what, seconds, nbytes


class judging:  # noqa: N801 (used as a context manager only)
    """Traces memory while inputs are judged."""

    def __enter__(self) -> None:
        self._ours = not tracemalloc.is_tracing()
        if self._ours:
            tracemalloc.start()

    def __exit__(self, *_: object) -> None:
        if self._ours:
            tracemalloc.stop()


def fuzz(
    target: Target,
    rounds: int = ROUNDS,
    *,
    seed: int = 0,
    first: int = 0,
    before: Callable[[int], object] | None = None,
) -> Report:
    """Feed the inputs `first` to `first + rounds`, all of them, whatever happens.

    Parameters
    ----------
    before : callable, optional
        Called with each index before its input is read, so that a crash can be attributed to it.
    """
    report = Report()
    with judging():
        for index in range(first, first + rounds):
            data = target.draw(seed, index)
            if before is not None:
                before(index)
            outcome, what, seconds, nbytes = judge(target, data)
            report.outcomes[outcome] += target.messages
            report.slowest_s = max(report.slowest_s, seconds)
            report.most_bytes = max(report.most_bytes, nbytes)
            if what:
                report.defects.append(Defect(target.name, seed, index, what, data))
    return report
