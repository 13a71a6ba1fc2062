"""A process that writes frames until it is killed at a random moment."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np


def write_until_killed(
    writer_code: str, arguments: Sequence[object], done: set[int], rng: np.random.Generator
) -> set[int]:
    """Let a process write frames, kill it, and return the numbers that it reported.

    Parameters
    ----------
    writer_code : str
        Python code: takes `arguments` and then a seed, reads on standard input the numbers that
        were written already, and reports each frame's number on standard output.
    """
    with subprocess.Popen(
        [sys.executable, "-c", writer_code, *map(str, (*arguments, rng.integers(1 << 30)))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write("\n".join(map(str, done)))
        writer.stdin.close()
        reported = []
        for _ in range(int(rng.integers(1, 12))):
            began = time.perf_counter()
            reported.append(writer.stdout.readline())
        # At some moment while the next frames are written.
        until = time.perf_counter() + rng.uniform(0, 3) * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        writer.kill()
        reported += writer.stdout.readlines()
    # A line that the kill cut short does not count.
    return {int(line) for line in reported if line.endswith("\n")}
