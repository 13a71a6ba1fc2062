"""How reliable verdicts are: empty fields, unsuitable pictures, clipped frames, real stacks; and their cost.

    python -m benchmarks.quality.trust [--fields 1000] [--others 100] [--model live-fluorescence]
        [--backend deconvolution] [--transmitted FILE] [--data FOLDER] [--stacks FOLDER] [--json FILE]
        [--only KIND...]

Every frame goes through `refocusd.worker.refocus.refocus_frame`, as in a worker.  An object is
invented if the Laplacian of Gaussian of the written frame has a peak above 6 robust standard deviations
of that of raw and of at least 5 counts, where raw has no such peak.

The goals are: 99 % of the empty fields are called empty and none has an invented object; 99 % of the frames
in focus are left as they are; 95 % of all other frames are not trusted, and 85 % of their pixels are flagged or
within their intervals; for nuclei out of focus, the light of 95 % of the trusted frames is within 5 % of the truth.

`trusted_frames_against_truth` contains, for trusted frames, the share that is wrong (error above the verdict's
bound), the share whose light is within 5 %, and the share of pixels within their intervals.  `covered_or_flagged`
is the share of pixels that are within their intervals or belong to a frame that is not trusted;
`covered_if_doubtful` is the share within the intervals of doubtful frames.

`--data` is a folder of sharp images: actin in `bbbc006`, and `nuclei_in_focus`, of which the images held out from
training are blurred by the families of PSFs held out from fits.  With `--only`, the rows of other kinds of pictures
remain in the file as they are.  `held_out` is what `refocusd train trust` wrote next to the weights that it fitted:
the quality of the probability of an error on simulated frames.

With `--stacks`, every plane of real through-focus stacks is judged too.  It is registered to the truth, the
sharpest plane or a confocal image, and compared with it.  Results are written whatever their verdict
(`untrusted = "mark"`).  `auroc` and `rank_correlation` (C. Spearman) compare the probability of an error with the
error itself; there is no AUROC if no plane is wrong.  A plane is wrong if its error is above the verdict's bound;
the error includes the truth's own noise.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from refocusd_training.blur.frames import expose, load_sharp
from refocusd_training.blur.psfs import HELD_OUT, Family, transfer_functions
from refocusd_training.evaluation.pair import Pair
from refocusd_training.evaluation.stacks import read_notes, stack_pairs
from refocusd_training.trust import pictures
from refocusd_training.trust.examples import relative_error
from refocusd_training.trust.fit import WORSE, auroc
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_laplace, maximum_filter, uniform_filter, zoom
from scipy.stats import spearmanr

from benchmarks.quality.empty_fields import EMPTY, empty_field
from benchmarks.shared.machine import cpu_model
from refocusd.config import EngineOptions
from refocusd.demo.specimen import Specimen
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import Engine
from refocusd.engines.verdict import judge_of, shipped_judge
from refocusd.frame import Pixels
from refocusd.imaging.field_evidence import examine_field
from refocusd.imaging.pair_evidence import examine_pair
from refocusd.imaging.quality import register, shifted
from refocusd.transport.messages import FrameFacts
from refocusd.worker.refocus import refocus_frame

#: Draws a frame, and its truth if that is known.
Draw = Callable[[np.random.Generator], Pixels | tuple[Pixels, NDArray[np.float32]]]
#: Scales of the Laplacian of Gaussian, px.
SCALES_PX = (2.0, 4.0, 8.0)
ROBUST_SIGMAS, COUNTS = 6.0, 5.0
#: Facts about the stacks that their files do not contain.
NOTES = Path(__file__).with_name("real_stacks.toml")
#: A model that was not trained on actin.
NUCLEI = "live-nuclei"
KEPT_PSFS = "kinds of PSF kept apart"


def peaks(frame: Pixels, noise_of: Pixels, scale: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mask of the peaks of objects of about this scale in `frame`, px; the noise is that of `noise_of`."""
    found, noise = (
        -(scale**2) * gaussian_laplace(pixels.astype(np.float32), scale)
        for pixels in (frame, noise_of)
    )
    robust = float(np.median(np.abs(noise - np.median(noise)))) / 0.6745
    high = maximum_filter(found, round(2 * scale) * 2 + 1) == found
    return np.asarray(high & (found > max(ROBUST_SIGMAS * robust, COUNTS)))


