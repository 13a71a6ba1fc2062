"""The sections of a profile as rows of name and value."""

from __future__ import annotations

from refocusd.profiles.conformity import SECTIONS
from refocusd.profiles.profile import (
    CameraSection,
    FocusSection,
    Measured,
    Microscope,
    Profile,
    PsfSection,
)
from refocusd_calibration.cli.flags import number
from refocusd_calibration.profile.write import Section

Rows = list[tuple[str, str]]


def section_rows(section: Section, microscope: Microscope) -> Rows:
    """The numbers of one section."""
    if isinstance(section, CameraSection):
        return _camera_rows(section)
    if isinstance(section, FocusSection):
        return _focus_rows(section, microscope)
    return _psf_rows(section)


def _camera_rows(section: CameraSection) -> Rows:

    def plain(value: float | None, unit: str) -> str:
        return number(value, unit, digits=3)

    return [
        ("offset", number(section.offset_counts, "counts")),
        ("gain", number(section.gain_e_per_count, "e-/count")),
        ("read noise", number(section.read_noise_e, "e-")),
        ("dark current", number(section.dark_current_e_per_s, "e-/s")),
        ("full well", number(section.full_well_e, "e-")),
        ("saturation", f"{section.saturation_counts:.0f} counts"),
        ("linearity error", plain(section.linearity_error_percent, "%")),
        ("response, pixel to pixel (PRNU)", plain(section.prnu_percent, "%")),
        ("dark signal, pixel to pixel (DSNU)", plain(section.dsnu_e, "e-")),
        ("defective pixels", str(section.hot_pixel_count)),
        ("maps", ", ".join(sorted(section.maps)) or "none"),
    ]


def _focus_rows(section: FocusSection, microscope: Microscope) -> Rows:
    """The through-focus numbers, beside the nominal depth of field."""
    tilt = section.tilt_mrad or (None, None)
    rows = [
        ("best focus at the centre", number(section.best_um, "um")),
        ("deciding metric", section.metric),
        ("depth of field", number(section.depth_of_field_um, "um")),
    ]
    if microscope.na and microscope.wavelength_um:
        nominal = microscope.wavelength_um * microscope.refractive_index / microscope.na**2
        rows.append(("  wavelength n / NA²", number(nominal, "um")))
    return [
        *rows,
        ("tilt along x", number(tilt[0], "mrad")),
        ("tilt along y", number(tilt[1], "mrad")),
        ("curvature", number(section.curvature_per_m, "1/m")),
        ("tiles with a focus", str(len(section.tiles_um))),
        ("backlash", number(section.backlash_um, "um")),
        ("drift", number(section.drift_um_per_min, "um/min")),
        ("repeatability", number(section.repeatability_um, "um")),
        *(
            (f"best focus by {name}", number(best, "um"))
            for name, best in section.best_by_metric_um.items()
        ),
    ]


def _psf_rows(section: PsfSection) -> Rows:
    """The numbers of the blur, and those of the wave law only if it describes the blur best."""
    rows = [
        ("method", section.method),
        ("law that describes it best", section.model),
        ("focus", number(section.focus_um, "um")),
    ]
    if section.model == "wave":
        rows += [
            ("NA", number(section.na)),
            ("spherical aberration", number(section.spherical_waves, "waves")),
            ("apodisation of the pupil", _fitted(section.apodisation)),
            ("diameter of the beads", _fitted(section.bead_um, "um")),
            ("pixel, fitted", number(section.pixel_um, "um")),
            ("wavelength, held", number(section.wavelength_um, "um")),
            ("refractive index, held", number(section.refractive_index)),
        ]
    rows += [
        ("Gaussian law: blur in focus", number(section.blur_focus_um, "um")),
        ("Gaussian law: blur per um", number(section.blur_um_per_um, "um/um")),
        ("asymmetry of width, above less below", number(section.asymmetry)),
        ("residual (rms)", number(section.residual_rms)),
    ]
    if section.method == "beads":
        rows.append(("beads", str(section.beads)))
    return rows


def _fitted(value: object, unit: str = "") -> str:
    return number(value, unit) if isinstance(value, Measured) else "not fitted"


def profile_rows(profile: Profile) -> dict[str, Rows]:
    """Every number of a profile, as rows under the name of its section."""
    rows = {"microscope": _microscope_rows(profile.microscope)}
    for name in SECTIONS:
        if (section := getattr(profile, name)) is not None:
            rows[name] = section_rows(section, profile.microscope)
    return rows


def _microscope_rows(microscope: Microscope) -> Rows:
    rows = [
        ("camera", microscope.camera or "not known"),
        ("objective", microscope.objective or "not known"),
        ("channel", microscope.channel or "not known"),
        ("binning", str(microscope.binning)),
        ("pixel", number(microscope.pixel_um, "um") if microscope.pixel_um else "not known"),
    ]
    for name, value, unit in (
        ("NA", microscope.na, ""),
        ("emission wavelength", microscope.wavelength_um, "um"),
        ("magnification", microscope.magnification, ""),
    ):
        if value is not None:
            rows.append((name, number(value, unit)))
    return [*rows, ("refractive index", number(microscope.refractive_index))]
