"""Image layers in napari's form, made without napari."""

from __future__ import annotations

from typing import Any

from refocusd.imaging.trust_map import AS_ACQUIRED, CELL_PX

#: napari's LayerDataTuple: pixels, attributes of the layer, its type.
LayerData = tuple[Any, dict[str, Any], str]
#: Note in the metadata of every layer.
ESTIMATE = "refocused is an estimate, not a measurement"
#: Colours of a trust map as on the view's page, each up to this percentage; the colour-blind can tell
#: them apart.  The last one is for pixels of raw.
_COLOURS = (
    (24.5, (0, 170, 190, 50)),
    (49.5, (255, 176, 0, 110)),
    (100.5, (176, 38, 255, 130)),
    (AS_ACQUIRED, (0, 0, 0, 0)),
)


def spatial(ndim: int, pixel_um: float | None, z_um: float | None = None) -> dict[str, Any]:
    """Scale and units of a layer whose last dimensions are y and x, and z if `z_um` is given.

    Other dimensions get no length: napari would draw time points and positions as lengths.
    """
    sides = [*([z_um] if z_um else []), pixel_um, pixel_um] if pixel_um else []
    others = ndim - len(sides)
    return {
        "scale": (1.0,) * others + tuple(sides),
        "units": ("pixel",) * others + ("um",) * len(sides),
    }


def trust_look(ndim: int, pixel_um: float | None, z_um: float | None = None) -> dict[str, Any]:
    """Attributes of a layer of trust maps, which covers the layers of frames."""
    placed = spatial(ndim, pixel_um, z_um)
    # The centre of a cell is not the centre of its first pixel.
    corner = (CELL_PX - 1) / 2 * placed["scale"][-1]
    *others, height, width = placed["scale"]
    return {
        **placed,
        "scale": (*others, height * CELL_PX, width * CELL_PX),
        "translate": (0.0,) * len(others) + (corner, corner),
        "colormap": {
            "name": "refocusd trust",
            "colors": [[part / 255 for part in colour] for _, colour in _COLOURS],
            "controls": [0.0, *(upto / AS_ACQUIRED for upto, _ in _COLOURS)],
            "interpolation": "zero",
        },
        "contrast_limits": (0, AS_ACQUIRED),
        "interpolation2d": "nearest",
        "blending": "translucent",
    }
