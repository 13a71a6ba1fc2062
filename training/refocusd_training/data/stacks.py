"""Through-focus stacks of a user's own microscope: pairs with the sharpest plane of each field.

Every plane of a stack (one position, time and channel) is scored.  The in-focus plane is the
sharpest, and the focus is at the vertex of the parabola through it and its neighbours, from which defocus is
measured.  Unusable data are left out and counted: stacks that are too short, whose sharpest
plane is the first or the last, or in which no plane stands out, and planes that have drifted.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ome_zarr.store.groups import image_folders, store_root
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.refocused_name import SUFFIX
from refocusd.frame import AxisValue, Pixels
from refocusd.imaging.quality import best_focus, focus_score, register
from refocusd_training.data.config import DataConfig
from refocusd_training.data.pairs import Frames, Pair, PairSource
from refocusd_training.data.sides import sides_of
from refocusd_training.data.source import TOLD
from refocusd_training.data.split import Side
from refocusd_training.data.z_step import z_step_um

LEAST_PLANES = 3
#: Least score of the sharpest plane, in units of that of the least sharp one.
LEAST_CONTRAST = 1.25
#: Planes that have drifted further than this, px, are left out; smaller drifts are followed by the crop.
MOST_DRIFT_PX = 8.0
#: Largest drift that is searched, px, in the middle of the frame.
SEARCHED_PX = 32.0
REGISTERED_SIDE = 512
_TIFFS = frozenset({".tif", ".tiff", ".btf"})
#: The part of a file name that names the channel if each channel is a file: ``C1-`` in front (ImageJ),
#: ``_C1``, ``_w1`` and ``_w1DAPI`` (MetaMorph), ``_ch00``, ``_channel001``, or a common dye.  A well of
#: three characters, ``_C01``, is not a channel.
_CHANNEL_IN_NAME = re.compile(
    r"^c\d-|[_\-. ](?:c\d|w\d(?:[a-z][a-z\d]*)?)(?=[_\-. ]|$)|"
    r"(?:^|[_\-. ])(?:ch\d{1,3}|channel\d{1,3}|dapi|hoechst|e?[gyrcb]fp|mcherry|fitc|tritc|cy[357]|"
    r"(?:alexa|af)\d{3})(?=[_\-. ]|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Stack:
    """The planes of one field at one time in one channel.

    Parameters
    ----------
    recording : str
        Key of its recording in `Stacks`.
    field, channel : str
        A field is a position of a recording, at any time and in any channel.
    planes : tuple of int
        Indices of its frames in the recording, in order of z.
    best : int
        Index of the sharpest of these planes.
    focus : float
        Position of the focus, in planes.
    step_um : float
        Distance between two planes; NaN if it is not known.
    pixel_um : float or None
        Pixel size, if recorded.
    """

    recording: str
    field: str
    channel: str
    planes: tuple[int, ...]
    best: int
    focus: float
    step_um: float
    pixel_um: float | None = None

    def defocus_um(self, plane: int) -> float:
        """Distance of a plane from the focus, in um."""
        return (plane - self.focus) * self.step_um


@dataclass(slots=True)
class Stacks:
    """All usable stacks of a folder, and the recordings that they are read from."""

    recordings: dict[str, Dataset] = field(default_factory=dict)
    stacks: list[Stack] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, place: tuple[str, int]) -> Pixels:
        """Pixels of one frame; a recording is read by one thread at a time."""
        with self._lock:
            return _read(self.recordings[place[0]], place[1])

    def read_once(self, place: tuple[str, int]) -> Pixels:
        """Like `read`, but no file stays open, because nothing tells when training ends."""
        with self._lock:
            recording = self.recordings[place[0]]
            try:
                return _read(recording, place[1])
            finally:
                recording.close()

    def planes_of_channel(self, stack: Stack, channel: str) -> list[Pixels]:
        """The planes of another channel of the same position and time; empty if there is none."""
        axes = self.recordings[stack.recording].plan().axes

        def place(index: int) -> list[tuple[str, AxisValue]]:
            return sorted((name, at) for name, at in axes[index].items() if name != "channel")

        places = [place(plane) for plane in stack.planes]
        return [
            self.read((stack.recording, index))
            for index, one in enumerate(axes)
            if str(one.get("channel")) == channel and place(index) in places
        ]

    def skip(self, reason: str, problem: object = None) -> None:
        """Count data that are left out, by reason."""
        self.skipped[reason] += 1
        if problem is not None and len(self.problems) < TOLD:
            self.problems.append(str(problem))

    def close(self) -> None:
        """Close all recordings."""
        for recording in self.recordings.values():
            recording.close()


def focus_of(scores: Sequence[float]) -> tuple[int, float]:
    """The sharpest plane, and the position of the focus between planes.

    Parameters
    ----------
    scores : sequence of float
        `focus_score` of each plane.

    Returns
    -------
    (int, float)
        Index, and the vertex of the parabola through it and its neighbours, in planes; the index
        itself at an end.
    """
    best = best_focus(scores)
    if not 0 < best < len(scores) - 1:
        return best, float(best)
    below, top, above = scores[best - 1 : best + 2]
    curvature = below - 2 * top + above
    return best, best + (0.5 * (below - above) / curvature if curvature < 0 else 0.0)


def find_stacks(folder: Path, config: DataConfig, *, smallest: int = 0) -> Stacks:
    """Find and judge the stacks of a folder.

    Parameters
    ----------
    folder : Path
        A recording (NDTiff, OME-Zarr, files of single planes), or a folder of such, and of TIFF
        or OME-TIFF stacks.
    config : DataConfig
        `channels`, `z_axis` and `z_step_um` are used.
    smallest : int
        Stacks with a shorter side, px, are left out.

    Raises
    ------
    InputError
        If no stack can be used.
    """
    found = Stacks()
    for recording in _recordings(folder, found):
        key = str(len(found.recordings))
        found.recordings[key] = recording
        plan = recording.plan()
        if min(plan.format.height, plan.format.width) < smallest + 2 * math.ceil(MOST_DRIFT_PX):
            found.skip("recording with too small frames")
            recording.close()
            continue
        # A recording states its real path, even if it was reached through a link in the folder.
        where, root = recording.path, folder.resolve()
        place = where.relative_to(root).as_posix() if where.is_relative_to(root) else where.name
        for position, channel, planes in _grouped(recording, config.z_axis):
            # With one file per channel, the channels are one field and must be on one side.
            stack_field = f"{_CHANNEL_IN_NAME.sub('', place)} position {position}"
            if config.channels and channel not in config.channels:
                found.skip(f"stack of channel {channel!r}, which data.channels does not name")
                continue
            try:
                _judge(found, key, stack_field, channel, planes, config)
            except InputError as error:
                found.skip("stack that cannot be read", error)
        recording.close()
    if not found.stacks:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in found.skipped.items())
        found.close()
        raise InputError(
            f"{folder} has no through-focus stack that can be used "
            f"({reasons or 'no recording in it'}{'; ' if found.problems else ''}"
            f"{'; '.join(found.problems)}): give OME-TIFF, NDTiff or OME-Zarr stacks of at least "
            f"{LEAST_PLANES} planes with the focus inside"
        )
    return found


def _recordings(folder: Path, found: Stacks) -> Iterator[Dataset]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the one that holds the stacks")
    if images := image_folders(folder):
        for image in images.values():
            yield from _opened(image, found)
        return
    if (folder / "NDTiff.index").is_file():
        yield from _opened(folder, found)
        return
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [path for path in entries if path.is_file() and path.suffix.lower() in _TIFFS]
    stacks = [recording for path in files for recording in _opened(path, found)]
    if stacks and all(len(recording) == 1 for recording in stacks):
        # With one plane per file, the names tell position, channel and plane.
        for recording in stacks:
            recording.close()
        yield from _opened(folder, found)
    else:
        yield from stacks
    for entry in entries:
        if not entry.is_dir():
            continue
        if images := image_folders(entry):
            for image in images.values():
                yield from _opened(image, found)
        else:
            yield from _opened(entry, found)


def _read(recording: Dataset, index: int) -> Pixels:
    return recording.read(recording.plan().axes[index]).pixels


def _opened(path: Path, found: Stacks) -> Iterator[Dataset]:
    # A network must not learn from the results of a network.
    if SUFFIX in store_root(path).name:
        found.skip("recording that refocusd has written")
        return
    try:
        yield open_dataset(path)
    except InputError as error:
        found.skip("recording that cannot be read", error)


def _grouped(recording: Dataset, z_axis: str) -> Iterator[tuple[str, str, list[int]]]:
    """Position, channel and frames in order of z of each stack."""
    groups: dict[tuple[tuple[str, AxisValue], ...], list[tuple[int, int]]] = {}
    for index, axes in enumerate(recording.plan().axes):
        z = axes.get(z_axis)
        rest = tuple(sorted((name, value) for name, value in axes.items() if name != z_axis))
        groups.setdefault(rest, []).append((z if isinstance(z, int) else 0, index))
    for rest, frames in groups.items():
        at = dict(rest)
        yield (
            str(at.get("position", 0)),
            str(at.get("channel", "")),
            [index for _, index in sorted(frames)],
        )


def _judge(
    found: Stacks,
    key: str,
    name: str,
    channel: str,
    planes: Sequence[int],
    config: DataConfig,
) -> None:
    if len(planes) < LEAST_PLANES:
        found.skip(f"stack with fewer than {LEAST_PLANES} planes along {config.z_axis!r}")
        return
    scores = [focus_score(found.read((key, plane))) for plane in planes]
    best, focus = focus_of(scores)
    if not 0 < best < len(planes) - 1:
        found.skip("stack whose sharpest plane is at its end: the focus may lie outside")
        return
    if scores[best] < LEAST_CONTRAST * min(scores):
        found.skip("stack in which no plane stands out as sharp")
        return
    step = config.z_step_um or z_step_um(found.recordings[key], planes) or math.nan
    pixel_um = found.recordings[key].plan().pixel_um
    found.stacks.append(Stack(key, name, channel, tuple(planes), best, focus, step, pixel_um))


def pairs_of(found: Stacks, stack: Stack, defocus_um: tuple[float, float]) -> list[Pair]:
    """Pairs of the planes of a stack with its in-focus plane; those that drifted are left out."""
    truth = (stack.recording, stack.planes[stack.best])
    sharp = _middle(found.read(truth))
    pairs = []
    for number, plane in enumerate(stack.planes):
        um = stack.defocus_um(number)
        if number == stack.best or (
            math.isfinite(um) and not defocus_um[0] <= abs(um) <= defocus_um[1]
        ):
            continue
        raw = (stack.recording, plane)
        down, right = register(_middle(found.read(raw)), sharp, max_shift=SEARCHED_PX)
        if max(abs(down), abs(right)) > MOST_DRIFT_PX:
            found.skip(f"plane that drifted by more than {MOST_DRIFT_PX:g} px")
            continue
        shift = (round(down), round(right))
        pairs.append(Pair(stack.field, stack.channel, um, raw, truth, shift))
    return pairs


def _middle(pixels: Pixels) -> Pixels:
    top, left = (max(0, (side - REGISTERED_SIDE) // 2) for side in pixels.shape)
    return pixels[top : top + REGISTERED_SIDE, left : left + REGISTERED_SIDE]


def open_stacks(
    config: DataConfig, folder: Path, *, size: int, batch: int, seed: int
) -> PairSource:
    """Training and validation pairs of a folder of stacks.

    Raises
    ------
    InputError
        If there is nothing to train on.
    """
    found = find_stacks(folder, config, smallest=size)
    sides = sides_of(
        {stack.field for stack in found.stacks},
        seed=config.split_seed,
        validate=config.validate,
        test=config.test,
    )
    pairs: dict[Side, list[Pair]] = {"train": [], "validate": [], "test": []}
    for stack in found.stacks:
        # Fields of the test side are not read.
        if sides[stack.field] != "test":
            pairs[sides[stack.field]] += pairs_of(found, stack, config.defocus_um)
            found.recordings[stack.recording].close()
    return PairSource(
        pairs["train"],
        pairs["validate"],
        Frames(found.read_once),
        {
            "kind": "stacks",
            "data": "through-focus stacks",
            "stacks": len(found.stacks),
            "fields": {
                side: sorted(name for name in sides if sides[name] == side) for side in pairs
            },
            "pairs": {side: len(pairs[side]) for side in ("train", "validate")},
            "channels": sorted({stack.channel for stack in found.stacks if stack.channel}),
            "step_um": sorted({s.step_um for s in found.stacks if math.isfinite(s.step_um)}),
            "stacks_without_step": sum(math.isnan(stack.step_um) for stack in found.stacks),
            "split": f"by field, seed {config.split_seed}",
            "skipped": dict(found.skipped),
            "problems": found.problems,
        },
        size=size,
        batch=batch,
        seed=seed,
        validation_seed=config.split_seed,
        validation_batches=config.validation_batches,
    )
