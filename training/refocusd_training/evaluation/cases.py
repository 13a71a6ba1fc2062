"""Test specimens imaged by microscopes that training never draws."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd_training.data.images import SUFFIXES, find_images, read_image
from refocusd_training.data.split import load_split
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.ranges import HELD_OUT, HELD_OUT_DEEP, Setting
from refocusd_training.simulate.scene import Scene, simulate_frame
from refocusd_training.simulate.specimen import flux_of

#: Distances from focus of the evaluation.
LEVELS_UM = (0.0, 4.0, 8.0, 16.0, 32.0)
#: Levels of the average: out of focus only.
AVERAGED_UM = (4.0, 8.0, 16.0, 32.0)
#: Channel of nuclear stains.
NUCLEI = "nuclei"
#: Images with a smaller side, px, leave too little within the borders.
MIN_SIDE = 360
#: Only the middle of larger images is used, px, because Richardson-Lucy's time is proportional to the area.
MAX_SIDE = 480
#: One specimen in this many is also evaluated as a deep one.
DEEP_EVERY = 3
BBBC006 = "BBBC006_z_aligned__*__w1_*.png"

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Case:
    """One specimen in front of one microscope.

    Parameters
    ----------
    specimen : str
        Name of the image.
    group : str
        Origin of the image.
    flux : ndarray of float32, shape (height, width)
        Flux, see `flux_of`.
    setting : Setting
    channel : str
        Stained structure.
    """

    specimen: str
    group: str
    flux: NDArray[np.float32]
    setting: Setting
    channel: str = NUCLEI


def held_out_cases(data: Path, *, limit: int | None = None) -> list[Case]:
    """Specimens of the test side, each with one held-out microscope in turn.

    Parameters
    ----------
    data : Path
        Folder with the BBBC038 images at any depth, and BBBC006 fields if any.
    limit : int, optional
        At most this many cases, spread evenly.

    Raises
    ------
    InputError
        If images are missing or none is large enough.
    """
    names = [entry.name for entry in load_split() if entry.side == "test"]
    images = [
        (name, "BBBC038", read_image(path)) for name, path in find_images(data, names).items()
    ]
    fields = sorted(data.rglob(BBBC006)) or sorted(data.parent.rglob(BBBC006))
    images += [(path.name, "BBBC006", read_image(path)) for path in fields]
    large = [item for item in images if min(item[2].shape) >= MIN_SIDE]
    if not large:
        raise InputError(f"{data} holds no test image of at least {MIN_SIDE} px")
    return [
        Case(name, group, _middle(flux_of(image)), HELD_OUT[i % len(HELD_OUT)])
        for i, (name, group, image) in enumerate(spread(large, limit))
    ]


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Select at most `limit` items, evenly from the first to the last."""
    count = len(items) if limit is None else min(limit, len(items))
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, count)]


def deep_cases(cases: Sequence[Case]) -> list[Case]:
    """Every third specimen again, with a depth that training never draws.

    Their structures lie in several layers, at most one of which is in focus; the truth is the
    frame with the middle layer in focus.
    """
    return [
        replace(case, setting=HELD_OUT_DEEP[i % len(HELD_OUT_DEEP)])
        for i, case in enumerate(cases[::DEEP_EVERY])
    ]


def channel_cases(channel: str, folder: Path) -> list[Case]:
    """Sharp images of another channel, each with one held-out microscope in turn.

    Parameters
    ----------
    channel : str
        Stained structure.
    folder : Path
        Folder of images; the caller must know that the network was not trained on them.

    Raises
    ------
    InputError
        If the folder holds no image that is large enough, or one cannot be read.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    images = [(path.name, read_image(path)) for path in paths]
    large = [(name, image) for name, image in images if min(image.shape) >= MIN_SIDE]
    if not large:
        raise InputError(
            f"{folder} holds no image of at least {MIN_SIDE} px: name the folder of the sharp "
            f"images of channel {channel}"
        )
    return [
        Case(name, folder.name, _middle(flux_of(image)), HELD_OUT[i % len(HELD_OUT)], channel)
        for i, (name, image) in enumerate(large)
    ]


def _middle(flux: NDArray[np.float32]) -> NDArray[np.float32]:
    top, left = (max(0, (side - MAX_SIDE) // 2) for side in flux.shape)
    return flux[top : top + MAX_SIDE, left : left + MAX_SIDE]


def scene_of(case: Case, defocus_um: float) -> Scene:
    """Simulate the frame of a case at a level; its noise depends only on these two."""
    seed = zlib.crc32(f"{case.specimen} {case.setting.name} {defocus_um}".encode())
    rng = np.random.default_rng(seed)
    return simulate_frame(case.flux, case.setting, Defocus(defocus_um), rng)