def invented(raw: Pixels, written: Pixels) -> int:
    """Number of objects in a written frame that raw does not have."""
    if np.array_equal(raw, written):
        return 0
    count = 0
    for scale in SCALES_PX:
        there = maximum_filter(peaks(raw, raw, scale), round(4 * scale) * 2 + 1)
        count += int(np.count_nonzero(peaks(written, raw, scale) & ~there))
    return count


def clipped_nuclei(rng: np.random.Generator) -> tuple[Pixels, NDArray[np.float32]]:
    """Blurred nuclei with a tenth of the pixels clipped."""
    raw, truth = nuclei(rng)
    np.minimum(raw, np.uint16(np.percentile(raw, 90)), out=raw)
    return raw, truth


def wrong_scale(rng: np.random.Generator) -> tuple[Pixels, NDArray[np.float32]]:
    """Blurred nuclei whose pixels are four times as large or a quarter as large as in training."""
    specimen = Specimen()
    raw = specimen.frame("DAPI", specimen.focus.at() + rng.uniform(4, 24), 10.0, rng)
    enlarged = rng.random() < 0.5
    frame, truth = (
        zoom(each[:174, :174].astype(np.float32), 4, order=1)
        if enlarged
        else uniform_filter(np.tile(each, (4, 4)).astype(np.float32), 4)[::4, ::4]
        for each in (raw, specimen.truth("DAPI"))
    )
    return np.rint(frame).astype(np.uint16), truth


def nuclei(rng: np.random.Generator) -> tuple[Pixels, NDArray[np.float32]]:
    """Nuclei out of focus."""
    specimen = Specimen()
    raw = specimen.frame("DAPI", specimen.focus.at() + rng.uniform(4, 24), 10.0, rng)
    return raw, specimen.truth("DAPI")


def in_focus(rng: np.random.Generator) -> Pixels:
    """Sharp nuclei."""
    specimen = Specimen()
    return specimen.frame("DAPI", specimen.focus.at(), 10.0, rng)


def blurred(folder: Path, families: Sequence[Family], test: bool = False) -> Draw:
    """Draws frames of real sharp images, blurred by PSFs of these families; with `test`, of held-out images only."""
    images = [image for image in load_sharp([folder]) if image.test or not test]
    rng = np.random.default_rng(0)
    transfers = np.concatenate([transfer_functions(family, 40, rng) for family in families])

    def draw(rng: np.random.Generator) -> tuple[Pixels, NDArray[np.float32]]:
        while True:
            one, other = rng.integers(len(images), size=2)
            exposure = expose(images[one], images[other], transfers, rng)
            if exposure is not None:
                return exposure.frame, exposure.truth

    return draw


def met(name: str, row: Mapping[str, Any]) -> bool:
    """Whether a kind of pictures meets its goal."""
    frames = row["frames"]
    if name.startswith("empty"):
        return bool(row["called_empty"] >= 0.99 * frames and not row["invented_objects"])
    if name == "nuclei out of focus":
        found = row["trusted_frames_against_truth"]
        return bool(found.get("light_within_5_percent", 0) >= 0.95)
    if name == "in focus":
        return bool(row["written"].get("raw", 0) >= 0.99 * frames)
    if row["trusted_frames_against_truth"].get("covered_or_flagged", 1) < 0.85:
        return False
    if name == KEPT_PSFS:
        return True
    return bool(row["verdicts"].get("trusted", 0) <= 0.05 * frames)


def verdicts(engine: Engine, draw: Draw, count: int, seed: int) -> dict[str, Any]:
    """Verdicts on `count` pictures, what was written for them, and their errors where the truth is known."""
    rng = np.random.default_rng(seed)
    said: Counter[str] = Counter()
    written: Counter[str] = Counter()
    empty = objects = 0
    against_truth: dict[str, list[float]] = defaultdict(list)
    for _ in range(count):
        drawn = draw(rng)
        raw, truth = drawn if isinstance(drawn, tuple) else (drawn, None)
        out = np.empty_like(raw)
        facts = refocus_frame(engine, raw, out)
        if truth is not None:
            trusted = facts.verdict == "trusted"
            held = covered(facts, out, truth) if trusted else 1.0
            against_truth["covered_or_flagged"].append(held)
            if facts.verdict == "doubtful" and facts.interval_counts is not None:
                against_truth["covered_if_doubtful"].append(covered(facts, out, truth))
            if trusted:
                against_truth["covered"].append(held)
                against_truth["wrong"].append(relative_error(out, truth) > shipped_judge().bound)
                against_truth["light_within_5_percent"].append(
                    abs(light_of_objects(out, truth) - 1) <= 0.05
                )
        said[facts.verdict] += 1
        written[facts.written] += 1
        empty += facts.reasons[:1] != [] and facts.reasons[0].startswith("empty field")
        objects += invented(raw, out)
    return {
        "frames": count,
        "verdicts": dict(said),
        "written": dict(written),
        "called_empty": empty,
        "invented_objects": objects,
        "trusted_frames_against_truth": {
            name: round(float(np.mean(values)), 3) for name, values in against_truth.items()
        },
    }


