"""Draws the figures of a report into given axes, with one function for each.

`report` imports matplotlib only when a report is made.  Figures are built
without pyplot, which would need a display and keep global state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from refocusd.imaging.defocus import optics_of
from refocusd.imaging.optics import defocus_psf
from refocusd.profiles.profile import CameraSection, FocusSection, Profile, PsfSection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Colours that can be distinguished with any colour vision (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, RED = COLOURS[:2]
Floats = NDArray[np.float64]

#: A flat field is drawn with at most this many pixels along each side.
_SHOWN = 512


def draw_transfer(axes: Axes, camera: CameraSection) -> None:
    """Draw the photon-transfer curve, on logarithmic axes."""
    x, y, used, slope, floor = _transfer(camera)
    shown = x > 0.3
    axes.plot(x[used & shown], y[used & shown], "o", color=BLUE, ms=5, label="fitted")
    axes.plot(
        x[~used & shown], y[~used & shown], "o", mfc="none", color=BLUE, ms=5, label="left out"
    )
    if shown.any():
        # Starts where there is only read noise, so that its floor can be seen.
        low = min(float(x[shown].min()), 0.1 * floor / slope + 0.5)
        grid = np.geomspace(low, float(x.max()), 200)
        axes.plot(grid, floor + slope * grid, "-", color=RED, lw=1.2, label="shot + read noise")
        axes.axhline(floor, color="0.5", ls=":", lw=1, label="read noise and rounding")
    top = camera.saturation_counts - camera.offset_counts.value
    if top <= 2 * float(x.max()):
        axes.axvline(top, color="0.3", ls="--", lw=1, label="saturation")
    axes.set(xscale="log", yscale="log")
    _label(
        axes, "Photon-transfer curve", "mean above offset (counts)", "temporal variance (counts²)"
    )
    axes.legend(fontsize=8, loc="upper left")


def _transfer(
    camera: CameraSection,
) -> tuple[Floats, Floats, NDArray[np.bool_], float, float]:
    """Means, variances, whether each was fitted, and the slope and intercept of the line."""
    slope = 1 / camera.gain_e_per_count.value
    return (
        np.array(camera.ptc_mean_counts),
        np.array(camera.ptc_variance_counts2),
        np.array(camera.ptc_fitted, np.bool_),
        slope,
        (camera.read_noise_e.value * slope) ** 2 + 1 / 12,
    )


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(True, lw=0.3)


def draw_residuals(axes: Axes, camera: CameraSection) -> None:
    """Draw the deviation of the photon-transfer curve from its line, in percent."""
    x, y, used, slope, floor = _transfer(camera)
    expected = np.maximum(floor + slope * x, 1e-9)
    axes.axhline(0, color=RED, lw=1.2)
    axes.plot(x[used], 100 * (y / expected - 1)[used], "o", color=BLUE, ms=5)
    _label(axes, "Residuals of the fit", "mean above offset (counts)", "variance minus line (%)")


def draw_flat_field(figure: Figure, axes: Axes, flat: NDArray[np.float32]) -> None:
    """Draw the flat field."""
    step = max(1, math.ceil(max(flat.shape) / _SHOWN))
    low, high = np.percentile(flat, (0.5, 99.5))
    height, width = flat.shape
    image = axes.imshow(
        flat[::step, ::step],
        cmap="viridis",
        vmin=float(low),
        vmax=float(max(high, low + 1e-3)),
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    figure.colorbar(image, ax=axes, shrink=0.85, label="relative response")
    axes.set(title="Flat field", xlabel="x (px)", ylabel="y (px)")


def draw_focus_curves(axes: Axes, focus: FocusSection) -> None:
    """Draw each focus metric against stage z, scaled to 0-1."""
    # In the order taken, so that backlash appears as separate lines of sweeps up and down.
    z = np.array(focus.z_um)
    for number, (name, values) in enumerate(focus.curves.items()):
        y = np.array(values)
        span = float(np.ptp(y))
        deciding = name == focus.metric
        axes.plot(
            z,
            (y - y.min()) / (span or 1.0),
            "o-" if deciding else "-",
            color=COLOURS[number % len(COLOURS)],
            ms=3,
            lw=2 if deciding else 1,
            label=f"{name} (decides)" if deciding else name,
            zorder=3 if deciding else 2,
        )
    best = focus.best_um
    axes.axvspan(
        best.value - 2 * best.uncertainty, best.value + 2 * best.uncertainty, color="0.8", zorder=1
    )
    axes.axvline(best.value, color="0.2", lw=1, ls="--", label="best focus ± 2 u")
    _label(axes, "Through focus", "stage z (um)", "focus metric, scaled")
    axes.legend(fontsize=7)


def draw_focus_surface(figure: Figure, axes: Axes, focus: FocusSection) -> None:
    """Draw best z over the field: the fitted surface, and the tiles it was fitted to."""
    tiles = np.array(focus.tiles_um, np.float64).reshape(-1, 4)
    axes.set(
        title="Focus surface", xlabel="x from the centre (um)", ylabel="y from the centre (um)"
    )
    if len(tiles) == 0 or not focus.surface_um:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    x, y, z = tiles[:, 0], tiles[:, 1], tiles[:, 2]
    margin = 0.1 * max(float(np.ptp(x)), float(np.ptp(y)), 1e-6)
    grid_x, grid_y = np.meshgrid(
        np.linspace(x.min() - margin, x.max() + margin, 80),
        np.linspace(y.min() - margin, y.max() + margin, 80),
    )
    c, a, b, *q = focus.surface_um
    surface = c + a * grid_x + b * grid_y + (q[0] if q else 0.0) * (grid_x**2 + grid_y**2)
    low = float(min(z.min(), surface.min()))
    high = float(max(z.max(), surface.max(), low + 1e-3))
    levels = np.linspace(low, high, 13)
    drawn = axes.contourf(grid_x, grid_y, surface, levels=levels, cmap="viridis")
    # Tiles are coloured by their own z, so that outliers stand out.
    axes.scatter(x, y, c=z, cmap="viridis", vmin=low, vmax=high, edgecolors="w", s=45)
    figure.colorbar(drawn, ax=axes, shrink=0.85, label="best z (um)", format="%.2f")
    axes.set_aspect("equal")
    # As in the frames, y points down.
    axes.invert_yaxis()


def draw_kernel_widths(axes: Axes, psf: PsfSection) -> None:
    """Draw the kernels' width against defocus, measured and fitted."""
    z = np.array(psf.defocus_um)
    order = np.argsort(z, kind="stable")
    sigma = np.array(psf.sigma_um)
    errors = np.array(psf.sigma_uncertainty_um) if psf.sigma_uncertainty_um else None
    axes.errorbar(
        z[order],
        sigma[order],
        yerr=None if errors is None else errors[order],
        fmt="o",
        ms=4,
        color=BLUE,
        capsize=2,
        label=f"measured ({psf.method})",
    )
    if psf.sigma_model_um:
        model = np.array(psf.sigma_model_um)[order]
        axes.plot(z[order], model, "-", color=RED, label=f"fitted ({psf.model})")
    if psf.model != "gaussian" and psf.blur_um_per_um and psf.blur_focus_um:
        grid = np.linspace(float(z.min()), float(z.max()), 200)
        law = np.hypot(psf.blur_focus_um.value, psf.blur_um_per_um.value * grid)
        axes.plot(grid, law, "--", color="0.5", lw=1, label="Gaussian law")
    axes.set_ylim(bottom=0)
    _label(axes, "Kernel width", "defocus (um)", "kernel width σ (um)")
    axes.legend(fontsize=8)


