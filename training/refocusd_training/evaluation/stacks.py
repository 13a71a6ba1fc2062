"""Evaluates real through-focus stacks: every plane is compared with the sharpest, or with a separate truth.

A TOML file may state facts that the stacks' files lack, with one table per stack or pattern of names::

    ["faim_beads_*"]
    na = 0.75
    pixel_um = 1.37

The first table whose pattern fits the file's name applies.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import msgspec
import numpy as np

from refocusd.errors import ConfigError, InputError
from refocusd.frame import Pixels
from refocusd.imaging.optics import Optics
from refocusd.imaging.quality import psnr
from refocusd_training.data.config import DataConfig
from refocusd_training.data.stacks import Stack, Stacks, find_stacks
from refocusd_training.evaluation.cases import spread
from refocusd_training.evaluation.pair import REAL_DEFINITION, Pair
from refocusd_training.evaluation.results import THROUGH_FOCUS

STACKS_DEFINITION = (
    f"{REAL_DEFINITION}; '0' um is the sharpest plane of a stack, which is its truth; engines write "
    "what the worker writes, frames that pass through included"
)
#: Name of the truth that is the sharpest plane of the stack itself.
SHARPEST = "sharpest plane"
DEFAULT_PIXEL_UM = 0.645


class StackNotes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known about a stack beyond its file.

    Parameters
    ----------
    na : float or None
        Nominal NA; without it there is no deconvolution with the nominal PSF.
    wavelength_um, refractive_index : float
    pixel_um, z_step_um : float or None
        Override the values in the file.
    truth_channel : str or None
        Channel of the same recording that shows the specimen in focus, for example confocal; it is
        a second truth.
    stain : str
        Nuclei are counted if it is ``nuclei``.
    """

    na: float | None = None
    wavelength_um: float = 0.52
    refractive_index: float = 1.0
    pixel_um: float | None = None
    z_step_um: float | None = None
    truth_channel: str | None = None
    stain: str = "unknown"


def read_notes(path: Path) -> Mapping[str, StackNotes]:
    """Notes by pattern of file names.

    Raises
    ------
    ConfigError
        If the file cannot be read or holds something else.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(document, dict[str, StackNotes])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path} does not describe stacks: {error}") from error


def stack_pairs(
    folder: Path, notes: Mapping[str, StackNotes] | None = None, *, limit: int | None = None
) -> list[Pair]:
    """Every plane of every usable stack of a folder, with its truths.

    Parameters
    ----------
    folder : Path
        Folder of stacks, see `refocusd_training.data.stacks.find_stacks`.
    notes : mapping of str to StackNotes, optional
        Notes by pattern of file names.
    limit : int, optional
        At most this many planes of each stack, spread evenly.

    Raises
    ------
    InputError
        If no stack can be used.
    """
    found = find_stacks(folder, DataConfig(kind="stacks"))
    pairs: list[Pair] = []
    try:
        for stack in found.stacks:
            recording = found.recordings[stack.recording]
            name = recording.path.name
            fits = (note for pattern, note in (notes or {}).items() if fnmatch(name, pattern))
            note = next(fits, StackNotes())
            if note.truth_channel is not None and stack.channel == note.truth_channel:
                continue
            if note.z_step_um is not None:
                stack = replace(stack, step_um=note.z_step_um)
            pairs += _pairs_of(found, stack, note, recording.path.stem, limit)
    finally:
        found.close()
    if not pairs:
        raise InputError(f"{folder} holds only stacks of truth channels: name a channel to judge")
    return pairs


def _pairs_of(
    found: Stacks, stack: Stack, note: StackNotes, name: str, limit: int | None
) -> Iterator[Pair]:
    planes = [found.read((stack.recording, plane)) for plane in stack.planes]
    numbers = spread(range(len(planes)), limit)
    pixel_um = note.pixel_um or stack.pixel_um or DEFAULT_PIXEL_UM
    optics = None
    if note.na is not None:
        optics = Optics(note.na, note.wavelength_um, note.refractive_index, pixel_um)
    if stack.channel and note.truth_channel is None:
        name = f"{name} {stack.channel}"
    for truth_name, truth, left_out in _truths(found, stack, note, planes):
        for number in numbers:
            if number == left_out:
                continue
            um = stack.defocus_um(number)
            yield Pair(
                specimen=f"{name} plane {number}",
                group=f"{name}, {truth_name}",
                raw=planes[number],
                truth=truth,
                channel=note.stain,
                pixel_um=pixel_um,
                defocus_um=round(um, 3) if math.isfinite(um) else None,
                optics=optics,
                setting=THROUGH_FOCUS,
            )


def _truths(
    found: Stacks, stack: Stack, note: StackNotes, planes: Sequence[Pixels]
) -> Iterator[tuple[str, Pixels, int | None]]:
    """Name and frame of each truth, and its index if it is a plane of the stack itself."""
    sharpest = planes[stack.best]
    yield SHARPEST, sharpest, stack.best
    if note.truth_channel is None:
        return
    truths = found.planes_of_channel(stack, note.truth_channel)
    if not truths:
        raise InputError(
            f"{stack.field} has no channel {note.truth_channel!r}: name one of its channels as "
            "truth_channel"
        )
    # Planes of the two microscopes need not be at the same heights, so the most similar one is chosen.
    likeness = [psnr(sharpest, frame, affine=True) for frame in truths]
    best = int(np.argmax(likeness))
    yield f"channel {note.truth_channel}, plane {best}", truths[best], None