def on_stacks(engine: Engine, folder: Path) -> dict[str, Any]:
    """Verdicts on the planes of real stacks, by stack and truth, and over all stacks."""
    bound = judge_of(engine.description.verdict).bound
    judged: dict[str, list[tuple[FrameFacts, float, float]]] = defaultdict(list)
    for pair in stack_pairs(folder, read_notes(NOTES)):
        out = np.empty_like(pair.raw)
        facts = refocus_frame(engine, pair.raw, out, untrusted="mark")
        planes = (facts, registered_error(out, pair), registered_error(pair.raw, pair))
        judged[pair.group].append(planes)
    judged["all"] = [planes for group in judged.values() for planes in group]
    return {name: row_of(planes, bound) for name, planes in judged.items()}


def registered_error(frame: Pixels, pair: Pair) -> float:
    """Relative error of a frame after it is registered to the truth."""
    moved = shifted(frame, register(frame, pair.truth))
    return relative_error(moved, pair.truth.astype(np.float32))


def row_of(planes: list[tuple[FrameFacts, float, float]], bound: float) -> dict[str, Any]:
    """How often the planes of a stack had each verdict, and how often they were wrong with it."""
    by_verdict: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for facts, error, before in planes:
        by_verdict[facts.verdict].append((error, before))
    told = [
        (facts.error_chance, error) for facts, error, _ in planes if facts.error_chance is not None
    ]
    chances, errors_of = np.array(told).reshape(-1, 2).T
    area = auroc(chances, np.asarray(errors_of > bound, float))
    together = float(spearmanr(chances, errors_of).statistic) if len(told) > 2 else 0.0
    return {
        "planes": len(planes),
        "auroc": None if np.isnan(area) else round(area, 3),
        "rank_correlation": round(together, 2),
        **{
            verdict: {
                "planes": len(errors),
                "wrong": sum(error > bound for error, _ in errors),
                "worse_than_raw": sum(error > WORSE * before for error, before in errors),
                "median_error": round(float(np.median([error for error, _ in errors])), 3),
            }
            for verdict, errors in sorted(by_verdict.items())
        },
    }


def covered(facts: FrameFacts, out: Pixels, truth: NDArray[np.float32]) -> float:
    """Share of pixels whose true value is within the interval of the written frame."""
    assert facts.interval_counts is not None
    assert facts.interval_share is not None
    light = np.maximum(out.astype(np.float32) - facts.offset, 0)
    half = facts.interval_counts + facts.interval_share * light
    return float(np.mean(np.abs(out - truth) <= half))


def light_of_objects(out: Pixels, truth: NDArray[np.float32]) -> float:
    """Light of a frame's objects and of 4 px around them, divided by their true light."""
    ground = float(np.percentile(truth, 5))
    objects = truth > ground + 0.2 * (float(np.percentile(truth, 99.9)) - ground)
    place = maximum_filter(objects, 9)
    outside = float(np.median(out[~place]) - np.median(truth[~place])) if (~place).any() else 0.0
    light, true = (float(np.sum(each[place] - ground, dtype=np.float64)) for each in (out, truth))
    return (light - outside * float(place.sum())) / true


def held_out(engine: Engine) -> dict[str, Any]:
    """Figures of the fit of the engine's verdicts, on frames that were held out from it."""
    path = engine.description.verdict
    return dict(tomllib.loads(path.read_text("utf-8")).get("held_out", {})) if path else {}


