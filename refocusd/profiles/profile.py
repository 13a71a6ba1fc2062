"""A calibration profile: the measurements of one microscope, in one JSON file.

`refocusd calibrate` writes it; the training simulator, the normalisation and the
daemon read it. There is one file for each camera, objective, binning and channel. Maps
(one value per pixel) are TIFF files beside it, listed with their sha256. Sections that
were not measured are null: documented defaults then apply, and the frames' metadata
say so.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from refocusd.errors import InputError
from refocusd.files import output, read_limited, write_whole

#: Increased when a field changes its meaning; any other schema is refused.
PROFILE_SCHEMA = 1
#: A profile holds curves, not images.
MAX_PROFILE_BYTES = 16 << 20


class Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number and its standard uncertainty (k = 1), in the unit that its field names."""

    value: float
    uncertainty: float


class Microscope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The microscope that was measured; the daemon finds the profile by the first four fields.

    Parameters
    ----------
    camera, objective, channel : str
        As Micro-Manager's metadata name them; "" where not known.
    binning : int
    pixel_um : float or None
        Camera pixel, binning included, in the specimen plane.
    na, wavelength_um, refractive_index, magnification : float or None
        Nominal values, as the user stated them.
    """

    camera: str = ""
    objective: str = ""
    channel: str = ""
    binning: int = 1
    pixel_um: float | None = None
    na: float | None = None
    wavelength_um: float | None = None
    refractive_index: float = 1.0
    magnification: float | None = None


class RawData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dataset that a measurement is based on."""

    what: str
    path: str
    sha256: str


class StoredMap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A map beside the profile: float32 TIFF of the camera's shape."""

    file: str
    sha256: str
    unit: str


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One condition that a valid measurement must meet."""

    name: str
    passed: bool
    detail: str


class CameraSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The camera, by the definitions of EMVA 1288 (release 4.0).

    Parameters
    ----------
    offset_counts : Measured
        Mean of dark frames, extrapolated to zero exposure.
    gain_e_per_count : Measured
        Electrons per count (the inverse of EMVA's system gain K).
    read_noise_e : Measured
        Temporal dark noise, electrons rms.
    dark_current_e_per_s : Measured or None
        Per pixel; None if only one exposure was measured in the dark.
    full_well_e : Measured or None
        Saturation capacity; None if the series does not reach it.
    saturation_counts : float
        Counts at which the variance collapses, or the end of the scale.
    linearity_error_percent : float or None
        Largest deviation from the straight line between 5 and 95 % of saturation.
    prnu_percent, dsnu_e : float or None
        Fixed-pattern noise of the response, and of the dark signal.
    hot_pixels : list of [y, x]
        Defective pixels, hot ones first; `hot_pixel_count` of them in all.
    ptc_mean_counts, ptc_variance_counts2, ptc_fitted : list
        The photon-transfer curve, offset subtracted, and which points were fitted.
    shape : tuple of int
        (height, width) of the frames measured.
    maps : dict of str to StoredMap
        Any of ``offset`` (counts), ``gain`` (e-/count), ``variance`` (counts²), ``flat``
        (relative response, mean 1).
    """

    offset_counts: Measured
    gain_e_per_count: Measured
    read_noise_e: Measured
    dark_current_e_per_s: Measured | None = None
    full_well_e: Measured | None = None
    saturation_counts: float = 65535.0
    linearity_error_percent: float | None = None
    prnu_percent: float | None = None
    dsnu_e: float | None = None
    hot_pixels: list[tuple[int, int]] = []
    hot_pixel_count: int = 0
    ptc_mean_counts: list[float] = []
    ptc_variance_counts2: list[float] = []
    ptc_fitted: list[bool] = []
    shape: tuple[int, int] = (0, 0)
    maps: dict[str, StoredMap] = {}


class FocusSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The through-focus response, in stage micrometres.

    Parameters
    ----------
    metric : str
        Name of the focus metric that decided.
    best_um : Measured
        Stage z of best focus at the centre of the field.
    best_by_metric_um : dict of str to Measured
    z_um : list of float
        Stage positions of the planes, in the order taken.
    curves : dict of str to list of float
        Each metric at `z_um`.
    depth_of_field_um : Measured or None
        Full width of the deciding metric's peak, as its docstring defines.
    surface_um : list of float
        Best z over the field: c, a, b, and for a paraboloid q, with
        ``z = c + a x + b y + q (x² + y²)``; x and y in um from the centre of the field.
    surface_uncertainty_um : list of float
    tiles_um : list of [x_um, y_um, z_um, uncertainty_um]
    tilt_mrad : tuple of Measured or None
        Slopes of the focal surface along x and y.
    curvature_per_m : Measured or None
        2 q, inverse radius of the surface.
    backlash_um, repeatability_um : Measured or None
        Best z approached from below minus from above; spread of repeats.
    drift_um_per_min : Measured or None
    counted : bool or unset
        Whether z is only counted from the first plane of the file, so that it says nothing about the stage.
    """

    metric: str
    best_um: Measured
    best_by_metric_um: dict[str, Measured] = {}
    z_um: list[float] = []
    curves: dict[str, list[float]] = {}
    depth_of_field_um: Measured | None = None
    surface_um: list[float] = []
    surface_uncertainty_um: list[float] = []
    tiles_um: list[tuple[float, float, float, float]] = []
    tilt_mrad: tuple[Measured, Measured] | None = None
    curvature_per_m: Measured | None = None
    backlash_um: Measured | None = None
    repeatability_um: Measured | None = None
    drift_um_per_min: Measured | None = None
    # Unset fields are not written: profiles of older releases keep their content key.
    counted: bool | msgspec.UnsetType = msgspec.UNSET


class PsfSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a point (or a plane) blurs with defocus.

    Parameters
    ----------
    method : {"beads", "planes"}
    model : {"wave", "gaussian", "disc"}
        The model that describes the kernels best.
    na, spherical_waves, pixel_um : Measured or None
        Fitted; None for the fallback models, or where they were held fixed.
    apodisation, bead_um : Measured or unset
        Apodisation as in `Optics`, and the beads' diameter; unset if they were not fitted.
    focus_um : Measured
        Stage z of the fitted focus.  For the wave model this is the paraxial focus, from which
        `Optics` counts spherical aberration; it need not be the sharpest plane.
    defocus_um : list of float
        Signed distance of each measured kernel from `focus_um` (stage z minus focus).
    sigma_um : list of float
        Width of each kernel, camera pixel included: ``σ = 1 / (2 π f)`` at the lowest spatial
        frequency f at which the transfer function falls to exp(-1/2).  That is σ of a Gaussian
        and 0.522 R of a disc; a second moment does not exist for diffraction tails.
    sigma_uncertainty_um : list of float
    sigma_model_um : list of float
        The same for the fitted model.
    blur_um_per_um, blur_focus_um : Measured or None
        Gaussian law ``σ² = blur_focus_um² + (blur_um_per_um · defocus)²``.
    asymmetry : Measured or None
        (σ above − σ below) / mean at equal distance; its sign tells the side.
    residual_rms : float
        Residual of the fitted model, rms, relative to the kernels' energy.
    misfit : float or unset
        The same beyond noise: how far the model is from the kernels' form.
    beads : int
    counted : bool or unset
        As in `FocusSection`.
    """

    method: Literal["beads", "planes"]
    model: Literal["wave", "gaussian", "disc"]
    focus_um: Measured
    na: Measured | None = None
    spherical_waves: Measured | None = None
    pixel_um: Measured | None = None
    refractive_index: float = 1.0
    wavelength_um: float | None = None
    defocus_um: list[float] = []
    sigma_um: list[float] = []
    sigma_uncertainty_um: list[float] = []
    sigma_model_um: list[float] = []
    blur_um_per_um: Measured | None = None
    blur_focus_um: Measured | None = None
    asymmetry: Measured | None = None
    residual_rms: float = 0.0
    beads: int = 0
    # Unset fields are not written: profiles of older releases keep their content key.
    apodisation: Measured | msgspec.UnsetType = msgspec.UNSET
    bead_um: Measured | msgspec.UnsetType = msgspec.UNSET
    misfit: float | msgspec.UnsetType = msgspec.UNSET
    counted: bool | msgspec.UnsetType = msgspec.UNSET


class Learned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Marks a profile that refocusd measured by itself, on a z-stack that it was given to refocus.

    Parameters
    ----------
    recording : str
        Path of the recording.
    acquisition : str
        Its id: the profile applies to its frames.
    elsewhere : bool
        Whether it also applies to other acquisitions of that microscope and day.
    """

    recording: str
    acquisition: str
    elsewhere: bool = False


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything measured for one camera, objective, binning and channel."""

    profile_schema: int = PROFILE_SCHEMA
    #: Time of the last change, ISO 8601, UTC; and the version of refocusd that made it.
    created: str
    version: str
    microscope: Microscope
    camera: CameraSection | None = None
    focus: FocusSection | None = None
    psf: PsfSection | None = None
    #: Time at which each section was measured, ISO 8601, UTC, by name of the section.
    measured: dict[str, str] = {}
    raw: list[RawData] = []
    checks: list[Check] = []
    #: Whether it was written although a check failed, because the user insisted.
    insisted: bool = False
    # Unset in profiles that a person measured, which keep their content key.
    learned: Learned | msgspec.UnsetType = msgspec.UNSET

    def id(self) -> str:
        """Content key: the first 16 hex digits of the sha256 of the profile's JSON."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


def load_profile(path: str | Path) -> Profile:
    """Read a profile.

    Raises
    ------
    InputError
        If the file does not exist, is not a profile, or has another schema.
    """
    path = Path(path)
    try:
        data = read_limited(path, MAX_PROFILE_BYTES)
        schema = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("profile_schema")
        if schema is not None and bytes(schema) != str(PROFILE_SCHEMA).encode():
            raise InputError(
                f"{path} has schema {bytes(schema).decode()}, this refocusd reads {PROFILE_SCHEMA}: "
                "calibrate again, or use the refocusd that wrote it"
            )
        return msgspec.json.decode(data, type=Profile)
    except OSError as error:
        raise InputError(f"the profile {path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise InputError(f"{path} is no calibration profile: {error}") from error


def save_profile(profile: Profile, path: str | Path) -> None:
    """Write a profile atomically.

    Raises
    ------
    OutputError
    """
    path = Path(path)
    text = msgspec.json.format(msgspec.json.encode(profile), indent=1)
    with output(path):
        write_whole(path, text, b"\n")
