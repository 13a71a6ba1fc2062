"""Means of an evaluation by level, microscope, specimen and channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median

import numpy as np

from refocusd_training.evaluation.cases import AVERAGED_UM
from refocusd_training.evaluation.measures.figures import DEFINITIONS
from refocusd_training.evaluation.measures.objects import object_figures
from refocusd_training.evaluation.measures.segmentation import Agreement
from refocusd_training.evaluation.methods import INPUT, ORACLE_RL, REFOCUSED, USER_RL
from refocusd_training.evaluation.results import AS_TAKEN, AS_WRITTEN, THROUGH_FOCUS, Result
from refocusd_training.simulate.ranges import HELD_OUT_DEEP

DEFINITION = (
    "PSNR in dB over the whole frame less a 16 px border; range = 0.1-99.9 percentile of the truth; "
    "truth = noise-free expectation of the in-focus frame, same optics and camera; 'affine' after "
    "the least-squares offset and gain"
)
QUALITY = ("psnr_db", "psnr_affine_db", "ssim", "pearson")
#: Microscopes with deep specimens.
DEEP = frozenset(setting.name for setting in HELD_OUT_DEEP)
#: Microscopes of frames that were not simulated.
TAKEN = frozenset({AS_TAKEN, THROUGH_FOCUS})
#: A frame is worse than raw if it lost more than this, in dB.
NOT_WORSE_DB = 0.1
#: Draws of the bootstrap, and its seed.
DRAWS, SEED = 2000, 0


def values(result: Result) -> dict[str, float]:
    """Every figure of one result by the names of `DEFINITIONS`; NaN if there is none."""
    nuclei = result.figures.nuclei
    return {
        **{name: float(getattr(result.quality, name)) for name in QUALITY},
        "ms_ssim": result.figures.ms_ssim,
        "frc_um": result.figures.frc_um,
        "flux_ratio": result.figures.flux_ratio,
        **object_figures([result.figures.objects]),
        **_ratios([] if nuclei is None else [nuclei]),
    }


def _ratios(nuclei: Sequence[Agreement]) -> dict[str, float]:
    """Figures of nuclei over all frames together, so that a frame with few nuclei has little weight."""
    true = sum(one.true for one in nuclei)
    found = sum(one.found for one in nuclei)

    def per_true(total: float) -> float:
        return total / true if true else math.nan

    matched = sum(one.matched for one in nuclei)
    area = sum(one.true_area for one in nuclei)
    return {
        "f1": 2 * matched / (true + found) if true + found else math.nan,
        "count_error": per_true(found - true),
        "area_ratio": sum(one.found_area for one in nuclei) / area if area else math.nan,
        "invented": per_true(found - matched),
        "lost": per_true(true - matched),
        "phantoms": per_true(sum(one.phantoms for one in nuclei)),
        "vanished": per_true(sum(one.vanished for one in nuclei)),
    }


def means(results: Iterable[Result]) -> dict[str, dict[str, float]]:
    """All figures by method: means over frames, ratios of nuclei over all nuclei."""
    found: dict[str, dict[str, float]] = {}
    for method, part in _by_method(results).items():
        nuclei = [r.figures.nuclei for r in part if r.figures.nuclei is not None]
        each = [values(result) for result in part]
        row = {name: _mean([one[name] for one in each]) for name in DEFINITIONS}
        row |= object_figures([result.figures.objects for result in part]) | _ratios(nuclei)
        row["ms_per_frame"] = 1e3 * median(result.seconds for result in part)
        found[method] = {name: round(value, 4) for name, value in row.items()}
    return found


def _mean(numbers: Sequence[float]) -> float:
    known = [number for number in numbers if not math.isnan(number)]
    return fmean(known) if known else math.nan


def _grouped(results: Iterable[Result], key: Callable[[Result], str]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(key(result), []).append(result)
    return found


def _by_method(results: Iterable[Result]) -> dict[str, list[Result]]:
    return _grouped(results, lambda result: result.method)


def _qualities(results: Iterable[Result]) -> dict[str, dict[str, float]]:
    return {method: {name: row[name] for name in QUALITY} for method, row in means(results).items()}


def level_name(result: Result) -> str:
    """Defocus in um as a key; it may be unknown for acquired frames."""
    return "unknown" if math.isnan(result.defocus_um) else f"{result.defocus_um:g}"


def by_level(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results by `level_name`, from in focus outwards."""
    return _grouped(sorted(results, key=lambda r: r.defocus_um), level_name)


