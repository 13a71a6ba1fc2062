"""Plates of BBBC006: real pairs of an out-of-focus plane and plane 16.

BBBC006 version 1 (Ljosa et al., Nature Methods 9, 637, 2012; CC0): 384 wells, 2 sites, 34 planes
2 um apart, Hoechst (w1) and phalloidin (w2), 16-bit files of 520x696 px.  The names of one field
differ between planes only in the part after the channel, so that well, site and channel identify a pair.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from refocusd.errors import InputError
from refocusd.formats.tiff.reader import TiffImageFile
from refocusd.frame import Pixels
from refocusd_training.data.config import DataConfig
from refocusd_training.data.pairs import Frames, Pair, PairSource
from refocusd_training.data.sides import TEST_WELLS, sides_of
from refocusd_training.data.split import Side

#: A published file name; a plane may stand in front of it.
FILE_NAME = re.compile(
    r"(?:(?P<plane>\d\d)_)?mcf-z-stacks-03212011_(?P<well>[a-p]\d\d)_s(?P<site>\d)_w(?P<channel>\d)"
    r"[0-9a-f-]*\.tiff?",
    re.IGNORECASE,
)
#: A folder that names its plane: ``BBBC006_v1_images_z_05``, ``z_05``, ``z05``.
_FOLDER = re.compile(r"(?:.*[_-])?z_?(\d\d)", re.IGNORECASE)
STEP_UM = 2.0
PIXEL_UM = 0.645
CHANNELS = ("w1", "w2")
#: A larger file is not a BBBC006 field.
MOST_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Field:
    """One site of one well in one channel.

    Parameters
    ----------
    well, site, channel : str
        ``a02``, ``s1``, ``w1``.
    side : str
        Side of the well: ``train``, ``validate`` or ``test``.
    planes : tuple of (int, Path)
        Usable files by plane, in order.
    """

    well: str
    site: str
    channel: str
    side: Side
    planes: tuple[tuple[int, Path], ...]

    @property
    def name(self) -> str:
        """``a02 s1 w1``."""
        return f"{self.well} {self.site} {self.channel}"


@dataclass(frozen=True, slots=True)
class Plate:
    """The usable fields of a plate, and the number of those left out.

    Parameters
    ----------
    fields : tuple of Field
        Sorted by name.
    focus_plane : int
    skipped : dict of str to int
        Reason to number of files or fields.
    """

    fields: tuple[Field, ...]
    focus_plane: int
    skipped: dict[str, int]

    def pairs(self, side: Side, planes: Sequence[int]) -> list[Pair]:
        """Pairs of these planes with the one in focus, of the wells of one side."""
        found = []
        for field in self.fields:
            paths = dict(field.planes)
            if field.side != side:
                continue
            found += [
                Pair(
                    field.name,
                    field.channel,
                    plane_defocus_um(plane, self.focus_plane),
                    (os.fspath(paths[plane]), 0),
                    (os.fspath(paths[self.focus_plane]), 0),
                )
                for plane in planes
                if plane in paths
            ]
        return found


def plane_defocus_um(plane: int, focus_plane: int = 16) -> float:
    """Distance of a plane from the one in focus, in um; planes below it are negative."""
    return STEP_UM * (plane - focus_plane)


def read_plane(path: str | Path) -> Pixels:
    """Pixels of one field at one plane, shape (520, 696).

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    with closing(TiffImageFile(Path(path), MOST_BYTES)) as image:
        return image.read(0)


def open_plate(
    folder: Path,
    *,
    planes: Sequence[int],
    focus_plane: int = 16,
    channels: Sequence[str] = (),
    smallest: int = 0,
    seed: int = 0,
    validate: float = 0.1,
    test: float = 0.1,
) -> Plate:
    """Find the usable fields of a plate on disk.

    Parameters
    ----------
    folder : Path
        Holds, at any depth, files with the published names; the plane is a number in front of
        the name (``05_mcf-...``) or in the name of a folder above (``BBBC006_v1_images_z_05``).
    planes : sequence of int
        Planes out of focus.  A field is used with those that it has.
    focus_plane : int
    channels : sequence of str
        ``w1``, ``w2``; empty: those that exist.
    smallest : int
        Frames with a shorter side, px, are left out.
    seed : int
    validate, test : float
        Shares of the wells; see `sides_of`.  The wells `TEST_WELLS` are always on the test side.

    Raises
    ------
    InputError
        If no field has both a plane of `planes` and the one in focus.
    """
    if unknown := sorted(set(channels) - set(CHANNELS)):
        raise InputError(f"BBBC006 has the channels w1 and w2, not {unknown[0]}")
    skipped: Counter[str] = Counter()
    wanted = {*planes, focus_plane}
    found: dict[tuple[str, str, str], dict[int, Path]] = {}
    for path, plane, key in _named(folder, skipped):
        if plane not in wanted or (channels and key[2] not in channels):
            continue
        if plane in found.setdefault(key, {}):
            skipped["file of a field and plane that is there already"] += 1
            continue
        found[key][plane] = path
    shape = _check_files(found, smallest, skipped)
    paired = {}
    for key, paths in sorted(found.items()):
        if focus_plane not in paths:
            skipped[f"field without plane {focus_plane}"] += 1
        elif not set(paths) & set(planes):
            skipped["field without a plane out of focus"] += 1
        else:
            paired[key] = paths
            if missing := len(set(planes) - set(paths)):
                skipped["plane of a field that is used without it"] += missing
    if not paired:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in skipped.items())
        wanted_text = ", ".join(map(str, sorted(wanted)))
        raise InputError(
            f"{folder} has no BBBC006 field with plane {focus_plane} and one of {sorted(planes)} "
            f"({reasons or 'no file with a published name'}): download them with 'refocusd train "
            f"fetch-bbbc006 --planes {wanted_text.replace(',', '')}'"
        )
    wells = {well for well, _, _ in paired}
    sides = sides_of(wells - TEST_WELLS, seed=seed, validate=validate, test=test)
    sides |= dict.fromkeys(wells & TEST_WELLS, "test")
    fields = tuple(
        Field(well, site, channel, sides[well], tuple(sorted(paths.items())))
        for (well, site, channel), paths in paired.items()
    )
    assert shape is not None
    return Plate(fields, focus_plane, dict(skipped))


