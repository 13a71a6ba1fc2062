"""Performs a run, from its configuration to its record."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from refocusd.cli.console import say
from refocusd.errors import ConfigError, InputError, OutputError
from refocusd_training.config import TrainingConfig
from refocusd_training.data.samples import Batch, Prefetched
from refocusd_training.data.source import ExposureSource, SampleSource, open_samples
from refocusd_training.loop.checkpoint import Checkpoints
from refocusd_training.loop.feed import ExposingFeed, Feed, seed_of
from refocusd_training.loop.files import (
    BEST_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    misfit_of,
    not_written,
    read_record,
    read_state,
    write_record,
    write_whole,
)
from refocusd_training.loop.folder import load_weights, origin_of, prepare, ranges_of_run
from refocusd_training.loop.log import Log
from refocusd_training.loop.module import Refocusing
from refocusd_training.loop.record import RunRecord, described_device, versions
from refocusd_training.loop.teacher import load_teacher
from refocusd_training.loop.validation import Validation
from refocusd_training.networks import RefocusNetwork, build_network
from refocusd_training.simulate.ranges import Ranges

PRECISIONS: dict[str, Any] = {"bf16": "bf16-mixed", "f16": "16-mixed", "f32": "32-true"}
#: Opens the data of a process, given its seed and the ranges of optics and cameras.
Opener = Callable[[int, Ranges], SampleSource]


def run_training(
    config: TrainingConfig,
    data: Path,
    output: Path,
    *,
    device: str | None = None,
    resume: bool = False,
) -> RunRecord:
    """Train a network and write its checkpoints to a new folder.

    Under ``torchrun``, this process is one of several that train together, each on a GPU (or on
    the CPU) and with its own batch; the first process writes the files.

    Parameters
    ----------
    config : TrainingConfig
    data : Path
        Folder of the data that ``config.data`` describes.
    output : Path
        Run folder; it must be new or empty unless the run is resumed.
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:1``; by default CUDA if available.
    resume : bool
        Continue from the folder's latest checkpoint. Only the settings in
        `refocusd_training.loop.folder.MAY_CHANGE` may differ from before.

    Returns
    -------
    RunRecord

    Raises
    ------
    ConfigError
        If the configuration does not continue the run, or the device does not exist.
    InputError
        If the data cannot be used, or the loss diverged.
    OutputError
        If the folder is not empty, or cannot be written.
    KeyboardInterrupt
        After Ctrl-C, when a checkpoint has been written.
    """
    return train_on(config, opener_of(config, data), output, device=device, resume=resume)


def opener_of(config: TrainingConfig, data: Path) -> Opener:
    """Return a function that opens the data of a configuration."""

    def opened(seed: int, ranges: Ranges) -> SampleSource:
        return open_samples(
            config.data, data, size=config.size, batch=config.batch, seed=seed, ranges=ranges
        )

    return opened


def train_on(
    config: TrainingConfig,
    opener: Opener,
    output: Path,
    *,
    device: str | None = None,
    resume: bool = False,
) -> RunRecord:
    """Train on any source of samples; see `run_training`."""
    rank, devices = process_rank()
    target = _chosen_device(config, device, devices)
    if rank == 0:
        prepare(config, output, resume=resume)
    with _joined(target, rank, devices):
        return _train(config, opener, output, target, resume, devices, rank)


def process_rank() -> tuple[int, int]:
    """Rank of this process among those that ``torchrun`` started, and the number of processes."""
    if not torch.distributed.is_torchelastic_launched():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


@contextmanager
def _joined(device: str, rank: int, devices: int) -> Iterator[None]:
    """Wait for the other processes, which train together with this one."""
    if devices == 1:
        yield
        return
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        torch.distributed.barrier()
        yield
    finally:
        torch.distributed.destroy_process_group()


def _chosen_device(config: TrainingConfig, device: str | None, devices: int) -> str:
    """A device that exists; by default CUDA if there is one."""
    gpus = torch.cuda.device_count()
    chosen = device or ("cuda" if gpus else "cpu")
    kind, _, index = chosen.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (index and not index.isdigit()):
        raise ConfigError(f"{chosen} is not a device to train on; give cpu, cuda, cuda:1 or mps")
    if devices > 1 and (index or kind == "mps"):
        raise ConfigError(f"{devices} processes cannot train on {chosen}; give cpu or cuda")
    if kind == "cuda" and max(devices, int(index or 0) + 1) > gpus:
        raise ConfigError(
            f"{devices} devices of kind {chosen} are requested, but {gpus} GPUs are available"
        )
    if config.precision == "f16" and kind != "cuda":
        raise ConfigError(f"precision f16 needs a GPU, not {chosen}; give bf16 or f32")
    return chosen


def _train(
    config: TrainingConfig,
    opener: Opener,
    output: Path,
    device: str,
    resume: bool,
    devices: int,
    rank: int,
) -> RunRecord:
    """Train, alone or as one of several processes, in a folder made by `prepare`."""
    state = read_state(output / STATE_FILE) if resume else None
    if state is not None and state["step"] >= config.steps:
        return read_record(output)
    ranges, profile = ranges_of_run(output)
    threads = config.threads or (max((os.cpu_count() or 1) // devices, 1) if devices > 1 else 0)
    if threads:
        torch.set_num_threads(threads)
    network = _network(config, new=state is None)
    # After the network, because building it sets the random seed.
    teacher = load_teacher(config.teacher) if config.teacher else None
    source = opener(seed_of(config.seed, rank), ranges)
    if rank == 0:
        _say_what_is_left_out(source.description)
    held_out = _held_out(config, source, devices)
    with _state_fits(output):
        module = Refocusing(config, network, state, teacher)
    log = Log(output, spent=float(state["seconds"]) if state else 0.0, minutes=config.minutes)
    validation = Validation(
        held_out,
        output,
        every=config.validate_every,
        patience=config.patience,
        state=state["validation"] if state else None,
    )

    def recorded(module: Refocusing) -> RunRecord:
        return _record(module, log, validation, source.description, devices, profile)

    # Checkpoints come last, so that the state includes what the others decide at a step.
    callbacks = [log, validation, Checkpoints(output, log, validation, recorded)]
    left = config.steps - module.step
    try:
        with _fed(config, source, module.step, device, rank) as feed, _lightning_of_another_torch():
            trainer = _trainer(config, output, device, devices, callbacks, steps=left)
            with _interruptible(log, alone=devices == 1):
                trainer.fit(module, train_dataloaders=feed)
    except OSError as error:
        raise not_written(output, error) from error
    finally:
        # Lightning tears down its callbacks only if nothing was raised.
        with suppress(OutputError):
            log.close()
    if log.interrupted:
        say(
            f"stopped after step {module.step}, with a checkpoint: continue with 'train run' and --resume"
        )
        raise KeyboardInterrupt
    if validation.ended and rank == 0:
        _keep_best(output)
    record = recorded(module)
    if rank == 0:
        write_record(output, record)
    return record


def _held_out(config: TrainingConfig, source: SampleSource, devices: int) -> list[Batch]:
    """Validation batches: none without validation, otherwise at least one for each device."""
    held_out = source.validation() if config.validate_every else []
    if config.validate_every and len(held_out) < devices:
        raise InputError(
            f"the data have {len(held_out)} validation batches for {devices} devices: hold more "
            "out (data.validate), or set validate_every to 0"
        )
    return held_out


@contextmanager
def _state_fits(output: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{output / STATE_FILE} does not continue this run ({misfit_of(error)}): start a new one"
        ) from error


def _say_what_is_left_out(data: Mapping[str, object]) -> None:
    skipped, problems = data.get("skipped"), data.get("problems")
    if isinstance(skipped, Mapping) and skipped:
        say("left out: " + ", ".join(f"{count} x {reason}" for reason, count in skipped.items()))
    for problem in problems if isinstance(problems, list) else ():
        say(f"  {problem}")


def _network(config: TrainingConfig, *, new: bool) -> RefocusNetwork:
    """The network of a run, with the weights with which a new run starts; sets the random seed."""
    # Weights that are loaded below, or were saved before, need no pre-trained encoder.
    network = build_network(config.network, config.seed, pretrained=new and not config.weights)
    if config.weights and new:
        load_weights(network, Path(config.weights), new_head=True)
        network.initialised = origin_of(Path(config.weights))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


@contextmanager
def _fed(
    config: TrainingConfig, source: SampleSource, done: int, device: str, rank: int
) -> Iterator[Feed | ExposingFeed]:
    """The rest of a run's batches, drawn ahead in a thread."""
    gpu = device.startswith("cuda")
    wanted = config.simulation == "device" or (config.simulation == "auto" and gpu)
    count = config.steps - done
    if not wanted or not isinstance(source, ExposureSource):
        with Prefetched(source.batches(done)) as batches:
            yield Feed(batches, count, pinned=gpu)
        return
    place = torch.device(f"cuda:{rank}" if device == "cuda" else device)
    with Prefetched(source.exposures(done)) as drawn:
        seed = seed_of(config.seed, rank)
        yield ExposingFeed(drawn, done, count, device=place, seed=seed)


