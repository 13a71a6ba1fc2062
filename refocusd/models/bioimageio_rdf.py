"""Reads the description of a bioimage.io model from elsewhere.

Only a part of the formats 0.4 and 0.5 is supported: one 2-D image of one channel in, one of
the same size out, ONNX weights, and pre- and postprocessing that amount to an affine map of
the counts.  Everything else is refused, and the message names it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from refocusd.errors import BundleError
from refocusd.imaging.normalise import CountsRange
from refocusd.models.description import NormalisationDescription

_SHA256 = re.compile("[0-9a-f]{64}")
#: Relative difference up to which a postprocessing step counts as undoing the normalisation.
SAME = 1e-3


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """A file that the description names; ``sha256`` is empty if it is not stated."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """The part of a bioimage.io description that refocusd uses.

    Parameters
    ----------
    title : str
        Name of the model.
    version : str
        Version of the format.
    onnx, test_input, test_output : ForeignFile
    documentation : ForeignFile, optional
    normalisation : NormalisationDescription
    output : CountsRange
        Maps the model's output to network units.
    least_px, step_px : int
        Smallest side, and step of sides, that the model takes.
    halo_px : int
        Width of the border of the output that the description calls invalid.
    """

    title: str
    version: str
    onnx: ForeignFile
    test_input: ForeignFile
    test_output: ForeignFile
    documentation: ForeignFile | None
    normalisation: NormalisationDescription
    output: CountsRange
    least_px: int
    step_px: int
    halo_px: int


def read_foreign(content: Any) -> ForeignModel:
    """Interpret a description, or refuse it.

    Parameters
    ----------
    content : object
        The YAML file's content.

    Raises
    ------
    BundleError
        If refocusd cannot use such a model; the message says why.
    """
    try:
        return _read(content)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError) as error:
        raise BundleError(
            "the description is not that of a bioimage.io model "
            f"({type(error).__name__}: {error}); check it with `bioimageio validate-format`"
        ) from error


def _read(content: Any) -> ForeignModel:
    version = str(content["format_version"])
    if content.get("type", "model") != "model" or not re.match(r"0\.[45]\.", version):
        raise BundleError(
            f"it is a {content.get('type', 'model')} of format {version[:16]}; refocusd takes models of "
            "format 0.4 and 0.5"
        )
    inputs, outputs = content["inputs"], content["outputs"]
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(
            f"it takes {len(inputs)} and returns {len(outputs)} tensors; refocusd needs one of each, "
            "a frame in and a frame out"
        )
    given, returned = inputs[0], outputs[0]
    modern = version.startswith("0.5")
    if modern:
        least, step, halo = _sizes_of_axes(given, returned)
        tests = (_file(given["test_tensor"]), _file(returned["test_tensor"]))
    else:
        least, step, halo = _sizes_of_shapes(given, returned)
        firsts = [content[key] for key in ("test_inputs", "test_outputs")]
        tests = (_file(firsts[0][0]), _file(firsts[1][0]))
    normalisation = _normalisation(given.get("preprocessing") or [])
    onnx = _onnx(content["weights"])
    documentation = content.get("documentation")
    return ForeignModel(
        title=str(content["name"])[:512],
        version=version[:16],
        onnx=onnx,
        test_input=tests[0],
        test_output=tests[1],
        documentation=_file(documentation) if _is_beside(documentation) else None,
        normalisation=normalisation,
        output=_output(returned.get("postprocessing") or [], normalisation),
        least_px=least,
        step_px=step,
        halo_px=halo,
    )


# -- files -------------------------------------------------------------------------------


def _source(value: Any) -> str:
    return str(value["source"] if isinstance(value, dict) else value)


def _is_beside(value: Any) -> bool:
    return value is not None and "/" not in _source(value).removeprefix("./")


def _file(value: Any) -> ForeignFile:
    name = _source(value).removeprefix("./")
    stated = str(value.get("sha256") or "") if isinstance(value, dict) else ""
    if "://" in name:
        raise BundleError(
            f"it refers to {name[:100]} on the internet; download the whole package (zip) and add that"
        )
    if not name or "/" in name or "\\" in name or name in (".", "..") or not name.isprintable():
        raise BundleError(
            f"it names {name[:100]!r}; refocusd takes packages whose files are in one folder, as "
            "`bioimageio package` writes them"
        )
    if stated and not _SHA256.fullmatch(stated):
        raise BundleError(f"the sha256 of {name} is not valid")
    return ForeignFile(name, stated)


def _onnx(weights: dict[str, Any]) -> ForeignFile:
    entry = weights.get("onnx")
    if not isinstance(entry, dict):
        raise BundleError(
            f"its weights are {', '.join(map(str, weights))[:100]}; refocusd takes ONNX only, because "
            "the others run code (`bioimageio.core.add_weights` converts)"
        )
    if entry.get("external_data") is not None:
        raise BundleError(
            "its ONNX weights are in a separate file (external data), which is not supported"
        )
    return _file(entry)


# -- sizes -------------------------------------------------------------------------------


def _sizes_of_axes(given: dict[str, Any], returned: dict[str, Any]) -> tuple[int, int, int]:
    """Smallest side, step and halo, in px, from a description of format 0.5."""
    for axes in (given["axes"], returned["axes"]):
        kinds = [str(_axis_id(axis) if axis["type"] == "space" else axis["type"]) for axis in axes]
        if kinds != ["batch", "channel", "y", "x"]:
            raise BundleError(
                f"its axes are {', '.join(kinds)[:100]}; refocusd takes 2-D images as batch, channel, y, x"
            )
        if len(axes[1]["channel_names"]) != 1:
            raise BundleError(f"it has {len(axes[1]['channel_names'])} channels; a frame has one")
    sides = []
    for axis in given["axes"][2:]:
        size = axis["size"]
        if not (isinstance(size, dict) and "min" in size and "step" in size):
            raise BundleError(
                f"its {_axis_id(axis)} axis has the fixed size {size}; refocusd needs variable sizes"
            )
        sides.append((int(size["min"]), int(size["step"])))
    for axis in returned["axes"][2:]:
        size = axis["size"]
        source = given.get("id", "input")
        same = isinstance(size, dict) and (size.get("tensor_id"), size.get("axis_id")) == (
            source,
            _axis_id(axis),
        )
        if not same or size.get("offset", 0) != 0 or axis.get("scale", 1) != _scale_of(given, axis):
            raise BundleError(f"its output's {_axis_id(axis)} axis is not as long as its input's")
    halo = max(int(axis.get("halo", 0)) for axis in returned["axes"][2:])
    return _combined(sides, halo)


def _axis_id(axis: dict[str, Any]) -> Any:
    # Default of the format (bioimageio.spec, model 0.5: `SpaceAxisBase.id` and its siblings).
    return axis.get("id", "x" if axis.get("type") == "space" else axis.get("type"))


def _scale_of(given: dict[str, Any], axis: dict[str, Any]) -> Any:
    """Scale of the input's axis with the same name."""
    return next(a.get("scale", 1) for a in given["axes"] if _axis_id(a) == _axis_id(axis))


