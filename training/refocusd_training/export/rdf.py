"""Makes a bundle's ``rdf.yaml``: a bioimage.io model description (format 0.5) with refocusd's section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from refocusd_training.export.onnx import OPSET
from refocusd_training.simulate import ranges
from refocusd_training.simulate.ranges import Ranges

LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.9
#: Largest difference allowed between an engine and the tensors of a bundle, in network units.
TOLERANCE = {"f32": 1e-3, "f16": 1e-2, "bf16": 5e-2}
TOLERANCE_INT8 = 0.2
#: Papers of data sets that a run's record may name.
CITED = {
    "BBBC038": (
        (
            "Caicedo et al., Nucleus segmentation across imaging experiments: the 2018 Data Science "
            "Bowl. Nature Methods 16, 1247 (2019). Training images: BBBC038v1, CC0."
        ),
        "10.1038/s41592-019-0612-7",
    ),
    "BBBC006": (
        (
            "Ljosa, Sokolnicki, Carpenter, Annotated high-throughput microscopy image sets for "
            "validation. Nature Methods 9, 637 (2012). Training images: BBBC006v1, CC0."
        ),
        "10.1038/nmeth.2083",
    ),
}
#: A source's description of its data is included up to this many entries.
MAX_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts from which the description of a bundle is written.

    Parameters
    ----------
    model_id : str
    record : mapping
        ``run.json`` of the run.
    network : mapping
        From `refocusd_training.networks.description_of`.
    size_multiple, radius : int
        Step of the network's sides, and radius of its effective receptive field, px.
    trained : Ranges
        Ranges from which simulated optics were drawn.
    metrics : mapping, optional
        Summary of the evaluation.
    int8_cost_db : float, optional
        Loss of PSNR of the int8 network, if the bundle has one.
    variants : mapping of precision to file name
        Networks prepared for other precisions.
    depth_um : (float, float), optional
        Range from which the depth of the specimens was drawn, if they had depth.
    """

    model_id: str
    record: Mapping[str, Any]
    network: Mapping[str, Any]
    size_multiple: int
    radius: int
    trained: Ranges
    metrics: Mapping[str, Any] | None = None
    int8_cost_db: float | None = None
    variants: Mapping[str, str] = field(default_factory=dict)
    depth_um: tuple[float, float] | None = None

    @property
    def simulated(self) -> bool:
        """Whether it learned from simulated defocus, which is the default for records without an entry."""
        return bool(self.samples.get("kind", "sharp") == "sharp")

    @property
    def samples(self) -> Mapping[str, Any]:
        """Description of the data by their source."""
        said: Mapping[str, Any] = self.record.get("samples") or {}
        return said

    @property
    def channels(self) -> list[str]:
        """Names of the channels that it learned from."""
        return [str(name) for name in self.samples.get("channels", [])]

    @property
    def nuclei(self) -> bool:
        """Whether nuclei are all that it learned from."""
        return "BBBC038" in str(self.record["data"])

    @property
    def name(self) -> str:
        """Name for readers."""
        words = self.model_id.rsplit("-", 1)[0] if self.model_id[-1:].isdigit() else self.model_id
        return f"refocusd {words.replace('-', ' ').replace('_', ' ')}"


def description(
    name: str,
    text: str,
    sums: Mapping[str, str],
    *,
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    attachments: Iterable[str],
    tolerance: float,
    refocusd: Mapping[str, Any],
    tags: Iterable[str] = (),
    cite: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """The description of any of refocusd's models.

    Parameters
    ----------
    name, text : str
        Name and description for readers.
    sums : mapping of file name to sha256
        Every other file of the bundle.
    inputs, outputs : list of dict
        From `tensor`.
    attachments : iterable of str
        Files of the bundle that are named nowhere else.
    tolerance : float
        Largest difference allowed between other programs and the test tensors.
    refocusd : mapping
        refocusd's own section.
    tags : iterable of str
        Further tags.
    cite : sequence of mapping
    """
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": name,
        "description": text,
        "authors": [{"name": "refocusd developers"}],
        "license": "BSD-3-Clause",
        "documentation": source("README.md", sums),
        "tags": ["fluorescence-light-microscopy", *tags, "refocusing", "deblurring", "2d"],
        "cite": list(cite) or [{"text": "refocusd", "url": "https://bioimage.io"}],
        "inputs": inputs,
        "outputs": outputs,
        "weights": {"onnx": {**source("model.onnx", sums), "opset_version": OPSET}},
        "attachments": [source(file, sums) for file in attachments],
        "config": {
            "bioimageio": {
                "reproducibility_tolerance": [
                    {"absolute_tolerance": tolerance, "relative_tolerance": 0.001}
                ]
            },
            "refocusd": dict(refocusd),
        },
    }


def source(file: str, sums: Mapping[str, str]) -> dict[str, str]:
    """Entry for a file of the bundle."""
    return {"source": file, "sha256": sums[file]}