@contextmanager
def _interruptible(log: Log, *, alone: bool) -> Iterator[None]:
    """Ctrl-C ends the run after its step, with a checkpoint; a second one ends it at once."""
    if not alone or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        log.interrupted = True
        signal.signal(number, former)

    former = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from error  # which Lightning turned into an exit
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def _lightning_of_another_torch() -> Iterator[None]:
    """Suppress the deprecation warnings of torch 2.13 that Lightning 2.6 causes, and its hints."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        # On a computer with SLURM, Lightning expects to be started by srun.
        warnings.filterwarnings("ignore", message=".*srun. command is available")
        yield


def _keep_best(output: Path) -> None:
    """Make the best weights those of the run, because the later ones were worse."""
    write_whole(output / WEIGHTS_FILE, (output / BEST_FILE).read_bytes())


def _trainer(
    config: TrainingConfig,
    output: Path,
    device: str,
    devices: int,
    callbacks: list[pl.Callback],
    *,
    steps: int,
) -> pl.Trainer:
    # Lightning's messages about devices and tips are for its own developers.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    kind, _, index = device.partition(":")
    chosen: int | list[int] = [int(index)] if index and kind == "cuda" else devices
    strategy: Any = "auto"
    environment: ClusterEnvironment = LightningEnvironment()
    if devices > 1:
        environment = TorchElasticEnvironment()
        # While the encoder is frozen, it has no gradients.
        strategy = DDPStrategy(find_unused_parameters=config.frozen_steps > 0)
    return pl.Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=chosen,
        strategy=strategy,
        precision=PRECISIONS[config.precision],
        max_epochs=1,
        max_steps=steps,
        callbacks=callbacks,
        logger=TensorBoardLogger(output, name="tensorboard", version=""),
        default_root_dir=output,
        plugins=[environment],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        enable_autolog_hparams=False,
    )


def _record(
    module: Refocusing,
    log: Log,
    validation: Validation,
    samples: Mapping[str, object],
    devices: int,
    profile: str | None,
) -> RunRecord:
    config = module.config
    ended = "patience" if validation.ended else "minutes" if log.ended else ""
    if not ended and module.step >= config.steps:
        ended = "steps"
    latest = validation.latest
    record = RunRecord(
        data=str(samples.get("data", "")),
        images=_training_images(samples.get("images", 0)),
        split_sha256=str(samples.get("split_sha256", "")),
        seed=config.seed,
        steps=module.step,
        planned_steps=config.steps,
        seconds=round(log.seconds, 1),
        final_loss=round(module.smoothed, 5),
        device=described_device(module.device),
        versions=versions(),
        profile=profile,
        devices=devices,
        batch=devices * config.batch,
        precision=config.precision,
        parameters=sum(p.numel() for p in module.network.parameters()),
        initialised=module.network.initialised,
        teacher=Path(config.teacher).name,
        validation_loss=round(latest.loss, 5) if latest else None,
        validation_psnr=round(latest.psnr, 3) if latest else None,
        best_step=validation.best_step if latest else None,
        ended=ended,
        samples=dict(samples),
    )
    if validation.ended:
        return replace(record, validation_loss=round(validation.best, 5), validation_psnr=None)
    return record


def _training_images(images: object) -> int:
    """Number of training images, from a source's description: a number, or one per channel and side."""
    if isinstance(images, Mapping):
        if "train" in images:
            return _training_images(images["train"])
        return sum(_training_images(value) for value in images.values())
    return images if isinstance(images, int) else 0
