"""The folder of calibration profiles, and the choice of the profile closest to a frame."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.profiles.microscope_metadata import (
    binning_of,
    camera_of,
    objective_of,
    pixel_um_of,
)
from refocusd.profiles.profile import Profile, load_profile

log = logging.getLogger(__name__)

#: Most profiles read from a folder; one per objective and channel makes a few dozen.
MAX_PROFILES = 512
#: Channels (and cameras) of one acquisition whose profile is cached.
MAX_PICKS = 256
#: Subfolder for the profiles that refocusd measured by itself: <acquisition>-<id>.json.
LEARNED = "learned"
#: How long they apply to other acquisitions: the next day's specimen has its focus at another stage position.
LEARNED_S = 24 * 3600
#: Pixel sizes of one objective agree within this fraction.
_SAME_PIXEL = 0.01
#: Stands for a channel that no profile names.
_ANOTHER = "\0"


@dataclass(frozen=True, slots=True)
class Match:
    """The profile of a frame, if there is one.

    Parameters
    ----------
    profile : Profile or None
    reasons : tuple of str
        What the user should know about the choice, in sentences.
    """

    profile: Profile | None
    reasons: tuple[str, ...] = ()


def selection_id(profiles: Iterable[str]) -> str | None:
    """Content key of a set of profiles, by their ids; None if the set is empty."""
    ids = sorted(set(profiles))
    if not ids:
        return None
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Selection:
    """The profiles that apply to one acquisition, for all its channels.

    Parameters
    ----------
    profiles : tuple of Profile
    metadata : mapping
        Of the acquisition's first frame.
    frame_shape : (height, width) or None
        Decides if several profiles are equally close by the metadata.
    """

    profiles: tuple[Profile, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    frame_shape: tuple[int, int] | None = None
    _picks: dict[tuple[str, str, bool], Profile | None] = field(default_factory=dict, repr=False)

    @property
    def ids(self) -> list[str]:
        """Ids of the profiles, sorted."""
        return sorted(profile.id() for profile in self.profiles)

    def of(self, channel: str = "", camera: str = "", *, psf: bool = False) -> Profile | None:
        """The profile of a frame; give `camera` if it is not that of the first frame.

        With `psf`, the profile that gives the frame's PSF: if the closest profile has none, one that
        refocusd measured by itself.
        """
        if not self.profiles:
            return None
        asked = (channel, camera, psf)
        if asked not in self._picks:
            if len(self._picks) >= MAX_PICKS:
                self._picks.clear()
            said = {**self.metadata, "Camera": camera} if camera else self.metadata
            found = _closest(self.profiles, said, channel, self.frame_shape).profile
            if psf and found is not None and found.psf is None:
                learned = [profile for profile in self.profiles if profile.learned]
                found = _closest(learned, said, channel, self.frame_shape).profile or found
            self._picks[asked] = found
        return self._picks[asked]


class Catalogue:
    """The profiles (``*.json``) of a folder; they are read again when they change.

    A profile matches a frame unless a field differs. A field that is empty in the profile
    matches anything, and so does a field that the frame does not state, except the
    camera's label. Of several profiles the closest is chosen; a field that both state
    counts most. Of two profiles of one microscope the newer is chosen.

    Parameters
    ----------
    folder : path
        It need not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._read: dict[Path, tuple[tuple[int, int], Profile | None]] = {}

    def profiles(self) -> list[Profile]:
        """All usable profiles in the folder now; an invalid file is named in the log once."""
        try:
            paths = sorted(self.folder.glob("*.json"))
        except OSError as error:
            log.warning("the calibration profiles in %s cannot be read: %s", self.folder, error)
            return []
        if len(paths) > MAX_PROFILES:
            log.warning(
                "%s holds %d profiles: the first %d count", self.folder, len(paths), MAX_PROFILES
            )
        read: dict[Path, tuple[tuple[int, int], Profile | None]] = {}
        for path in paths[:MAX_PROFILES]:
            try:
                about = path.stat()
            except OSError:
                continue  # it was just removed
            state = (about.st_mtime_ns, about.st_size)
            known = self._read.get(path)
            read[path] = known if known and known[0] == state else (state, _load(path))
        self._read = read
        return [profile for _, profile in read.values() if profile is not None]

    def learned_on(self, acquisition: str) -> list[Profile]:
        """Profiles that refocusd measured by itself on the frames of an acquisition."""
        return self._learned(f"{glob.escape(acquisition)}-*.json")

    def learned_lately(self, metadata: Mapping[str, Any]) -> list[Profile]:
        """Profiles that refocusd measured by itself on other acquisitions of a microscope, within a day."""
        camera, pixel_um = camera_of(metadata), pixel_um_of(metadata)
        if not camera or pixel_um is None:
            return []
        return [
            profile
            for profile in self._learned("*.json", time.time() - LEARNED_S)
            if profile.learned
            and profile.learned.elsewhere
            # Without the objective's label, the size of a pixel tells objectives apart.
            and abs((profile.microscope.pixel_um or 0) / pixel_um - 1) <= _SAME_PIXEL
        ]

    def not_learned(self, ids: Iterable[str]) -> set[str]:
        """Those of these profiles that a person measured, as far as is known."""
        folder = self.folder / LEARNED
        return {key for key in ids if not any(folder.glob(f"*-{glob.escape(key)}.json"))}

    def _learned(self, pattern: str, since_s: float = 0.0) -> list[Profile]:
        found = []
        for path in sorted((self.folder / LEARNED).glob(pattern)):
            with suppress(FileNotFoundError):  # it was just removed
                if path.stat().st_mtime >= since_s and (profile := _load(path)):
                    found.append(profile)
        return found

    def choose(
        self,
        metadata: Mapping[str, Any],
        frame_shape: tuple[int, int] | None = None,
        *,
        learned: Sequence[Profile] = (),
    ) -> tuple[Selection, tuple[str, ...]]:
        """The profiles that apply to an acquisition, and messages about the choice.

        Parameters
        ----------
        metadata : mapping
            Of its first frame. Its channel is ignored, because others may follow.
        frame_shape : (height, width), optional
        learned : sequence of Profile
            Profiles that refocusd measured by itself, for channels whose PSF no other profile gives.
        """
        profiles = self.profiles()
        channels = {p.microscope.channel for p in (*profiles, *learned)} | {"", _ANOTHER}
        chosen: dict[str, Profile] = {}
        reasons: dict[str, None] = {}
        for channel in sorted(channels):
            match = _closest(profiles, metadata, channel, frame_shape)
            itself = Match(None)
            if match == itself or (match.profile is not None and match.profile.psf is None):
                itself = _closest(learned, metadata, channel, frame_shape)
            if channel or not metadata.get("Channel"):
                reasons.update(dict.fromkeys(match.reasons + itself.reasons))
            for profile in (match.profile, itself.profile):
                if profile is not None:
                    chosen[profile.id()] = profile
        ordered = tuple(chosen[key] for key in sorted(chosen))
        return Selection(ordered, dict(metadata), frame_shape), tuple(reasons)

    def named(
        self,
        ids: Sequence[str],
        metadata: Mapping[str, Any],
        frame_shape: tuple[int, int] | None = None,
    ) -> Selection:
        """The profiles with these ids, with which an acquisition was started.

        Raises
        ------
        InputError
            If one does not exist (any more), or was changed.
        """
        wanted = set(ids)
        there = {p.id(): p for p in self.profiles()} if wanted else {}
        for key in wanted - set(there):
            there |= {p.id(): p for p in self._learned(f"*-{glob.escape(key)}.json")}
        if missing := sorted(wanted - set(there)):
            raise InputError(
                f"the run was started with calibration profile {', '.join(missing)}, which is not in "
                f"{self.folder} (any more, or it was changed): put that file back, or name its folder "
                "with --calibrations"
            )
        ordered = tuple(there[key] for key in sorted(wanted))
        return Selection(ordered, dict(metadata), frame_shape)


