"""CARE's U-net and NAFNet, trained on the same pairs and for the same time as refocusd's network.

    python benchmarks/rivals/train_rivals.py --config FILE --data FOLDER --output rivals --minutes 20

Each network is trained on exactly the batches that `refocusd train run` draws with this
configuration (same images, optics, noise, seed), by its authors' recipe:

=========  ===================================================================================
`care`     mean absolute error; Adam, 4e-4, halved after 10 epochs without a better validation;
           the best epoch is kept.  An epoch is a hundredth of the time: CSBDeep's default is 100
`nafnet`   PSNR loss; AdamW, 1e-3 to 1e-7 along a cosine over the time, betas (0.9, 0.9), weight
           decay 1e-3, gradients clipped to a norm of 0.01
=========  ===================================================================================

For each network NAME it writes NAME.safetensors, NAME.onnx and NAME.json (the data and the time of training).
To evaluate one next to a bundle: ``refocusd train evaluate --rival "CARE U-net=rivals/care.onnx"``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from refocusd_training.config import TrainingConfig, load_config
from refocusd_training.data.samples import Batch, Prefetched
from refocusd_training.data.source import SampleSource, open_samples
from refocusd_training.export.onnx import export_onnx
from refocusd_training.networks import RefocusNetwork
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn

if __package__ in (None, ""):  # run as a file: the networks are found from the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.rivals.care_unet import CareUNet
from benchmarks.rivals.nafnet import paper_nafnet, small_nafnet

#: Function that makes each rival, by its name.
RIVALS: dict[str, Callable[[], nn.Module]] = {
    "care": CareUNet,
    "nafnet": small_nafnet,
    "nafnet-paper": paper_nafnet,
}
EPOCHS, PATIENCE = 100, 10
CARE_RATE, NAFNET_RATE, NAFNET_LAST_RATE = 4e-4, 1e-3, 1e-7
NAFNET_CLIP = 0.01


@dataclass(frozen=True, slots=True)
class Budget:
    """Length of a rival's training, in minutes or in steps.

    Parameters
    ----------
    minutes : float
        Used if `steps` is 0.
    steps : int
        0 for as many as the minutes allow.
    """

    minutes: float
    steps: int = 0

    def share(self, step: int, seconds: float) -> float:
        """The share of the budget that is spent, 0 to 1."""
        return min(step / self.steps if self.steps else seconds / (60 * self.minutes), 1.0)


@dataclass(frozen=True, slots=True)
class Record:
    """The data and the duration of a rival's training."""

    name: str
    parameters: int
    steps: int
    seconds: float
    validation_loss: float
    seed: int
    batch: int
    size: int
    device: str
    torch: str
    data: dict[str, object]


class _Exported(RefocusNetwork):
    """A rival in the form that the exporter needs; its sides are multiples of 32, as in evaluations of rivals."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.defocus = None

    def decode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The restored frames, also in place of features, which only a defocus head would use."""
        restored: Tensor = self.network(raw)
        return restored, restored