def cost_ms(engine: Engine, repeats: int = 20) -> dict[str, float]:
    """Median processor times for a frame of 696×520 px, ms: of the engine and of the evidence."""
    raw = np.tile(Specimen().frame("DAPI", 12.0, 10.0, np.random.default_rng(0)), (2, 2))
    raw = np.ascontiguousarray(raw[:520, :696])
    out = np.empty_like(raw)
    engine.refocus(raw, out)
    times: dict[str, list[float]] = {"engine_ms": [], "evidence_ms": []}
    for _ in range(repeats):
        begun = time.process_time()
        found = engine.refocus(raw, out)
        refocused = time.process_time()
        field = examine_field(raw)
        assert field is not None
        examine_pair(field, raw, out, found.blur, found.expected_error, found.interval)
        times["engine_ms"].append((refocused - begun) * 1e3)
        times["evidence_ms"].append((time.process_time() - refocused) * 1e3)
    return {name: round(float(np.median(values)), 2) for name, values in times.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--fields", type=int, default=1000, help="empty fields of all kinds together"
    )
    parser.add_argument("--others", type=int, default=100, help="of each other kind of pictures")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--model", default="live-fluorescence")
    parser.add_argument("--transmitted", type=Path, help="a TIFF stack in transmitted light")
    parser.add_argument("--data", type=Path, help="a folder of folders of sharp images")
    parser.add_argument("--only", nargs="*", help="of these kinds of pictures")
    parser.add_argument("--stacks", type=Path, help="a folder of real through-focus stacks")
    parser.add_argument("--json", type=Path)
    return parser


def _kinds(arguments: argparse.Namespace, engine: Engine) -> dict[str, tuple[Engine, Draw, int]]:
    """For each kind of pictures: the engine, the function that draws one, and their number."""
    rest = arguments.others
    kinds: dict[str, tuple[Engine, Draw, int]] = {
        f"empty: {kind}": (
            engine,
            lambda rng, kind=kind: empty_field(kind, rng),  # type: ignore[misc]
            arguments.fields // len(EMPTY),
        )
        for kind in EMPTY
    }
    kinds |= {
        "brightfield": (engine, pictures.brightfield, rest),
        "photographs": (engine, pictures.photograph, rest),
        "checkerboards": (engine, pictures.checkerboard, rest),
        "noise": (engine, pictures.clouds, rest),
        "a tenth clipped": (engine, clipped_nuclei, rest),
        "pixel size off by 4": (engine, wrong_scale, rest),
        "in focus": (engine, in_focus, rest),
        "nuclei out of focus": (engine, nuclei, rest),
    }
    if arguments.transmitted:
        stack = tifffile.imread(arguments.transmitted)
        images = list(stack.reshape(-1, *stack.shape[-2:]))
        kinds["transmitted light"] = (engine, lambda rng: pictures.transmitted(images, rng), rest)
    if arguments.data:
        of_nuclei = build_engine(NUCLEI, EngineOptions(backend=arguments.backend))
        actin = blurred(arguments.data / "bbbc006" / "actin_z16_w2", ["wave"])
        kept = blurred(arguments.data / "nuclei_in_focus", sorted(HELD_OUT), test=True)
        kinds["actin under a nuclei model"] = (of_nuclei, actin, rest)
        kinds[KEPT_PSFS] = (engine, kept, rest)
    if arguments.only is not None:
        kinds = {name: kind for name, kind in kinds.items() if name in arguments.only}
    return kinds


def main() -> None:
    arguments = _parser().parse_args()
    engine = build_engine(arguments.model, EngineOptions(backend=arguments.backend))
    before: dict[str, Any] = {}
    if arguments.only is not None and arguments.json:
        before = json.loads(arguments.json.read_text(encoding="utf-8"))
    found = before.get("pictures", {})
    console = Console()
    cost = before.get("cost") or cost_ms(engine)
    console.print(cost)
    about = {
        "model": arguments.model,
        "backend": arguments.backend,
        "processor": cpu_model(),
        "held_out": held_out(engine),
        "stacks": on_stacks(engine, arguments.stacks)
        if arguments.stacks
        else before.get("stacks", {}),
    }
    console.print_json(data=about)

    def write() -> None:
        if arguments.json:
            text = json.dumps({**about, "cost": cost, "pictures": found}, indent=1)
            arguments.json.write_text(text + "\n", encoding="utf-8")

    table = Table("pictures", "frames", "trusted", "empty", "invented", "against the truth", "met")
    write()
    for name, (judged, draw, count) in _kinds(arguments, engine).items():
        row = found[name] = verdicts(judged, draw, count, 99)
        row["met"] = met(name, row)
        trusted = row["verdicts"].get("trusted", 0)
        numbers = (count, trusted, row["called_empty"], row["invented_objects"])
        truth = row["trusted_frames_against_truth"]
        table.add_row(name, *map(str, (*numbers, truth)), "yes" if row["met"] else "NO")
        write()
    console.print(table)


if __name__ == "__main__":
    main()
