"""Effect of the loss on nuclei: short training runs that differ only in their loss, on held-out data.

    python benchmarks/quality/ablation.py --config l1.toml feature.toml refocus.toml --data FOLDER \
        --test-data FOLDER --output ablation [--steps N] [--limit N]

Trains one network for each configuration (same seed, data, batches and steps; only the losses
differ), exports each as a bundle and evaluates it on held-out specimens and microscopes.  Prints one
table and writes ``ablation.json``: nuclei invented and lost, flux, PSNR.  A loss that compares textures
(the Gram part of a feature loss) can invent nuclei; these figures decide which loss is shipped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from refocusd_training.config import PATHS, TrainingConfig, load_config
from refocusd_training.evaluation.cases import AVERAGED_UM, Case, held_out_cases
from refocusd_training.evaluation.methods import INPUT, REFOCUSED
from refocusd_training.evaluation.results import Result, evaluate
from refocusd_training.evaluation.summary import by_level, means, plain
from refocusd_training.export.bundle import export_bundle
from refocusd_training.loop.run import run_training
from rich.console import Console
from rich.table import Table

from refocusd.errors import ConfigError

#: Key of each figure, its name in the table, its format.
FIGURES = (
    ("psnr_db", "PSNR, dB", "{:.2f}"),
    ("psnr_affine_db", "PSNR after affine fit, dB", "{:.2f}"),
    ("ms_ssim", "MS-SSIM", "{:.3f}"),
    ("flux_ratio", "flux", "{:.3f}"),
    ("f1", "F1", "{:.3f}"),
    ("invented", "invented", "{:.1%}"),
    ("phantoms", "phantoms", "{:.1%}"),
    ("lost", "lost", "{:.1%}"),
    ("vanished", "vanished", "{:.1%}"),
)
#: The fields of the configuration that may differ between the runs of one ablation.
ABLATED = frozenset({"loss", "final_loss"})


@dataclass(frozen=True, slots=True)
class Ablated:
    """One run of an ablation.

    Parameters
    ----------
    name : str
        Name of its configuration.
    config : TrainingConfig
    seconds : float
        Duration of training.
    results : tuple of Result
    """

    name: str
    config: TrainingConfig
    seconds: float
    results: tuple[Result, ...]


def checked(configs: dict[str, TrainingConfig]) -> None:
    """Raise ConfigError if the configurations differ in more than the loss."""
    (first, reference), *others = configs.items()
    for name, config in others:
        for key in sorted({item.name for item in fields(config)} - ABLATED):
            if getattr(config, key) != getattr(reference, key):
                raise ConfigError(
                    f"{name} has {key} = {getattr(config, key)}, {first} has "
                    f"{getattr(reference, key)}: an ablation changes one thing; make them equal"
                )


def ablate(
    configs: dict[str, TrainingConfig], data: Path, cases: Sequence[Case], output: Path
) -> list[Ablated]:
    """Train, export and evaluate each configuration."""
    found = []
    for name, config in configs.items():
        run, bundle = output / name, output / f"{name}-bundle"
        record = run_training(config, data, run)
        export_bundle(run, bundle, model_id=f"ablation-{name}")
        results = evaluate(bundle, cases, deconvolve=False)
        found.append(Ablated(name, config, record.seconds, tuple(results)))
    return found


def document(found: Sequence[Ablated]) -> dict[str, object]:
    """All figures of an ablation, for JSON."""
    return {
        "frames_per_level": len({(r.specimen, r.setting) for r in found[0].results}),
        "runs": {
            one.name: {
                "config": _without_folders(asdict(one.config)),
                "seconds": one.seconds,
                "mean_4_8_16_32_um": _row(one.results, averaged=True),
                "by_defocus_um": {
                    level: _row(part) for level, part in by_level(one.results).items()
                },
            }
            for one in found
        },
    }


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with file names instead of this machine's paths; changes it in place."""
    for *outer, name in PATHS:
        within = config[outer[0]] if outer else config
        if within and within[name]:
            within[name] = Path(within[name]).name
    return config


def _row(
    results: Sequence[Result], *, averaged: bool = False, method: str = REFOCUSED
) -> dict[str, float]:
    return means(
        r for r in results if r.method == method and (not averaged or r.defocus_um in AVERAGED_UM)
    )[method]


def table(found: Sequence[Ablated]) -> Table:
    """Means over the out-of-focus levels, one column for each run after that of the input."""
    drawn = Table(title="mean of 4, 8, 16, 32 um; nuclei per true nucleus")
    drawn.add_column("")
    shown = [_row(found[0].results, averaged=True, method=INPUT)]
    shown += [_row(one.results, averaged=True) for one in found]
    for name in (INPUT, *(one.name for one in found)):
        drawn.add_column(name, justify="right")
    drawn.add_row("loss", "", *(one.config.loss.name for one in found))
    for key, heading, form in FIGURES:
        drawn.add_row(heading, *(form.format(row[key]) for row in shown))
    return drawn


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    parser.add_argument("--data", type=Path, required=True, help="to train on")
    parser.add_argument("--test-data", type=Path, help="to evaluate on; by default --data")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    parser.add_argument("--steps", type=int, help="instead of what the files say")
    parser.add_argument("--limit", type=int, help="at most so many test specimens")
    arguments = parser.parse_args()
    configs = {path.stem: load_config(path) for path in arguments.config}
    if arguments.steps:
        configs = {name: replace(config, steps=arguments.steps) for name, config in configs.items()}
    checked(configs)
    cases = held_out_cases(arguments.test_data or arguments.data, limit=arguments.limit)
    found = ablate(configs, arguments.data, cases, arguments.output)
    Console().print(table(found))
    text = json.dumps(plain(document(found)), indent=1, allow_nan=False) + "\n"
    (arguments.output / "ablation.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