class _Recipe:
    """Loss, optimiser and learning rate of one rival's authors."""

    def __init__(self, network: nn.Module) -> None:
        self._care = isinstance(network, CareUNet)
        self._network = network
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.Adam(network.parameters(), lr=CARE_RATE)
            if self._care
            else torch.optim.AdamW(
                network.parameters(), lr=NAFNET_RATE, betas=(0.9, 0.9), weight_decay=1e-3
            )
        )
        self._best, self._waited = math.inf, 0

    def loss(self, restored: Tensor, truth: Tensor) -> Tensor:
        if self._care:
            return (restored - truth).abs().mean()
        squares = (restored - truth).square().mean(dim=(1, 2, 3))
        return 10 / math.log(10) * torch.log(squares + 1e-8).mean()

    def before(self, share: float) -> None:
        """Set the learning rate for the next step."""
        if not self._care:
            rate = NAFNET_LAST_RATE + 0.5 * (NAFNET_RATE - NAFNET_LAST_RATE) * (
                1 + math.cos(math.pi * share)
            )
            self._set(rate)

    def clip(self) -> None:
        if not self._care:
            nn.utils.clip_grad_norm_(self._network.parameters(), NAFNET_CLIP)

    def validated(self, loss: float) -> bool:
        """Note a validation loss; returns whether the current weights are to be kept."""
        if not self._care:
            return True
        if loss < self._best:
            self._best, self._waited = loss, 0
            return True
        self._waited += 1
        if self._waited >= PATIENCE:
            self._waited = 0
            self._set(0.5 * self.optimiser.param_groups[0]["lr"])
        return False

    def _set(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate


def train_rival(
    name: str,
    network: nn.Module,
    config: TrainingConfig,
    source: SampleSource,
    output: Path,
    budget: Budget,
    device: torch.device,
) -> Record:
    """Train one rival by its authors' recipe, and write its files.

    Parameters
    ----------
    name : str
        Name of the files.
    network : torch.nn.Module
        `CareUNet` or `NafNet`, newly initialised.
    config : TrainingConfig
        Configuration of the run to compare with; seed, batch and size are recorded.
    source : SampleSource
        Data of that run.
    output : Path
    budget : Budget
    device : torch.device
    """
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = _Recipe(network)
    validation = source.validation()
    kept = {key: value.detach().clone() for key, value in network.state_dict().items()}
    begun, spent_validating = time.monotonic(), 0.0
    step, epoch, last = 0, 0, math.nan
    with Prefetched(source.batches(0)) as batches, Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"training {name}", total=1.0)
        while (share := budget.share(step, _elapsed(begun, spent_validating))) < 1:
            recipe.before(share)
            raw, truth = _tensors(batches.take(), device)
            with torch.autocast(device.type, torch.bfloat16):
                restored = network(raw)
            loss = recipe.loss(restored.float(), truth)
            recipe.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            recipe.clip()
            recipe.optimiser.step()
            step += 1
            share = budget.share(step, _elapsed(begun, spent_validating))
            if int(share * EPOCHS) > epoch or share >= 1:
                epoch = int(share * EPOCHS)
                paused = time.monotonic()
                last = _validation_loss(network, recipe, validation, device)
                if recipe.validated(last):
                    kept = {k: v.detach().clone() for k, v in network.state_dict().items()}
                # Time spent on validation is not part of the budget.
                spent_validating += time.monotonic() - paused
            bar.update(task, completed=share, description=f"{name}, loss {last:.4f}")
    seconds = _elapsed(begun, spent_validating)
    network.load_state_dict(kept)
    network.eval().cpu()
    record = Record(
        name=name,
        parameters=sum(value.numel() for value in network.parameters()),
        steps=step,
        seconds=round(seconds, 1),
        validation_loss=round(
            _validation_loss(network, recipe, validation, torch.device("cpu")), 6
        ),
        seed=config.seed,
        batch=config.batch,
        size=config.size,
        device=f"{device.type}, {torch.get_num_threads()} threads, {platform.machine()}",
        torch=torch.__version__,
        data=source.description,
    )
    _write(network, record, output)
    return record


def _write(network: nn.Module, record: Record, output: Path) -> None:
    """Write weights, ONNX and record of a trained rival."""
    output.mkdir(parents=True, exist_ok=True)
    weights = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    save_file(weights, output / f"{record.name}.safetensors")
    export_onnx(_Exported(network), output / f"{record.name}.onnx")
    text = json.dumps(asdict(record), indent=1) + "\n"
    (output / f"{record.name}.json").write_text(text, encoding="utf-8")


def _elapsed(begun: float, not_counted: float) -> float:
    return time.monotonic() - begun - not_counted


def _tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    raw, truth = (torch.from_numpy(array).to(device) for array in (batch.raw, batch.truth))
    return raw.contiguous(memory_format=torch.channels_last), truth


def _validation_loss(
    network: nn.Module, recipe: _Recipe, batches: list[Batch], device: torch.device
) -> float:
    losses = []
    with torch.inference_mode():
        for batch in batches:
            raw, truth = _tensors(batch, device)
            losses.append(float(recipe.loss(network(raw), truth)))
    return sum(losses) / len(losses)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", type=Path, required=True, help="of the run to be rivalled")
    parser.add_argument("--data", type=Path, required=True, help="its data")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0, help="each (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="instead of minutes")
    parser.add_argument("--only", choices=sorted(RIVALS), action="append")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = load_config(arguments.config)
    for name in arguments.only or ("care", "nafnet"):
        source = open_samples(
            config.data, arguments.data, size=config.size, batch=config.batch, seed=config.seed
        )
        budget = Budget(arguments.minutes, arguments.steps)
        device = torch.device(arguments.device)
        torch.manual_seed(config.seed)
        record = train_rival(name, RIVALS[name](), config, source, arguments.output, budget, device)
        Console().print(
            f"{name}: {record.parameters / 1e6:.2f} M parameters, {record.steps} steps in "
            f"{record.seconds:.0f} s, validation loss {record.validation_loss:.4f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