def _load(path: Path) -> Profile | None:
    try:
        return load_profile(path)
    except InputError as error:
        log.warning("left out: %s", error)
        return None


def _score(profile: Profile, metadata: Mapping[str, Any], channel: str) -> tuple[int, ...] | None:
    """How close a profile is, the sum first; None if a field differs."""
    microscope, binning = profile.microscope, binning_of(metadata)
    if profile.learned:
        # Nobody chose it, so a value that is unknown does not match one that is known.
        own = (microscope.camera, microscope.objective, microscope.binning, microscope.channel)
        said = (camera_of(metadata), objective_of(metadata), binning or 1, channel)
        return (0,) if own == said else None
    fields = (
        (microscope.camera, camera_of(metadata)),
        (microscope.objective, objective_of(metadata)),
        (str(microscope.binning), "" if binning is None else str(binning)),
        (microscope.channel, channel),
    )
    points = []
    for number, (named, stated) in enumerate(fields):
        if not named:
            points.append(1)
        elif named == stated:
            points.append(2)
        elif stated or number == 0:
            # Hot pixels belong to one camera, so frames that do not name theirs do not match.
            return None
        else:
            points.append(0)
    return (sum(points), *points)


def _closest(
    profiles: Iterable[Profile],
    metadata: Mapping[str, Any],
    channel: str,
    frame_shape: tuple[int, int] | None,
) -> Match:
    scored = [
        (score, profile)
        for profile in profiles
        if (score := _score(profile, metadata, channel)) is not None
    ]
    scored.sort(key=lambda pair: pair[0], reverse=True)
    reasons: list[str] = []
    for _, group in groupby(scored, key=lambda pair: pair[0]):
        alike = [profile for _, profile in group]
        if len({_who(p) for p in alike}) > 1:
            alike = [p for p in alike if p.camera is not None and p.camera.shape == frame_shape]
        who = {_who(p) for p in alike}
        if len(who) == 1:
            # Newest first; the id makes the order reproducible.
            profile = max(alike, key=lambda p: (p.created, p.id()))
            return Match(profile, (*reasons, *_trusted(profile, metadata)))
        named = ", ".join(sorted(_name(p) for _, p in scored))
        reasons.append(
            f"the frames do not say which calibration profile is theirs ({named}): none of these is "
            "used; record the objective's label and the binning in the metadata"
        )
    return Match(None, tuple(reasons))


def _who(profile: Profile) -> tuple[str, str, int, str]:
    microscope = profile.microscope
    return (microscope.camera, microscope.objective, microscope.binning, microscope.channel)


def _name(profile: Profile) -> str:
    camera, objective, binning, channel = _who(profile)
    said = [camera, objective, f"binning {binning}", channel]
    return f"{profile.id()}: {' '.join(part for part in said if part)}"


def _trusted(profile: Profile, metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that the frames do not state, so that the profile's values are used."""
    wanted = profile.microscope.objective
    if not wanted or objective_of(metadata):
        return ()
    reason = (
        f"the frames do not name their objective: calibration profile {profile.id()} (of {wanted}) is "
        "assumed to fit"
    )
    return (reason,)
