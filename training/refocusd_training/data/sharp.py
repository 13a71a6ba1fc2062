"""Sharp images of one or several channels, defocused while the network trains."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd_training.data.config import DataConfig
from refocusd_training.data.images import SUFFIXES, find_images, read_image
from refocusd_training.data.samples import Batch, Exposure, SampleStream
from refocusd_training.data.sides import TEST_WELLS, side_of, sides_of
from refocusd_training.data.source import TOLD
from refocusd_training.data.split import Side, load_split, make_split, split_digest, unusable
from refocusd_training.simulate.ranges import Ranges
from refocusd_training.simulate.specimen import flux_of

#: With more images of one channel than this, near-duplicates are not searched, which would take minutes.
MOST_COMPARED = 400
#: A well in the name of a BBBC006 field: ``..._a02_s1_...``, ``...__a02__s1__...``.
_WELL = re.compile(r"_(?P<well>[a-p]\d\d)_{1,2}s\d", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Specimen:
    """The light of one sharp image.

    Parameters
    ----------
    name, channel : str
    side : str
        ``train``, ``validate`` or ``test``.
    flux : ndarray of float32, shape (height, width)
    """

    name: str
    channel: str
    side: Side
    flux: NDArray[np.float32]


@dataclass(slots=True)
class _Found:
    wells: Mapping[str, Side]
    #: Sides of images that are neither in the shipped split nor from a plate, by name: images of all
    #: channels with one name are one field.
    settled: dict[str, Side] = field(default_factory=dict)
    specimens: list[Specimen] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)


def specimens_of(data: Path, side: Side) -> dict[str, NDArray[np.float32]]:
    """Flux of every BBBC038 image of one side of the shipped split, by name.

    Raises
    ------
    InputError
        If images are missing.
    """
    names = [entry.name for entry in load_split() if entry.side == side]
    return {name: flux_of(read_image(path)) for name, path in find_images(data, names).items()}


class SharpSource:
    """Simulated batches of sharp images; see `SampleSource`.

    Parameters
    ----------
    config : DataConfig
    specimens : sequence of Specimen
        At least one must be on the training side.
    description : mapping
        Description of the data.
    seed : int
        Seed of training; validation uses the seed of the split.
    stream : callable
        `SampleStream` with all arguments that are the same for training and validation.
    """

    def __init__(
        self,
        config: DataConfig,
        specimens: Sequence[Specimen],
        description: Mapping[str, object],
        seed: int,
        stream: Callable[..., SampleStream],
    ) -> None:
        self._config = config
        self._specimens = {
            side: [specimen for specimen in specimens if specimen.side == side]
            for side in ("train", "validate")
        }
        self._description = dict(description)
        self._seed, self._open_stream = seed, stream

    @property
    def description(self) -> dict[str, object]:
        """Describe the data: images, split, channels and what was skipped."""
        return self._description

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield the batches of step `first` and all later ones, without end."""
        return self._stream("train", self._config.bank, self._seed).batches(first)

    def exposures(self, first: int) -> Iterator[tuple[list[Exposure], NDArray[np.float32]]]:
        """Yield exposures from step `first` on; see `ExposureSource`."""
        return self._stream("train", self._config.bank, self._seed).exposures(first)

    def validation(self) -> list[Batch]:
        """Fixed batches of the validation side; none if it is empty."""
        if not self._specimens["validate"]:
            return []
        count = self._config.validation_batches
        stream = self._stream("validate", 2 * count, self._config.split_seed + (1 << 32))
        return list(itertools.islice(stream.batches(0), count))

    def _stream(self, side: str, bank: int, seed: int) -> SampleStream:
        specimens = self._specimens[side]
        names = sorted({specimen.channel for specimen in specimens})
        return self._open_stream(
            [specimen.flux for specimen in specimens],
            bank=bank,
            seed=seed,
            channels=[names.index(s.channel) for s in specimens] if len(names) > 1 else None,
        )


