"""A camera section as people read it."""

from __future__ import annotations

from refocusd.profiles.profile import CameraSection
from refocusd_calibration.cli.flags import number

__all__ = ["camera_rows"]


def camera_rows(section: CameraSection) -> list[tuple[str, str]]:
    """The camera's numbers, as rows of a table."""

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