def draw_kernels(axes: Axes, profile: Profile, psf: PsfSection) -> None:
    """Draw the fitted model's kernels side by side, each scaled to its own peak."""
    axes.set_title("Fitted kernels, each to its own peak")
    axes.set_yticks([])
    if not psf.defocus_um:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    z = np.unique(psf.defocus_um)
    chosen = z[np.unique(np.linspace(0, len(z) - 1, 9).round().astype(int))]
    widest = max(psf.sigma_um, default=1.0)
    half_um = max(2.5 * widest, 1.0)
    kernels = [_kernel(profile, psf, float(value), half_um) for value in chosen]
    gap = np.ones((kernels[0].shape[0], 2))
    row = np.hstack([part for kernel in kernels for part in (kernel, gap)][:-1])
    axes.imshow(row, cmap="magma", interpolation="nearest", vmin=0, vmax=1)
    side = kernels[0].shape[1]
    axes.set_xticks(
        [index * (side + 2) + side / 2 - 0.5 for index in range(len(chosen))],
        [f"{value:+.2f}" for value in chosen],
        fontsize=8,
    )
    axes.set_xlabel(f"defocus (um); each picture is {2 * half_um:.3g} um wide")


def _kernel(
    profile: Profile, psf: PsfSection, defocus_um: float, half_um: float
) -> NDArray[np.float64]:
    side = 65
    step = 2 * half_um / (side - 1)
    axis = np.linspace(-half_um, half_um, side)
    distance = np.hypot(axis[:, None], axis[None, :])
    if psf.model == "wave":
        values = defocus_psf(optics_of(profile, step)[0], defocus_um).astype(np.float64)
        return _centred(values / values.max(), side)
    order = np.argsort(psf.defocus_um, kind="stable")
    widths = np.array(psf.sigma_model_um or psf.sigma_um)
    sigma = float(np.interp(defocus_um, np.array(psf.defocus_um)[order], widths[order]))
    if psf.model == "disc":
        # By the definition of sigma, that of a disc of radius R is 0.522 R.
        edge = np.clip((sigma / 0.522 - distance) / step + 0.5, 0.0, 1.0)
        return np.asarray(edge / max(float(edge.max()), 1e-9))
    return np.asarray(np.exp(-(distance**2) / (2 * max(sigma, 1e-6) ** 2)))


def _centred(values: Floats, side: int) -> Floats:
    """Cut or pad an odd square to `side`."""
    excess = (values.shape[0] - side) // 2
    if excess < 0:
        return np.pad(values, -excess)
    return values[excess : excess + side, excess : excess + side]