def _named(folder: Path, skipped: Counter[str]) -> Iterator[tuple[Path, int, tuple[str, str, str]]]:
    """Files with a published name, as path, plane, (well, site, channel)."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder: give the one that holds the plate, or download it with "
            "'refocusd train fetch-bbbc006'"
        )
    for path in sorted(folder.rglob("*")):
        hit = FILE_NAME.fullmatch(path.name)
        if not hit or "__MACOSX" in path.parts:
            continue
        plane = hit["plane"]
        for parent in path.relative_to(folder.parent).parents:
            if plane is None and (named := _FOLDER.fullmatch(parent.name)):
                plane = named[1]
        if plane is None:
            skipped["file without a plane in its name or in its folders' names"] += 1
            continue
        key = (hit["well"].lower(), f"s{hit['site']}", f"w{hit['channel']}")
        yield path, int(plane), key


def _check_files(
    found: dict[tuple[str, str, str], dict[int, Path]], smallest: int, skipped: Counter[str]
) -> tuple[int, int] | None:
    """Remove files that are damaged, too small, or of another size than most."""
    shapes: dict[Path, tuple[int, int]] = {}
    for paths in found.values():
        for plane, path in list(paths.items()):
            try:
                image = TiffImageFile(path, MOST_BYTES)
            except InputError:
                skipped["damaged file"] += 1
                del paths[plane]
                continue
            shapes[path] = (image.format.height, image.format.width)
            if len(image.axes) != 1:
                skipped["file with several pages"] += 1
                del paths[plane]
            elif min(shapes[path]) < smallest:
                skipped[f"file smaller than {smallest} px"] += 1
                del paths[plane]
    left = Counter(shapes[path] for paths in found.values() for path in paths.values())
    if not left:
        return None
    shape = left.most_common(1)[0][0]
    for paths in found.values():
        for plane, path in list(paths.items()):
            if shapes[path] != shape:
                skipped[f"file of another size than {shape[1]}x{shape[0]} px"] += 1
                del paths[plane]
    return shape


def open_bbbc006(
    config: DataConfig, folder: Path, *, size: int, batch: int, seed: int
) -> PairSource:
    """Training and validation pairs of a plate.

    Raises
    ------
    InputError
        If there is nothing to train on.
    """
    plate = open_plate(
        folder,
        planes=config.planes,
        focus_plane=config.focus_plane,
        channels=config.channels,
        smallest=size,
        seed=config.split_seed,
        validate=config.validate,
        test=config.test,
    )
    return PairSource(
        plate.pairs("train", config.planes),
        plate.pairs("validate", config.planes),
        Frames(lambda place: read_plane(place[0])),
        _described(config, plate),
        size=size,
        batch=batch,
        seed=seed,
        validation_seed=config.split_seed,
        validation_batches=max(config.validation_batches, len(config.planes)),
    )


def _described(config: DataConfig, plate: Plate) -> dict[str, object]:
    sides: tuple[Side, ...] = ("train", "validate", "test")
    return {
        "kind": "bbbc006",
        "data": "BBBC006v1 (CC0; Ljosa et al., Nature Methods 9, 637, 2012)",
        "fields": {side: sum(field.side == side for field in plate.fields) for side in sides},
        "wells": {
            side: sorted({field.well for field in plate.fields if field.side == side})
            for side in sides
        },
        "channels": sorted({field.channel for field in plate.fields}),
        "split": f"by well, seed {config.split_seed}",
        "split_seed": config.split_seed,
        "validate": config.validate,
        "test": config.test,
        "planes": list(config.planes),
        "focus_plane": plate.focus_plane,
        "test_planes": list(config.test_planes),
        "skipped": plate.skipped,
    }
