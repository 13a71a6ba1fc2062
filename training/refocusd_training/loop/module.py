"""One optimiser step, as Lightning runs it."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from refocusd.errors import InputError
from refocusd_training.config import TrainingConfig
from refocusd_training.loop.average import averaged
from refocusd_training.loop.feed import TensorBatch
from refocusd_training.loop.schedule import rates_at
from refocusd_training.losses import build_loss, defocus_loss
from refocusd_training.networks import RefocusNetwork

#: Number of consecutive gradient norms that may be NaN or infinite: mixed float16 lowers its
#: scale until they are finite.
MOST_SKIPPED = 20
#: Weight of the past in the smoothed loss.
SMOOTHING = 0.98
BETA2 = 0.999


class DivergedError(InputError):
    """Loss or gradient is no longer a finite number."""


class Refocusing(pl.LightningModule):
    """A network in training.

    Parameters
    ----------
    config : TrainingConfig
    network : RefocusNetwork
    state : mapping, optional
        Result of `state` from when the run was interrupted.
    teacher : RefocusNetwork, optional
        Its output is learned in addition to the truth.

    Attributes
    ----------
    step : int
        Steps done, over all sessions of the run.
    smoothed : float
        Smoothed loss; NaN before the first step.
    rate : float
        Learning rate of the latest step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: RefocusNetwork,
        state: dict[str, Any] | None = None,
        teacher: RefocusNetwork | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.loss = build_loss(config.loss)
        self.final_loss = build_loss(config.final_loss) if config.final_loss else self.loss
        self._encoder = _frozen_parameters(network) if config.frozen_steps else []
        self._resumed = state
        # In a list, so that its weights are not part of this module; DDP would synchronise them.
        self._average: list[AveragedModel] = []
        self._teacher = [teacher] if teacher else []
        self._skipped = 0
        self.step = int(state["step"]) if state else 0
        self.smoothed = float(state["loss"]) if state else math.nan
        self.rate = 0.0
        if state:
            network.load_state_dict(state["network"])
            network.initialised = str(state["initialised"])

    @property
    def average(self) -> RefocusNetwork:
        """The network with its averaged weights."""
        network = self._average[0].module
        assert isinstance(network, RefocusNetwork)
        return network

    def configure_optimizers(self) -> Optimizer:
        """Return AdamW, with a separate rate for the encoder if there is one."""
        encoder = {id(p) for p in self.network.encoder_parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.network.parameters() if id(p) not in encoder]}
        ]
        if encoder:
            groups.append({"params": [p for p in self.network.parameters() if id(p) in encoder]})
        return AdamW(groups, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

    def on_train_start(self) -> None:
        """Start the average and restore the run's state, after network and optimiser were created."""
        self._average = [averaged(self.network, self.config.ema)]
        for teacher in self._teacher:
            teacher.to(self.device)
        if self._resumed is None:
            return
        state, self._resumed = self._resumed, None
        self._average[0].load_state_dict(state["average"])
        self.optimizers(use_pl_optimizer=False).load_state_dict(state["optimiser"])  # type: ignore[union-attr]
        self.trainer.precision_plugin.load_state_dict(state["precision"])

    def training_step(self, batch: TensorBatch, index: int) -> Tensor:  # noqa: ARG002 - Lightning's
        """Loss of the next step."""
        self.step += 1
        self._set_rates()
        # Random numbers in layers depend only on the step, like the batches.
        torch.manual_seed((self.config.seed << 32) + self.step * 1024 + self.global_rank)
        last = self.step > self.config.steps - self.config.decay
        criterion = self.final_loss if last else self.loss
        return self.loss_of(self.network, batch, criterion, taught=True)

    def loss_of(
        self,
        network: RefocusNetwork,
        batch: TensorBatch,
        criterion: nn.Module,
        *,
        taught: bool = False,
    ) -> Tensor:
        """Loss of a network on a batch, computed in float32 whatever the network's precision.

        If it is `taught`, the teacher's output counts as a second truth. Validation does not use
        it, so that runs with and without a teacher can be compared.
        """
        raw = batch["raw"].contiguous(memory_format=torch.channels_last)
        if self.config.network.defocus_head:
            refocused, defocus = network.forward_with_defocus(raw)
        else:
            refocused, defocus = network(raw), None
        with torch.autocast(raw.device.type, enabled=False):
            loss: Tensor = criterion(refocused.float(), batch["truth"], batch["span"])
            if defocus is not None:
                term: Tensor = defocus_loss(defocus.float(), batch["defocus_um"])
                loss = loss + self.config.defocus_weight * term
        for teacher in self._teacher if taught else []:
            with torch.no_grad():
                answer = teacher(raw)
            with torch.autocast(raw.device.type, enabled=False):
                term = criterion(refocused.float(), answer.float(), batch["span"])
                loss = loss + self.config.teacher_weight * term
        return loss

    def _set_rates(self) -> None:
        rates = rates_at(self.config, self.step)
        self.rate = rates.rest
        for parameter in self._encoder:
            parameter.requires_grad_(not rates.frozen)
        groups = self.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]
        for group, rate in zip(groups, (rates.rest, rates.encoder), strict=False):
            # The frozen encoder's normalisation layers learn at the rate of the other layers.
            group["lr"] = rates.rest if rates.frozen else rate
            group["betas"] = (rates.beta, BETA2)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,  # noqa: ARG002 - Lightning's
        gradient_clip_val: float | None = None,  # noqa: ARG002
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002
    ) -> None:
        """Clip the gradient, and stop before a step that would spoil the weights.

        At this point the gradient is the mean over all processes, so if one of them diverged,
        all of them stop.
        """
        norm = float(clip_grad_norm_(self.network.parameters(), self.config.clip))
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        allowed = MOST_SKIPPED if self.config.precision == "f16" else 0
        if self._skipped > allowed:
            raise DivergedError(
                f"the loss diverged at step {self.step}: its gradient is {norm}. The checkpoint "
                "before it is kept: lower learning_rate, or choose precision f32"
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step, and update the average."""
        super().optimizer_step(*args, **kwargs)
        self._average[0].update_parameters(self.network)

    def follow(self, loss: float) -> None:
        """Update the smoothed loss with that of a step."""
        first = math.isnan(self.smoothed)
        self.smoothed = loss if first else SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss

    def state(self) -> dict[str, Any]:
        """The state from which a run is resumed: tensors and numbers."""
        optimiser: Any = self.optimizers(use_pl_optimizer=False)
        return {
            "network": self.network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": self._average[0].state_dict(),
            "precision": self.trainer.precision_plugin.state_dict(),
            "step": self.step,
            "loss": self.smoothed,
            "initialised": self.network.initialised,
        }


def _frozen_parameters(network: RefocusNetwork) -> list[nn.Parameter]:
    """The encoder's parameters without those of its normalisations, which always learn.

    It is the same in the reference method (fastai's ``train_bn``), because running statistics change anyway.
    """
    kinds = (nn.BatchNorm2d, nn.GroupNorm)
    norms = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, kinds)
        for parameter in module.parameters()
    }
    return [p for p in network.encoder_parameters() if id(p) not in norms]
