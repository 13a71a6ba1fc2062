"""Measures the PSF on the z-stacks of a recording, without a user.

Nobody looks at the result, so it is kept only if every check of a measurement passes, if wave optics
explain the planes, and if these planes themselves gain from deconvolution with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from refocusd.formats.dataset import Dataset
from refocusd.formats.scale import numbered_z_um, z_position_um
from refocusd.imaging.blur import LEAST_STACK_PX
from refocusd.imaging.deconvolve import deconvolve
from refocusd.imaging.known_blur import (
    FORM_MISFIT,
    distance_from_focus,
    immersion_index,
    known_blur,
)
from refocusd.imaging.quality import psnr
from refocusd.processes.self_calibration import FEWEST_PLANES
from refocusd.profiles.applied import channel_name
from refocusd.profiles.microscope_metadata import pixel_um_of, plausible_pixel_um
from refocusd.profiles.profile import Check, Microscope, Profile, PsfSection
from refocusd_calibration.measurement import check
from refocusd_calibration.psf.beads import sharpest_plane
from refocusd_calibration.psf.measure import PsfMeasurement, Stated, measure_planes
from refocusd_calibration.psf.stack import PlaneStack
from refocusd_calibration.stage.z_sweeps import cut_off_at, end_of_scale

#: Most planes that are read; of longer stacks, every second, third, ... plane is.
_MOST_PLANES = 24
#: Only the middle of the field is used, up to this side, px.
_SIDE_PX = 1024
#: Assumed emission wavelength, um: out of focus it hardly changes a PSF whose aperture is fitted.
_EMISSION_UM = 0.52
#: Number of evenly spaced planes that are deconvolved.
_DECONVOLVED = 5
#: Least mean gain from the form, dB: a form that is nearly a Gaussian is of no use to the network.
_LEAST_GAIN_DB = 1.5


def stacks(recording: Dataset) -> Iterator[tuple[str, list[str]]]:
    """The name of each channel, and the keys of one of its z-stacks, from the middle of the recording."""
    groups: dict[str, list[str]] = {}
    for key in recording.axes_keys():
        at = json.loads(key)
        if isinstance(at.pop("z", None), int):
            groups.setdefault(json.dumps(at), []).append(key)
    found: dict[str, list[list[str]]] = {}
    for group, keys in groups.items():
        if len(keys) >= FEWEST_PLANES:
            found.setdefault(json.dumps(json.loads(group).get("channel")), []).append(keys)
    for every in found.values():
        middle = every[len(every) // 2]
        yield _channel(recording, middle[0]), middle


def _channel(recording: Dataset, key: str) -> str:
    """Name of a frame's channel, as for matching frames with profiles (`Applied.profile_of`)."""
    said = recording.metadata(key)
    return channel_name(key, json.dumps(said, default=str)) or str(said.get("Channel") or "")


def read_stack(recording: Dataset, keys: Sequence[str]) -> PlaneStack | None:
    """The planes of one stack; None if their positions or the pixel size are unknown.

    Raises
    ------
    InputError
        If a frame cannot be read.
    """
    keys = sorted(keys, key=lambda key: json.loads(key)["z"])[
        :: 1 + (len(keys) - 1) // _MOST_PLANES
    ]
    said = [recording.metadata(key) for key in keys]
    pixel_um = plausible_pixel_um(pixel_um_of(said[0], recording.summary))
    places = [z_position_um(metadata) for metadata in said]
    if None in places:
        places = [numbered_z_um(json.loads(key), recording.summary) for key in keys]
    if pixel_um is None or None in places or len(set(places)) < len(places):
        return None
    form = recording.format_of(keys[0])
    rows, columns = map(_middle, (form.height, form.width))
    order = np.argsort(np.array(places, np.float64))
    pixels = np.stack(
        [recording.read_part(keys[at], rows, columns).astype(np.float32) for at in order]
    )
    full = min(end_of_scale(said[0], form.dtype), cut_off_at(pixels))
    return PlaneStack(np.array(places, np.float64)[order], pixels, pixel_um, full, metadata=said[0])


def _middle(side: int) -> slice:
    start = max(0, side - _SIDE_PX) // 2
    return slice(start, start + min(side, _SIDE_PX))


def measure_automatically(stack: PlaneStack, na: float | None) -> PsfMeasurement:
    """Measure the PSF, with additional checks that decide whether it may be used without a user.

    Parameters
    ----------
    stack : PlaneStack
    na : float or None
        Nominal numerical aperture, if known.

    Raises
    ------
    InputError
        If it cannot be measured on these planes.
    """
    stated = Stated(na, _EMISSION_UM, immersion_index(na) if na else 1.0)
    measured = measure_planes(stack, None, stated)
    return replace(
        measured, checks=(*measured.checks, _form(measured.section), _use(stack, measured.section))
    )


def _form(section: PsfSection) -> Check:
    misfit = section.misfit if isinstance(section.misfit, float) else 1.0
    return check(
        "form of the PSF",
        section.model == "wave" and misfit <= FORM_MISFIT,
        f"the {section.model} law leaves {100 * misfit:.1f} % (limit {100 * FORM_MISFIT:g} %)",
    )


def _use(stack: PlaneStack, section: PsfSection) -> Check:
    """Whether planes come closer to the sharpest one with this PSF than with a Gaussian of the same width."""
    profile = Profile(
        created="", version="", microscope=Microscope(pixel_um=stack.pixel_um), psf=section
    )
    sharp = stack.pixels[sharpest_plane(stack)]
    wide = []
    for z_um, plane in zip(stack.z_um, stack.pixels, strict=True):
        distance = distance_from_focus(profile, float(z_um))
        blur = known_blur(profile, {}, distance and replace(distance, uncertainty_um=0.0))
        if blur is not None and blur.shape is not None and blur.sigma_px >= LEAST_STACK_PX:
            wide.append((plane, blur))
    chosen = {round(at) for at in np.linspace(0, len(wide) - 1, min(_DECONVOLVED, len(wide)))}
    gains = []
    for plane, blur in (wide[at] for at in sorted(chosen)):
        plain, formed = (
            psnr(deconvolve(plane, blur.sigma_px, shape=shape).light, sharp, affine=True)
            for shape in (None, blur.shape)
        )
        gains.append(formed - plain)
    return check(
        "use of the form",
        bool(gains) and min(gains) >= 0 and float(np.mean(gains)) >= _LEAST_GAIN_DB,
        f"planes blurred by {LEAST_STACK_PX:g} px and more gain "
        f"{', '.join(f'{gain:+.1f}' for gain in gains) or 'nothing'} dB by it",
    )
