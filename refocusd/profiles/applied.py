"""The calibration profiles that apply to one acquisition, and warnings about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from refocusd.profiles.catalogue import Catalogue, Selection, selection_id
from refocusd.profiles.conformity import (
    Trained,
    against_profile,
    against_training,
    stale,
    unchecked,
)
from refocusd.profiles.hot_pixels import hot_indices
from refocusd.profiles.microscope_metadata import camera_of, identity_metadata, roi_of
from refocusd.profiles.profile import Profile

#: Regions of the chip whose hot-pixel lists are cached; an acquisition has fewer.
MAX_LISTS = 64


@dataclass(frozen=True, slots=True)
class FrameCalibration:
    """The part of a frame's profile that a worker needs.

    Parameters
    ----------
    key : str
        Identifies profile and region of the chip.
    profile : str
        The profile's id.
    hot_pixels : tuple of int
        ``y * width + x`` in the frame, hottest first.
    """

    key: str
    profile: str
    hot_pixels: tuple[int, ...] = ()


class _FrameMetadata(msgspec.Struct):
    """The fields that are read for every frame; the decoder skips all others quickly."""

    camera: Any = msgspec.field(default=None, name="Camera")
    core_camera: Any = msgspec.field(default=None, name="Core-Camera")
    roi: Any = msgspec.field(default=None, name="ROI")
    channel: Any = msgspec.field(default=None, name="Channel")


def _frame_metadata(metadata: str) -> _FrameMetadata:
    try:
        return msgspec.json.decode(metadata or "{}", type=_FrameMetadata)
    except (msgspec.MsgspecError, ValueError):
        pass
    try:
        # Python writes NaN and Infinity, which are not valid JSON.
        fields = json.loads(metadata)
        names = ("Camera", "Core-Camera", "ROI", "Channel")
        return _FrameMetadata(*(fields.get(name) for name in names))
    except (ValueError, AttributeError, RecursionError):
        return _FrameMetadata()  # without metadata, those of the first frame are used


def channel_name(axes: str, metadata: str) -> str:
    """Name of a frame's channel, as its axes or metadata give it; empty if it has none.

    Parameters
    ----------
    axes, metadata : str
        JSON, of the frame.
    """
    channel = json.loads(axes).get("channel", "")
    if not isinstance(channel, str):
        # The GUI of Micro-Manager numbers channels; the metadata name them.
        channel = _frame_metadata(metadata).channel or channel
    return str(channel or "")


@dataclass(frozen=True, slots=True)
class Applied:
    """The profiles of an acquisition; empty if none applies.

    Parameters
    ----------
    selection : Selection
    warnings : tuple of str
        Where acquisition, profiles and model disagree.
    notes : tuple of str
        Messages for the log.
    """

    selection: Selection = field(default_factory=Selection)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    _lists: dict[str, FrameCalibration] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str | None:
        """Content key of the set of profiles; None if there are none."""
        return selection_id(self.selection.ids)

    def of_frame(self, axes: str, metadata: str, shape: tuple[int, int]) -> FrameCalibration | None:
        """Calibration of a frame, for a worker; None if no profile applies.

        Parameters
        ----------
        axes, metadata : str
            JSON, of the frame.
        shape : (height, width)
        """
        profile = self.profile_of(axes, metadata)
        if profile is None:
            return None
        roi = roi_of({"ROI": _frame_metadata(metadata).roi}) or roi_of(self.selection.metadata)
        return self._listed(profile, roi, shape)

    def profile_of(self, axes: str, metadata: str, *, psf: bool = False) -> Profile | None:
        """The profile of a frame, or (`psf`) the one that gives its PSF; None if none applies.

        Parameters
        ----------
        axes, metadata : str
            JSON, of the frame.
        psf : bool
            As in `Selection.of`.
        """
        if not self.selection.profiles:
            return None
        frame, first = _frame_metadata(metadata), self.selection.metadata
        camera = str(frame.camera or frame.core_camera or "")
        return self.selection.of(
            channel_name(axes, metadata) or str(first.get("Channel") or ""),
            "" if camera == camera_of(first) else camera,
            psf=psf,
        )

    def _listed(
        self, profile: Profile, roi: tuple[int, int, int, int] | None, shape: tuple[int, int]
    ) -> FrameCalibration:
        name = f"{profile.id()}@{roi}"
        found = self._lists.get(name)
        if found is None:
            camera = profile.camera
            hot = hot_indices(camera.hot_pixels, camera.shape, shape, roi) if camera else None
            key = f"{profile.id()}@{roi[0]},{roi[1]}" if roi else profile.id()
            # The frames of two acquisitions may differ in shape.
            key = f"{key}/{shape[1]}x{shape[0]}"
            if len(self._lists) >= MAX_LISTS:
                self._lists.clear()
            found = self._lists[name] = FrameCalibration(key, profile.id(), tuple(hot or ()))
        return found


def apply_profiles(
    catalogue: Catalogue,
    first: Mapping[str, Any],
    shape: tuple[int, int],
    *,
    named: Sequence[str] | None = None,
    trained: Mapping[str, Trained] | None = None,
    learned: Sequence[Profile] = (),
) -> Applied:
    """Choose the profiles of an acquisition, and compare them with it and with the model.

    Parameters
    ----------
    catalogue : Catalogue
    first : mapping
        Metadata of its first frame.
    shape : (height, width)
    named : sequence of str, optional
        Ids of the profiles that it was started with; by default they are chosen now.
    trained : mapping of str to Trained, optional
        What the models were trained for, by channel; "" stands for all other channels.
    learned : sequence of Profile
        As in `Catalogue.choose`.

    Raises
    ------
    InputError
        If a profile in `named` does not exist.
    """
    first = identity_metadata(first)
    reasons: tuple[str, ...] = ()
    if named is None:
        selection, reasons = catalogue.choose(first, shape, learned=learned)
    else:
        selection = catalogue.named(named, first, shape)
    warnings = [reason for reason in reasons if "none of these" in reason]
    notes = [reason for reason in reasons if reason not in warnings]
    if not selection.profiles:
        notes.append("no calibration profile applies: the documented defaults do")
    notes += [
        f"the PSF of {profile.microscope.channel or 'its frames'} is that which refocusd measured by "
        f"itself on {profile.learned.recording} on {profile.created[:10]} (calibration profile "
        f"{profile.id()})"
        for profile in selection.profiles
        if profile.learned
    ]
    measured = [profile for profile in selection.profiles if not profile.learned]
    for profile in measured:
        warnings += [
            f"calibration profile {profile.id()} is stale: {remark}" for remark in stale(profile)
        ]
        warnings += [f"calibration profile {profile.id()}: {said}" for said in unchecked(profile)]
        warnings += against_profile(first, profile)
        warnings += _without_stage(profile)
        warnings += _misplaced(profile, first, shape)
    # Profiles that refocusd measured are left out: their fitted values are right only together, and
    # say little about what is written on the objective.
    chosen: list[Profile | None] = [*measured] or [None]
    for one in chosen if trained else ():
        assert trained is not None
        channel = (one.microscope.channel if one else "") or str(first.get("Channel") or "")
        warnings += against_training(first, one, trained.get(channel, trained[""]))
    return Applied(selection, tuple(dict.fromkeys(warnings)), tuple(notes))


def _without_stage(profile: Profile) -> list[str]:
    """A warning if the profile's focus is not a position of the stage."""
    sections = {"focus": profile.focus, "PSF": profile.psf}
    names = [name for name, section in sections.items() if section and section.counted]
    return [
        f"calibration profile {profile.id()}: its {name} was measured on planes without stage positions, "
        "and does not tell how far frames with a stage position are from focus: measure it on a "
        "recording that states them, or state defocus_um"
        for name in names
    ]


def _misplaced(profile: Profile, first: Mapping[str, Any], shape: tuple[int, int]) -> list[str]:
    """Warnings if the profile's hot pixels cannot be located in the frames."""
    camera, roi = profile.camera, roi_of(first)
    if camera is None or not camera.hot_pixels:
        return []
    if hot_indices(camera.hot_pixels, camera.shape, shape, roi) is not None:
        return []
    warning = (
        f"frames of {shape[1]}×{shape[0]} px are not those of the {camera.shape[1]}×"
        f"{camera.shape[0]} px chip that calibration profile {profile.id()} was measured on, and "
        "their metadata do not say where on it they lie: its hot pixels are not replaced"
    )
    return [warning]