def open_sharp(
    config: DataConfig, folder: Path, *, size: int, batch: int, seed: int, ranges: Ranges
) -> SharpSource:
    """Read the sharp images that a configuration names.

    Raises
    ------
    InputError
        If a folder is missing, or has no image to train on.
    """
    places = {
        name: folder / place
        for name, _, place in (channel.partition("=") for channel in config.channels)
    }
    found = _Found(_sides_of_wells(config, places.values()))
    if not config.channels:
        for entry in load_split():
            if entry.side == "excluded":
                found.skipped[entry.reason] += 1
        for side in ("train", "validate"):
            found.specimens += [
                Specimen(name, "DNA", side, flux)
                for name, flux in specimens_of(folder, side).items()
            ]
        found.split.append("the shipped split")
    for name, place in places.items():
        _read_channel(config, name, place, found)
    if not any(specimen.side == "train" for specimen in found.specimens):
        skipped = ", ".join(f"{count} {reason}" for reason, count in found.skipped.items())
        raise InputError(
            f"{folder} holds no sharp image to train on ({skipped or 'none found'}): give more "
            "images, or smaller shares for validation and test"
        )
    stream = partial(
        SampleStream,
        size=size,
        batch=batch,
        ranges=ranges,
        layers=config.layers,
        depth_um=config.depth_um,
    )
    return SharpSource(config, found.specimens, _described(config, found), seed, stream)


def _described(config: DataConfig, found: _Found) -> dict[str, object]:
    channels = sorted({specimen.channel for specimen in found.specimens})
    return {
        "kind": "sharp",
        "data": "BBBC038v1 (CC0), fluorescence images"
        if not config.channels
        else "sharp images, put out of focus by the simulator",
        "images": {
            channel: dict(Counter(s.side for s in found.specimens if s.channel == channel))
            for channel in channels
        },
        "channels": channels,
        "split": sorted(set(found.split)),
        "split_sha256": split_digest(),
        "skipped": dict(found.skipped),
        "problems": found.problems[:TOLD],
        "layers": config.layers,
    }


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)


def _sides_of_wells(config: DataConfig, folders: Iterable[Path]) -> dict[str, Side]:
    """Sides of the wells of all channels, because a well shows the same cells in each channel."""
    hits = (_WELL.search(path.name) for folder in folders for path in _images_in(folder))
    wells = {hit["well"].lower() for hit in hits if hit} - TEST_WELLS
    sides = sides_of(wells, seed=config.split_seed, validate=config.validate, test=config.test)
    return {**sides, **dict.fromkeys(TEST_WELLS, "test")}


def _read_channel(config: DataConfig, channel: str, folder: Path, found: _Found) -> None:
    """Read one folder; the shipped split, the well or similarity determines the side of an image."""
    if not folder.is_dir():
        raise InputError(f"{folder} of channel {channel} is not a folder: correct data.channels")
    images: dict[str, NDArray[np.generic]] = {}
    for path in _images_in(folder):
        try:
            images[path.relative_to(folder).as_posix()] = read_image(path)
        except InputError as error:
            found.skipped["unreadable, or no grey image"] += 1
            found.problems.append(str(error))
    if not images:
        raise InputError(f"{folder} of channel {channel} has no grey PNG or TIFF: correct the path")
    shipped = {entry.name: entry for entry in load_split()}
    known = {name: entry for name in images if (entry := shipped.get(Path(name).name))}
    wells = {name: hit["well"].lower() for name in images if (hit := _WELL.search(name))}
    others = {name: image for name, image in images.items() if name not in {**known, **wells}}
    sides: dict[str, Side] = {name: entry.side for name, entry in known.items()}
    sides |= {name: found.wells[well] for name, well in wells.items()}
    if known:
        found.split.append("the shipped split")
    if wells:
        found.split.append("by well")
    if others:
        sides |= _sides_of_others(config, others, found)
    for name, image in images.items():
        reason = known[name].reason if name in known else unusable(image)
        if reason or sides[name] == "excluded":
            found.skipped[reason or "shows what another side shows"] += 1
        elif sides[name] != "test":
            found.specimens.append(Specimen(name, channel, sides[name], flux_of(image)))


def _sides_of_others(
    config: DataConfig, images: Mapping[str, NDArray[np.generic]], found: _Found
) -> dict[str, Side]:
    if len(images) > MOST_COMPARED:
        found.split.append("by name: too many images to search for near-duplicates")
        sides = {
            name: side_of(name, seed=config.split_seed, validate=config.validate, test=config.test)
            for name in images
        }
        return {**sides, **{name: found.settled[name] for name in sides if name in found.settled}}
    found.split.append("by near-duplicates")
    entries = make_split(
        images,
        [],
        seed=config.split_seed,
        settled=found.settled,
        test=config.test,
        validate=config.validate,
    )
    found.settled |= {entry.name: entry.side for entry in entries if entry.side != "excluded"}
    return {entry.name: entry.side for entry in entries}
