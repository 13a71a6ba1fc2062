"""The published protocol on BBBC006: real planes 2, 6 and 10, or others, compared with plane 16."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from refocusd.errors import ConfigError, InputError
from refocusd.imaging.optics import Optics
from refocusd.imaging.quality import Quality, pearson
from refocusd.models.bundle import ModelBundle
from refocusd_training.data.bbbc006 import PIXEL_UM, open_plate, plane_defocus_um, read_plane
from refocusd_training.evaluation.cases import spread
from refocusd_training.evaluation.pair import Pair

#: The published planes: 28, 20 and 12 um out of focus.
PLANES = (2, 6, 10)
#: The data set's objective, at the emission maxima of Hoechst and of the phalloidin's dye.
NOMINAL = {
    "w1": Optics(0.45, 0.461, pixel_um=PIXEL_UM),
    "w2": Optics(0.45, 0.603, pixel_um=PIXEL_UM),
}


#: A well in a bundle's record of its training, which has one string or a list for each side.
_WELL = re.compile(r"[a-p]\d\d")


def planes_of(given: Sequence[int] | None, trained: Mapping[str, Any]) -> tuple[int, ...]:
    """The requested planes, or else those that the training held out, or else the published ones.

    Raises
    ------
    ConfigError
        If two planes are equally far from focus, because figures are identified by that distance.
    """
    planes = tuple(given or trained.get("test_planes") or PLANES)
    if len({abs(plane_defocus_um(plane)) for plane in planes}) < len(planes):
        raise ConfigError(
            f"two of the planes {', '.join(map(str, planes))} are equally far from plane 16: "
            "evaluate each plane once, and one side of focus at a time (--planes)"
        )
    return planes


def protocol_definition(planes: Sequence[int]) -> str:
    """Definition of the comparison, for readers."""
    *others, last = map(str, planes)
    named = f"planes {', '.join(others)} and {last}" if others else f"plane {last}"
    return (
        f"BBBC006, {named} against plane 16, wells that are on the test side; PSNR in dB over "
        "the whole frame less a 16 px border; range = 0.1-99.9 percentile of plane 16, which has "
        "its noise and onto which every result is registered; 'affine' after the least-squares "
        "offset and gain; 'true PSF' = nominal optics at the plane's nominal distance"
    )


def scaled_quality(image: NDArray[Any], truth: NDArray[Any]) -> Quality:
    """PSNR and SSIM, computed as for the published figures on BBBC006.

    Every frame, including the truth, is scaled to 0..1 by its own minimum and maximum; both figures
    have a range of 1 and cover the whole frame.  A single hot pixel or piece of debris
    changes them by decibels, so they are only useful for comparison with published figures.

    Parameters
    ----------
    image, truth : ndarray of real numbers, shape (height, width)

    Returns
    -------
    Quality
        The figure after the affine fit has a range of 1 as well.
    """
    from skimage import metrics

    one, two = (_scaled(frame) for frame in (image, truth))
    similarity: Any = metrics.structural_similarity
    gain, offset = np.polyfit(one.ravel(), two.ravel(), 1) if np.ptp(one) else (0.0, two.mean())
    return Quality(
        psnr_db=_psnr(one, two),
        psnr_affine_db=_psnr(gain * one + offset, two),
        ssim=float(similarity(one, two, data_range=1.0, gaussian_weights=True, sigma=1.5)),
        pearson=pearson(one, two, border=0),
    )


def scaled_definition() -> str:
    """Definition of the comparison, for readers."""
    return (
        "BBBC006, planes 2, 6 and 10 against plane 16, wells that are on the test side; every frame, "
        "plane 16 included, is scaled by its own minimum and maximum; PSNR in dB and SSIM over the "
        "whole frame with a range of 1; nothing is registered"
    )


def _scaled(frame: NDArray[Any]) -> NDArray[np.float64]:
    values = frame.astype(np.float64)
    return np.asarray((values - values.min()) / (np.ptp(values) or 1.0))


def _psnr(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    error = float(np.mean((one - two) ** 2))
    return -10 * math.log10(error) if error > 0 else math.inf


def training_of(bundle: ModelBundle) -> dict[str, Any]:
    """Provenance of a bundle that was trained on the plate; empty for other data."""
    if bundle.foreign:
        return {}
    described = yaml.safe_load((bundle.folder / "rdf.yaml").read_text(encoding="utf-8"))
    training = described["config"]["refocusd"].get("training") or {}
    samples = training.get("samples") or {}
    return dict(samples) if samples.get("kind") == "bbbc006" else {}


def bbbc006_pairs(
    folder: Path,
    *,
    planes: Sequence[int] = PLANES,
    channels: Sequence[str] = (),
    limit: int | None = None,
    trained: Mapping[str, Any] | None = None,
) -> list[Pair]:
    """Every usable field of the test wells at every plane of the protocol.

    Parameters
    ----------
    folder : Path
        Folder of a plate, see `refocusd_training.data.bbbc006.open_plate`.
    planes : sequence of int
    channels : sequence of str
        ``w1``, ``w2``; empty: those that exist.
    limit : int, optional
        At most this many fields, spread evenly.
    trained : mapping, optional
        Result of `training_of`: its split is used, without the wells that it trained or validated on.

    Raises
    ------
    InputError
        If planes are missing, or no field is on the test side.
    """
    trained = trained or {}
    if trained and "wells" not in trained:
        raise InputError(
            "the bundle was trained on BBBC006 and does not say on which wells, which must not be "
            "evaluated: export it again from its run"
        )
    wells = {side: set(_WELL.findall(str(at))) for side, at in trained.get("wells", {}).items()}
    seen = wells.get("train", set()) | wells.get("validate", set())
    plate = open_plate(
        folder,
        planes=planes,
        channels=channels,
        seed=int(trained.get("split_seed", 0)),
        validate=float(trained.get("validate", 0.1)),
        test=float(trained.get("test", 0.1)),
    )
    # A part of a plate would be split differently, so the wells that the training states take precedence.
    tested = tuple(
        replace(field, side="test")
        for field in plate.fields
        if field.well not in seen and (field.side == "test" or field.well in wells.get("test", ()))
    )
    placed = replace(plate, fields=tested).pairs("test", planes)
    if not placed:
        raise InputError(
            f"{folder} has {len(plate.fields)} fields with planes of the protocol, but none in a well "
            "of the test side that the bundle was not trained on: add wells"
        )
    fields = spread(sorted({pair.field for pair in placed}), limit)
    return [
        Pair(
            specimen=placed_pair.field,
            group="BBBC006",
            raw=read_plane(placed_pair.raw[0]),
            truth=read_plane(placed_pair.truth[0]),
            channel=placed_pair.channel,
            pixel_um=PIXEL_UM,
            defocus_um=placed_pair.defocus_um,
            optics=NOMINAL[placed_pair.channel],
        )
        for placed_pair in placed
        if placed_pair.field in fields
    ]
