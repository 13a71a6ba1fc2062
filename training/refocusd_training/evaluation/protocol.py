"""The published protocol on BBBC006: real planes 2, 6 and 10, or others, compared with plane 16."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from refocusd.errors import ConfigError, InputError
from refocusd.imaging.optics import Optics
from refocusd.models.bundle import ModelBundle
from refocusd_training.data.bbbc006 import PIXEL_UM, open_plate, plane_defocus_um, read_plane
from refocusd_training.evaluation.pair import Pair

__all__ = ["PLANES", "bbbc006_pairs", "planes_of", "protocol_definition", "training_of"]

#: 28, 20 and 12 um out of focus.
PLANES = (2, 6, 10)
#: The set's objective, at the emission maxima of Hoechst and of the phalloidin's dye.
NOMINAL = {
    "w1": Optics(0.45, 0.461, pixel_um=PIXEL_UM),
    "w2": Optics(0.45, 0.603, pixel_um=PIXEL_UM),
}


#: In what a bundle says of its training: one line a side, or a list.
_WELL = re.compile(r"[a-p]\d\d")


def planes_of(given: Sequence[int] | None, trained: Mapping[str, Any]) -> tuple[int, ...]:
    """The planes asked for, else those that the training set apart, else the published ones.

    Raises
    ------
    ConfigError
        If two are equally far from the focus: figures are told apart by that distance.
    """
    planes = tuple(given or trained.get("test_planes") or PLANES)
    if len({abs(plane_defocus_um(plane)) for plane in planes}) < len(planes):
        raise ConfigError(
            f"two of the planes {', '.join(map(str, planes))} are equally far from plane 16: "
            "evaluate each plane once, and one side of focus at a time (--planes)"
        )
    return planes


def protocol_definition(planes: Sequence[int]) -> str:
    """What was compared with what, and how."""
    *others, last = map(str, planes)
    named = f"planes {', '.join(others)} and {last}" if others else f"plane {last}"
    return (
        f"BBBC006, {named} against plane 16, wells that are on the test side; PSNR in dB over "
        "the whole frame less a 16 px border; range = 0.1-99.9 percentile of plane 16, which has "
        "its noise and onto which every result is registered; 'affine' after the least-squares "
        "offset and gain; 'true PSF' = nominal optics at the plane's nominal distance"
    )


def training_of(bundle: ModelBundle) -> dict[str, Any]:
    """What a bundle says of the plate it was trained on; empty where it was another set."""
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
        Of a plate, as `refocusd_training.data.bbbc006.open_plate` takes it.
    planes : sequence of int
    channels : sequence of str
        ``w1``, ``w2``; empty: those that are there.
    limit : int, optional
        At most so many fields, spread evenly.
    trained : mapping, optional
        What `training_of` gave: the split is the training's, and none of its wells is used.

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
    # Of a part of the plate the split is another one: what the training says goes first.
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
    fields = sorted({pair.field for pair in placed})
    if limit is not None and limit < len(fields):
        fields = [fields[round(i * (len(fields) - 1) / max(limit - 1, 1))] for i in range(limit)]
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