def _sizes_of_shapes(given: dict[str, Any], returned: dict[str, Any]) -> tuple[int, int, int]:
    """Smallest side, step and halo, in px, from a description of format 0.4."""
    for tensor in (given, returned):
        if tensor["axes"] != "bcyx":
            raise BundleError(
                f"its axes are {str(tensor['axes'])[:16]}; refocusd takes 2-D images as bcyx"
            )
    shape = given["shape"]
    if not isinstance(shape, dict):
        raise BundleError(
            f"it takes images of the fixed shape {shape}; refocusd needs variable sizes"
        )
    if shape["min"][1] != 1 or shape["step"][1] != 0:
        raise BundleError("it takes several channels; a frame has one")
    sides = [(int(shape["min"][i]), int(shape["step"][i])) for i in (2, 3)]
    out = returned["shape"]
    same = (
        isinstance(out, dict)
        and out["reference_tensor"] == given["name"]
        and list(out["scale"])[1:] == [1, 1, 1]
        and not any(out["offset"])
    )
    if not same:
        raise BundleError("its output does not have the shape of its input")
    halo = returned.get("halo") or [0, 0, 0, 0]
    return _combined(sides, max(int(halo[2]), int(halo[3])))


def _combined(sides: list[tuple[int, int]], halo: int) -> tuple[int, int, int]:
    if any(step == 0 for _, step in sides):
        raise BundleError("it takes images of one size; refocusd needs variable sizes")
    least, step = max(low for low, _ in sides), math.lcm(*(step for _, step in sides))
    if not (0 < least <= 4096 and 0 < step <= 4096 and 0 <= halo <= 8192):
        raise BundleError(
            f"sides from {least} px in steps of {step} px with a halo of {halo} px are not supported"
        )
    return least, step, halo


# -- pre- and postprocessing -------------------------------------------------------------