def by_group(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results by origin; those of stacks by stack and truth."""
    return _grouped(results, lambda result: result.group)


def is_scattered(results: Sequence[Result]) -> bool:
    """Whether these are planes of stacks at arbitrary distances, for which means by level are meaningless."""
    return any(r.setting == THROUGH_FOCUS for r in results)


def averaged(results: Sequence[Result]) -> list[Result]:
    """Results that enter the means: out-of-focus simulated frames, and all acquired frames."""
    chosen = [r for r in results if r.setting in TAKEN or r.defocus_um in AVERAGED_UM]
    return chosen or list(results)


def frame_key(result: Result) -> tuple[str, str, str, str]:
    """Key of the frame of a result within the set."""
    return result.group, result.specimen, result.setting, level_name(result)


def gains(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Gain of each method over the raw frame's affine PSNR, in dB: mean, best and worst.

    ``below_raw`` counts the frames that lost more than 0.1 dB, ``unchanged`` those that passed through.
    """
    raw = {frame_key(r): r.quality.psnr_affine_db for r in results if r.method == INPUT}
    found = {}
    for method, part in _by_method(r for r in results if r.method != INPUT).items():
        gained = np.array([r.quality.psnr_affine_db - raw[frame_key(r)] for r in part])
        found[method] = {
            "frames": len(part),
            "unchanged": sum(r.unchanged for r in part),
            "below_raw": int((gained < -NOT_WORSE_DB).sum()),
            "mean_db": round(float(gained.mean()), 3),
            "best_db": round(float(gained.max()), 3),
            "worst_db": round(float(gained.min()), 3),
        }
    return found


def ordered(results: Iterable[Result]) -> list[str]:
    """Methods in the order of their columns: the input, what is written, all others."""
    names = list(dict.fromkeys(result.method for result in results))
    return sorted(names, key=lambda name: name != INPUT)


def differences(results: Sequence[Result], to: str) -> dict[str, dict[str, float]]:
    """Paired differences in affine PSNR between one method and every other, over out-of-focus levels.

    The 95 % interval is from a bootstrap over specimens (B. Efron, Ann. Stat. 7, 1 (1979)), because
    frames of one specimen are not independent.

    Parameters
    ----------
    results : sequence of Result
    to : str
        Name of the one method, from whose PSNR the others' are subtracted.

    Returns
    -------
    dict of str to dict
        By the other method: ``mean_db``, ``low_db``, ``high_db``.
    """
    chosen = [r for r in results if r.defocus_um in AVERAGED_UM]
    figures = {
        method: {frame_key(r): r.quality.psnr_affine_db for r in part}
        for method, part in _by_method(chosen).items()
    }
    base = figures.pop(to, {})
    rng = np.random.default_rng(SEED)
    found = {}
    for method, other in figures.items():
        by_specimen: dict[str, list[float]] = {}
        for key, value in base.items():
            if key in other and math.isfinite(value - other[key]):
                by_specimen.setdefault(key[1], []).append(value - other[key])
        each = np.array([fmean(part) for part in by_specimen.values()])
        if each.size == 0:
            continue
        drawn = each[rng.integers(each.size, size=(DRAWS, each.size))].mean(axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        found[method] = {
            "mean_db": round(float(each.mean()), 3),
            "low_db": round(float(low), 3),
            "high_db": round(float(high), 3),
        }
    return found


def summary(results: Sequence[Result]) -> dict[str, object]:
    """Means by level, over the out-of-focus levels, by microscope and by specimen group.

    ``by_*`` and ``mean_*`` hold PSNR, SSIM and Pearson's coefficient; ``figures_*`` hold every
    figure, over all channels unless they are named; ``gain_over_raw`` holds the gain of each method over
    the raw frame, by specimen group; ``deep`` holds figures of deep specimens, which are in no
    other mean.  ``ms_per_frame`` is the median wall time of each method, and ``speed_over`` its speed
    relative to Richardson-Lucy as a user runs it, and relative to the oracle's search.
    """
    every = results
    results = [result for result in every if result.setting not in DEEP]
    levels = {} if is_scattered(results) else by_level(results)
    chosen = averaged(results)
    settings = sorted({result.setting for result in results})
    channels = sorted({result.channel for result in results})
    mean = "mean" if TAKEN.issuperset(settings) else "mean_4_8_16_32_um"
    times = {
        method: 1e3 * median(result.seconds for result in part)
        for method, part in _by_method(results).items()
        if method not in (INPUT, AS_WRITTEN)
    }
    return {
        "definition": DEFINITION,
        "frames_per_level": len({(r.group, r.specimen, r.setting) for r in results}),
        "by_defocus_um": {level: _qualities(part) for level, part in levels.items()},
        mean: _qualities(chosen),
        "by_microscope": {
            name: _qualities(r for r in chosen if r.setting == name) for name in settings
        },
        "in_focus_by_microscope": {
            name: _qualities(r for r in results if r.setting == name and r.defocus_um == 0)
            for name in settings
        },
        "by_specimens": {name: _qualities(part) for name, part in sorted(by_group(chosen).items())},
        "definitions": dict(DEFINITIONS),
        "figures_by_defocus_um": {level: means(part) for level, part in levels.items()},
        f"figures_{mean}": means(chosen),
        "figures_by_specimens": {name: means(part) for name, part in by_group(chosen).items()},
        "gain_over_raw": {name: gains(part) for name, part in by_group(chosen).items()},
        "figures_by_channel": {
            name: {
                level: means(part)
                for level, part in by_level(r for r in results if r.channel == name).items()
                if level in levels
            }
            for name in channels
        },
        "deep": {
            "figures_by_defocus_um": {
                level: means(part)
                for level, part in by_level(r for r in every if r.setting in DEEP).items()
            },
            "figures_mean_4_8_16_32_um": means(
                r for r in every if r.setting in DEEP and r.defocus_um in AVERAGED_UM
            ),
        },
        "refocused_less_others_affine_db": differences(results, REFOCUSED),
        "ms_per_frame": {name: round(value, 3) for name, value in times.items()},
        "speed_over": {
            slow: {name: round(times[slow] / value, 2) for name, value in times.items() if value}
            for slow in (USER_RL, ORACLE_RL)
            if slow in times
        },
    }


def plain(value: object) -> object:
    """Replace NaN and infinity, which JSON does not support, by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value