def tensor(
    name: str,
    text: str,
    channels: list[str],
    sides: list[dict[str, Any]],
    test: dict[str, str],
) -> dict[str, Any]:
    """Entry for an input or an output of float32."""
    return {
        "id": name,
        "description": text,
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": channels}, *sides],
        "data": {"type": "float32"},
        "test_tensor": test,
    }


def free_sides(step: int) -> list[dict[str, Any]]:
    """Axes of an input whose sides are multiples of `step`."""
    size = {"min": 2 * step, "step": step}
    return [{"type": "space", "id": axis, "size": size.copy()} for axis in ("y", "x")]


def same_sides(reference: str, **more: float) -> list[dict[str, Any]]:
    """Axes of an output with the same lengths as those of an input."""
    return [
        {"type": "space", "id": axis, **more, "size": {"tensor_id": reference, "axis_id": axis}}
        for axis in ("y", "x")
    ]


def rdf(facts: Facts, sums: Mapping[str, str]) -> dict[str, Any]:
    """The description of a network at full resolution.

    Parameters
    ----------
    facts : Facts
    sums : mapping of file name to sha256
        Every other file of the bundle.
    """
    step = facts.size_multiple
    raw = tensor(
        "raw",
        "Camera counts, normalised by percentiles of the whole frame.",
        ["fluorescence"],
        free_sides(step),
        source("test_input.npy", sums),
    )
    scale_range = {
        "id": "scale_range",
        "kwargs": {
            "axes": ["channel", "y", "x"],
            "min_percentile": LOW_PERCENTILE,
            "max_percentile": HIGH_PERCENTILE,
        },
    }
    outputs = [
        tensor(
            "refocused",
            "In-focus estimate in the input's normalised units.",
            ["fluorescence"],
            same_sides("raw"),
            source("test_output.npy", sums),
        )
    ]
    if facts.network.get("defocus_head"):
        outputs.append(
            tensor(
                "defocus",
                "Mean and log of the standard deviation of the distance from focus in um, one pair "
                "per 32 x 32 px.",
                ["mean_um", "log_sigma"],
                same_sides("raw", scale=float(step)),
                source("test_defocus.npy", sums),
            )
        )
    what = "fluorescent nuclei" if facts.nuclei else "fluorescence frames"
    return description(
        facts.name,
        f"Estimates the in-focus frame of out-of-focus {what}, while they are acquired.",
        sums,
        inputs=[{**raw, "preprocessing": [scale_range]}],
        outputs=outputs,
        attachments=[
            name
            for name in sums
            if name == "weights.safetensors"
            or name.startswith("validation_")
            or name in facts.variants.values()
        ],
        tolerance=TOLERANCE["f32"],
        refocusd=_refocusd_part(facts, sums),
        tags=["nuclei"] if facts.nuclei else [],
        cite=[
            {"text": text, "doi": doi}
            for key, (text, doi) in CITED.items()
            if key in str(facts.record["data"])
        ],
    )


def _refocusd_part(facts: Facts, sums: Mapping[str, str]) -> dict[str, Any]:
    trained = facts.trained
    tolerance = dict(TOLERANCE)
    if "int8" in facts.variants:
        tolerance["int8"] = TOLERANCE_INT8
    optics = {
        "na": list(trained.na),
        "wavelength_um": list(trained.wavelength_um),
        "pixel_um": list(trained.pixel_um),
        "spherical_waves": list(trained.spherical_waves),
    }
    if trained.blur_sigma_px:
        optics["blur_px"] = list(trained.blur_sigma_px)
    else:
        optics["defocus_um"] = list(ranges.TRAINED_DEFOCUS_UM)
    if facts.depth_um:
        optics["depth_um"] = list(facts.depth_um)
    samples = dict(facts.samples)
    samples.pop("problems", None)  # paths of a machine are private
    if wells := samples.get("wells"):
        # One string per side, so that even a whole plate fits: the wells keep evaluation off the training data.
        samples["wells"] = {side: " ".join(names) for side, names in wells.items()}
    if _entries(samples) > MAX_SAMPLES:
        kept = {k: v for k, v in samples.items() if not isinstance(v, dict | list | tuple)}
        samples = {**kept, "left out": f"{_entries(samples)} entries, see run.json"}
    training = {**facts.record, "samples": samples}
    return {
        "schema": 1,
        "id": facts.model_id,
        "normalisation": {
            "low_percentile": LOW_PERCENTILE,
            "high_percentile": HIGH_PERCENTILE,
        },
        "size_multiple": facts.size_multiple,
        "receptive_field_px": facts.radius,
        "tolerance": tolerance,
        # For real pairs, the optics are not known.
        "optics": optics if facts.simulated else {},
        "channels": [] if facts.nuclei else facts.channels,
        "network": dict(facts.network),
        "variants": dict(facts.variants),
        "files": dict(sorted(sums.items())),
        "training": training,
        "metrics": dict(facts.metrics or {}),
    }


def _entries(value: object) -> int:
    if isinstance(value, Mapping):
        return sum(map(_entries, value.values())) + len(value)
    return sum(map(_entries, value)) if isinstance(value, (list, tuple)) else 1