def _steps(processing: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    steps = [(str(s.get("id") or s["name"]), dict(s.get("kwargs") or {})) for s in processing]
    return [s for s in steps if not (s[0] == "ensure_dtype" and s[1].get("dtype") == "float32")]


def _number(value: Any, what: str) -> float:
    """A finite number, or the only one in a list (one for each channel)."""
    if isinstance(value, list):
        if len(value) != 1:
            raise BundleError(f"{what} has {len(value)} values for one channel")
        value = value[0]
    number = float(value)
    if not math.isfinite(number):
        raise BundleError(f"{what} is {number}")
    return number


def _linear(name: str, kwargs: dict[str, Any]) -> tuple[float, float] | None:
    """Gain and shift of a step that is the same affine map for every frame; None for other steps."""
    if name == "scale_linear":
        return _number(kwargs.get("gain", 1.0), name), _number(kwargs.get("offset", 0.0), name)
    fixed = name == "zero_mean_unit_variance" and kwargs.get("mode") == "fixed"
    if name == "fixed_zero_mean_unit_variance" or fixed:
        gain = 1.0 / _number(kwargs["std"], name)
        return gain, -gain * _number(kwargs["mean"], name)
    return None


def _of_the_frame(name: str, kwargs: dict[str, Any]) -> NormalisationDescription:
    """Describe a step whose constants are computed from each frame."""
    if name not in ("scale_range", "zero_mean_unit_variance"):
        raise BundleError(
            f"its preprocessing is {name[:64]!r}; refocusd supports scale_range, "
            "zero_mean_unit_variance and scale_linear"
        )
    axes = kwargs.get("axes")
    names = set(axes or ()) - {"c", "channel"}
    whole = axes is None or names in ({"x", "y"}, {"b", "x", "y"}, {"batch", "x", "y"})
    if not whole or kwargs.get("mode") == "per_dataset":
        raise BundleError(
            f"its {name} takes {kwargs.get('mode') or axes}: constants of a whole dataset or of rows "
            "are not known while frames arrive"
        )
    if kwargs.get("reference_tensor") is not None:
        raise BundleError(f"its {name} refers to another tensor")
    if name == "zero_mean_unit_variance":
        return NormalisationDescription(kind="mean_std")
    low = _number(kwargs.get("min_percentile", 0.0), name)
    high = _number(kwargs.get("max_percentile", 100.0), name)
    if not 0 <= low < high <= 100:
        raise BundleError(f"its scale_range goes from percentile {low} to {high}")
    return NormalisationDescription(low_percentile=low, high_percentile=high)


def _normalisation(processing: list[Any]) -> NormalisationDescription:
    gain, shift = 1.0, 0.0
    found: NormalisationDescription | None = None
    for name, kwargs in _steps(processing):
        if found is not None:
            raise BundleError(
                f"its preprocessing continues after the normalisation with {name[:64]!r}"
            )
        linear = _linear(name, kwargs)
        if linear is None:
            if (gain, shift) != (1.0, 0.0):
                # bioimageio.core computes the frame's constants before the first step, against the
                # order of the steps: which of the two is meant would be a guess.
                raise BundleError(
                    f"its preprocessing scales the counts and then does {name[:64]!r}: tools disagree "
                    "on what that means; leave the scaling out"
                )
            found = _of_the_frame(name, kwargs)
        else:
            gain, shift = linear[0] * gain, linear[0] * shift + linear[1]
        if not 1e-9 <= gain <= 1e9:
            raise BundleError(f"its preprocessing multiplies counts by {gain:g}")
    if found is not None:
        return found
    return NormalisationDescription(kind="fixed", offset=-shift / gain, scale=1.0 / gain)


def _output(processing: list[Any], normalisation: NormalisationDescription) -> CountsRange:
    """The map from the model's output to network units."""
    gain, shift = 1.0, 0.0
    for name, kwargs in _steps(processing):
        linear = _linear(name, kwargs)
        if linear is None:
            raise BundleError(
                f"its postprocessing is {name[:64]!r}: what it returns is not an image on the scale of counts"
            )
        gain, shift = linear[0] * gain, linear[0] * shift + linear[1]
    if gain == 1.0 and shift == 0.0:
        return CountsRange(0.0, 1.0)
    scale, offset = normalisation.scale, normalisation.offset
    undoes = math.isclose(gain, scale, rel_tol=SAME) and abs(shift - offset) <= SAME * scale
    if normalisation.kind != "fixed" or not undoes:
        raise BundleError(
            "its postprocessing does not undo the scaling of its preprocessing: refocusd returns "
            "counts on the raw frame's scale, which is not possible then"
        )
    return CountsRange(shift, gain)
