"""Damaged files: an error of ours, or frames of the size and type they had.  Nothing else."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from recordings_on_disk import (
    frames,
    write_micromanager,
    write_tiff,
    write_z_dataset,
)

from refocusd.errors import InputError
from refocusd.sources.recording import open_recording

#: Mutations of each kind of file; more for a longer look.
ROUNDS = int(os.environ.get("REFOCUSD_FUZZ_ROUNDS", "60"))
#: What one damaged file may take: the files are of 10 KiB, frames of 1.5 KiB.
MEMORY_BYTES = 8 << 20
SECONDS = 2.0
SIDE = (24, 32)


@dataclass(frozen=True)
class Victim:
    """A small valid recording, of which one file is damaged."""

    path: Path
    file: Path
    dtype: type


def _tiff(**options: object) -> Callable[[Path], Victim]:
    def make(folder: Path) -> Victim:
        path = write_tiff(folder / "a.tif", frames(5, side=SIDE), **options)
        return Victim(path, path, np.uint16)

    return make


def _micromanager(folder: Path) -> Victim:
    places = [(c, 0, t, 0) for t in range(2) for c in range(2)]
    path = write_micromanager(
        folder / "a_MMStack.ome.tif", frames(4, side=SIDE), places, {"ChNames": ["a", "b"]}
    )
    return Victim(path, path, np.uint16)


def _dataset(file: str, dtype: type) -> Callable[[Path], Victim]:
    def make(folder: Path) -> Victim:
        path = write_z_dataset(folder / "run", frames(5, dtype=dtype, side=SIDE))
        return Victim(path, path / file, dtype)

    return make


VICTIMS: dict[str, Callable[[Path], Victim]] = {
    "plain": _tiff(metadata=None),
    "tifffile": _tiff(metadata={"axes": "ZYX"}),
    "ImageJ": _tiff(imagej=True),
    "ImageJ in one piece": _tiff(imagej=True, truncate=True),
    "OME": _tiff(ome=True),
    "BigTIFF, big-endian, strips": _tiff(bigtiff=True, byteorder=">", rowsperstrip=5),
    "tiles": _tiff(tile=(16, 16)),
    "LZW": _tiff(compression="lzw", predictor=True),
    "Deflate": _tiff(compression="zlib", rowsperstrip=7),
    "Micro-Manager": _micromanager,
    "NDTiff index": _dataset("NDTiff.index", np.uint16),
    "NDTiff pixels": _dataset("NDTiffStack.tif", np.uint8),
}


def weak_places(content: bytes) -> list[int]:
    """Headers and directories: there it hurts, and pixels are most of the bytes."""
    return [at for at in range(len(content)) if at < 400 or content[at : at + 2] == b"\0\1"]


def damaged(content: bytes, weak: list[int], rng: random.Random) -> bytes:
    """One of the ways in which files go wrong, and attackers make them go wrong."""
    data = bytearray(content)

    def place() -> int:
        return rng.choice(weak) if rng.random() < 0.5 else rng.randrange(len(data))

    match rng.randrange(6):
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
            value = rng.choice((0, 1, 31, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data)))
            at = place() // 2 * 2
            size = rng.choice((2, 4, 8))
            data[at : at + size] = (value & (256**size - 1)).to_bytes(
                size, rng.choice(("little", "big"))
            )
        case _:
            start, other = place(), place()
            length = rng.randint(1, 40)
            data[start : start + length] = data[other : other + length]
    return bytes(data)


@pytest.mark.parametrize("kind", VICTIMS)
def test_a_damaged_recording_is_an_error_or_reads_frames_of_its_own_format(
    tmp_path: Path, kind: str
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    victim = VICTIMS[kind](whole)
    content = victim.file.read_bytes()
    weak = weak_places(content)
    rng = random.Random(kind)
    refused = read = nameless = 0
    tracemalloc.start()
    try:
        for round_ in range(ROUNDS):
            mutated = damaged(content, weak, rng)
            victim.file.write_bytes(mutated)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            begin = time.perf_counter()
            try:
                with open_recording(victim.path, max_frame_bytes=1 << 20) as recording:
                    plan = recording.plan()
                    for index in range(len(plan)):
                        pixels = recording.read(index).pixels
                        assert pixels.shape == SIDE, round_
                        assert pixels.dtype == np.dtype(victim.dtype), round_
                read += 1
            except InputError as error:
                refused += 1
                nameless += str(victim.path) not in str(error)
            except Exception as error:
                shutil.copytree(whole, tmp_path / f"round {round_}")
                raise AssertionError(f"round {round_} raised {error!r}") from error
            assert time.perf_counter() - begin < SECONDS, round_
            assert tracemalloc.get_traced_memory()[1] - before < MEMORY_BYTES, round_
    finally:
        tracemalloc.stop()
    # Both happen, or the mutations do not reach what they are for.
    assert refused > ROUNDS // 20
    assert read > ROUNDS // 50
    assert not nameless


def test_damaged_files_are_closed_again(tmp_path: Path) -> None:
    """Windows would not let a user delete or replace a file that is still open."""
    path = write_tiff(tmp_path / "a.tif", frames(5, side=SIDE), imagej=True)
    content = path.read_bytes()
    weak = weak_places(content)
    rng = random.Random(0)
    with warnings.catch_warnings(record=True) as caught:
        # Python says so when it has to close a forgotten file itself.
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(40):
            path.write_bytes(damaged(content, weak, rng))
            with contextlib.suppress(InputError):
                open_recording(path).close()
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
