"""Identifies the microscope that was measured, from flags, frames' metadata or the core."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from refocusd.errors import ConfigError
from refocusd.profiles.microscope_metadata import binning_of, camera_of, objective_of, pixel_um_of
from refocusd.profiles.profile import Microscope
from refocusd_calibration.stage.microscope import strings

#: Values of light microscopes; a wavelength in nanometres, for example, is refused.
_PLAUSIBLE = {
    "pixel_um": (0.001, 100.0),
    "wavelength_um": (0.2, 2.0),
    "magnification": (0.1, 1000.0),
}


def add_microscope_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for values that the metadata lack."""
    group = parser.add_argument_group(
        "microscope", "values that are missing from the recording's metadata, or wrong there"
    )
    group.add_argument("--camera", help="label of the camera device")
    group.add_argument("--objective", help="label of the objective")
    group.add_argument("--channel", help="channel preset")
    group.add_argument("--binning", type=int)
    group.add_argument(
        "--pixel-um", type=float, help="size of a camera pixel in the specimen plane"
    )
    group.add_argument("--na", type=float, help="numerical aperture")
    group.add_argument("--wavelength-um", type=float, help="emission wavelength")
    group.add_argument(
        "--refractive-index",
        type=float,
        help="refractive index of the immersion medium (default: 1)",
    )
    group.add_argument("--magnification", type=float)


def microscope_of(
    arguments: argparse.Namespace | None,
    metadata: Mapping[str, Any],
    *,
    channel: str = "",
    pixel_um: float | None = None,
) -> Microscope:
    """Identify the microscope of frames; flags override the frames' metadata.

    Parameters
    ----------
    arguments : Namespace or None
        With the flags of `add_microscope_flags`, as far as a command has them.
    metadata : mapping
        Metadata of a frame, as written by Micro-Manager.
    channel : str
        Channel according to the frame's axes.
    pixel_um : float, optional
        Pixel size according to the recording's plan, um.

    Raises
    ------
    ConfigError
        If a value is not plausible.
    """
    flags = {k: v for k, v in vars(arguments).items() if v is not None} if arguments else {}
    microscope = Microscope(
        camera=str(flags.get("camera", camera_of(metadata))),
        objective=str(flags.get("objective", objective_of(metadata))),
        channel=str(flags.get("channel", channel or metadata.get("Channel") or "")),
        binning=int(flags.get("binning", binning_of(metadata) or 1)),
        pixel_um=flags.get("pixel_um", pixel_um or pixel_um_of(metadata)),
        na=flags.get("na"),
        wavelength_um=flags.get("wavelength_um"),
        refractive_index=float(flags.get("refractive_index", 1.0)),
        magnification=flags.get("magnification"),
    )
    _check(microscope)
    return microscope


def _check(microscope: Microscope) -> None:
    if not 1 <= microscope.binning <= 16:
        raise ConfigError(f"a binning of {microscope.binning} is not valid: it is 1 to 16")
    if not 1 <= microscope.refractive_index < 2.5:
        raise ConfigError(f"no medium has a refractive index of {microscope.refractive_index:g}")
    if microscope.na is not None and not 0 < microscope.na < microscope.refractive_index:
        raise ConfigError(
            f"an NA of {microscope.na:g} is not possible in a medium with a refractive index of "
            f"{microscope.refractive_index:g}: the NA must be below it; give --refractive-index"
        )
    for name, (low, high) in _PLAUSIBLE.items():
        value = getattr(microscope, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(
                f"--{name.replace('_', '-')} {value:g} is not plausible: give {low:g} to {high:g}"
            )


def microscope_of_core(arguments: argparse.Namespace, core: Any) -> Microscope:
    """Identify the microscope of a running core; see `microscope_of`."""
    group = core.get_channel_group()
    channel = str(core.get_current_config(group) or "") if group else ""
    camera = core.get_camera_device()
    metadata: dict[str, Any] = {"Camera": camera, "PixelSizeUm": core.get_pixel_size_um()}
    if camera and core.has_property(camera, "Binning"):
        metadata["Binning"] = core.get_property(camera, "Binning")
    for device in strings(core.get_loaded_devices()):
        if "objective" in device.lower() and core.has_property(device, "Label"):
            metadata[f"{device}-Label"] = core.get_property(device, "Label")
    return microscope_of(arguments, metadata, channel=channel)


def check_profile(arguments: argparse.Namespace, microscope: Microscope) -> None:
    """Refuse another microscope's profile as ``--output``, before anything moves or is measured.

    Raises
    ------
    InputError, OutputError
        See `former_profile`.
    """
    from refocusd_calibration.profile.write import former_profile

    if arguments.output is not None:
        former_profile(arguments.output, microscope, replace=arguments.replace)
