"""Summaries of a model bundle: a row of the list, lines of text, JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refocusd.models.bundle import SIDECAR, ModelBundle
from refocusd.models.description import read_yaml

#: Properties of a bundle that have the same name in JSON.
_SAME = [
    "title",
    "sha256",
    "normalisation",
    "low_percentile",
    "high_percentile",
    "size_multiple",
    "receptive_field_px",
    "network",
    "tolerance",
]
_UNITS = {
    "na": "NA",
    "wavelength_um": "µm light",
    "pixel_um": "µm/px",
    "defocus_um": "µm defocus",
    "blur_px": "px blur",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the list; `error` is empty for a good bundle."""

    name: str
    id: str = ""
    sha256: str = ""
    channels: tuple[str, ...] = ()
    optics: str = ""
    quality: str = ""
    origin: str = ""
    state: str = "BROKEN"
    error: str = ""

    @property
    def meant_for(self) -> str:
        """Channels and optics in one cell."""
        stated = "; ".join(filter(None, (", ".join(self.channels), self.optics)))
        return stated or ("" if self.error else "not stated")

    @classmethod
    def of(cls, name: str, bundle: ModelBundle, origin: str) -> Listed:
        """List a bundle that was checked."""
        state = "good, made elsewhere" if bundle.foreign else "good"
        optics, gain = ", ".join(_optics(bundle)), quality(_stated(bundle, "metrics"))
        return cls(
            name, bundle.model_id, bundle.sha256, bundle.channels, optics, gain, origin, state
        )


def quality(metrics: Any) -> str:
    """Mean PSNR before and after, as the bundle states it; empty if it does not."""
    try:
        mean = metrics["mean_4_8_16_32_um"]
        before, after = (float(mean[what]["psnr_db"]) for what in ("input", "refocused"))
    except (TypeError, KeyError, ValueError):
        return ""
    return f"{before:.1f} → {after:.1f} dB"


def bundle_json(bundle: ModelBundle) -> dict[str, Any]:
    """Everything that a bundle states, for JSON."""
    files = _stated(bundle, "files") or {}
    return {
        "id": bundle.model_id,
        "folder": str(bundle.folder),
        "made_elsewhere": bundle.foreign,
        **{name: getattr(bundle, name) for name in _SAME},
        "channels": list(bundle.channels),
        "optics": {name: list(span) for name, span in bundle.trained.items()},
        "variants": sorted(bundle.variants),
        "metrics": _stated(bundle, "metrics"),
        "training": _stated(bundle, "training"),
        "files": [
            {"name": name, "bytes": (bundle.folder / name).stat().st_size, "sha256": sha256}
            for name, sha256 in sorted(files.items())
        ],
    }


def summary_lines(bundle: ModelBundle) -> list[str]:
    """The most important properties of a bundle in a few lines."""
    how = {
        "percentiles": f"percentiles {bundle.low_percentile:g} and {bundle.high_percentile:g} of a frame",
        "mean_std": "mean and standard deviation of a frame",
        "fixed": f"(counts - {bundle.fixed_range.offset:g}) / {bundle.fixed_range.scale:g}",
    }[bundle.normalisation]
    lines = [
        f"{bundle.title or bundle.model_id} ({bundle.model_id})",
        f"  sha256     {bundle.sha256}",
        f"  folder     {bundle.folder}",
        f"  made       {'elsewhere' if bundle.foreign else 'by refocusd'}",
        f"  normalised {how}",
        f"  sides      multiples of {bundle.size_multiple} px, receptive field {bundle.receptive_field_px} px",
    ]
    if bundle.trained:
        lines.append(f"  trained    {', '.join(_optics(bundle))}")
    if bundle.channels:
        lines.append(f"  channels   {', '.join(bundle.channels)}")
    if bundle.variants:
        lines.append(f"  variants   {', '.join(sorted(bundle.variants))}")
    return lines


def _optics(bundle: ModelBundle) -> list[str]:
    return [
        f"{span[0]:g}-{span[1]:g} {_UNITS[name]}"
        for name, span in bundle.trained.items()
        if name in _UNITS
    ]


def _stated(bundle: ModelBundle, key: str) -> Any:
    """A part of ``config.refocusd`` that refocusd only shows."""
    path = bundle.folder / (SIDECAR if bundle.foreign else "rdf.yaml")
    return read_yaml(path)[1]["config"]["refocusd"].get(key)
