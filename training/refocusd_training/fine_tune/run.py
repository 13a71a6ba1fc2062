"""Trains a bundle further on a user's own frames, and refuses the result if it is worse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from refocusd.cli.html_page import write_page
from refocusd.errors import BundleError, ConfigError, InputError
from refocusd.imaging.quality import psnr, ssim
from refocusd.models.bundle import ModelBundle, load_bundle
from refocusd_training.config import TrainingConfig
from refocusd_training.data.config import DataConfig
from refocusd_training.data.source import SampleSource, open_samples
from refocusd_training.export.bundle import bundle_id, export_bundle
from refocusd_training.fine_tune.page import page_of
from refocusd_training.fine_tune.result import FineTuned, Frame
from refocusd_training.loop.files import WEIGHTS_FILE
from refocusd_training.loop.folder import network_of_run, ranges_of_run
from refocusd_training.loop.run import run_training
from refocusd_training.networks.config import NetworkConfig

PAGE_FILE = "before-after.html"
Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Parameters of a fine-tuning.

    Parameters
    ----------
    bundle : str
        Folder, or name of a shipped bundle.
    data : DataConfig
    steps : int
    minutes : float
        Time limit; 0 for none.
    learning_rate : float
        Highest rate; low, so that the network keeps what it has learnt.
    size, batch : int
        See `TrainingConfig`.
    profile : str
        Calibration profile for the simulator; "" for none.
    seed, threads : int
        See `TrainingConfig`.
    """

    bundle: str
    data: DataConfig
    steps: int = 600
    minutes: float = 0.0
    learning_rate: float = 1e-4
    size: int = 256
    batch: int = 4
    profile: str = ""
    seed: int = 2
    threads: int = 0


def fine_tune(
    job: FineTuning,
    data: Path,
    output: Path,
    *,
    to: Path | None = None,
    model_id: str | None = None,
    device: str | None = None,
) -> FineTuned:
    """Train a bundle further, compare, and export it if it became better.

    Parameters
    ----------
    job : FineTuning
    data : Path
        Folder of the data; the frames that ``job.data`` holds out decide whether it became better.
    output : Path
        New run folder; the page ``before-after.html`` in it shows the held-out frames.
    to : Path, optional
        Folder of the new bundle.
    model_id : str, optional
        Its id; by default the old one with ``-tuned``.
    device : str, optional
        A torch device; by default CUDA if available.

    Returns
    -------
    FineTuned

    Raises
    ------
    BundleError
        If the bundle has no weights of a network that can be trained.
    InputError
        If the data cannot be used or hold nothing out, or if the held-out frames became worse;
        in that case the page is written, but no bundle.
    """
    if to is not None and to.exists():
        raise ConfigError(f"{to} exists already: name a new folder for the bundle")
    bundle = load_bundle(job.bundle)
    model_id = model_id or f"{bundle.model_id}-tuned"
    if to is not None:
        bundle_id(to, model_id)
    config = _config(job, bundle)
    run_training(config, data, output, device=device)
    ranges, _ = ranges_of_run(output)
    source = open_samples(
        config.data, data, size=config.size, batch=config.batch, seed=config.seed, ranges=ranges
    )
    after = network_of_run(output)
    before = network_of_run(output, Path(config.weights))
    frames = _frames(source, before, after)
    if not frames:
        raise InputError(f"the held-out frames of {data} show no structure: give more fields")
    tuned = FineTuned(
        frames,
        fmean(frame.psnr_before for frame in frames),
        fmean(frame.psnr_after for frame in frames),
        fmean(frame.plain_before for frame in frames),
        fmean(frame.plain_after for frame in frames),
        output / PAGE_FILE,
    )
    write_page(tuned.page, page_of(tuned, f"{bundle.model_id}, fine-tuned"))
    if tuned.worse:
        raise InputError(
            f"fine-tuning made the {len(frames)} held-out frames worse: PSNR {tuned.after_db:.2f} dB "
            f"after, {tuned.before_db:.2f} dB before; offset and gain included, "
            f"{tuned.plain_after_db:.2f} after, {tuned.plain_before_db:.2f} before (see {tuned.page}). "
            "No bundle was written: give more fields, a lower --learning-rate or fewer --steps"
        )
    if to is not None:
        export_bundle(output, to, model_id=model_id)
    return tuned


def _config(job: FineTuning, bundle: ModelBundle) -> TrainingConfig:
    if bundle.weights is None:
        raise BundleError(
            f"the bundle {bundle.folder} has no {WEIGHTS_FILE}: only bundles that refocusd "
            "trained can be fine-tuned"
        )
    network = _network(bundle)
    return TrainingConfig(
        seed=job.seed,
        steps=job.steps,
        batch=job.batch,
        size=job.size,
        learning_rate=job.learning_rate,
        warm_up=min(20, job.steps),
        decay=job.steps // 4,
        # Long enough to smooth, short enough to forget the original weights.
        ema=0.98,
        checkpoint_every=max(job.steps // 4, 1),
        validate_every=max(job.steps // 4, 1),
        minutes=job.minutes,
        threads=job.threads,
        profile=job.profile,
        weights=str(bundle.weights.absolute()),
        network=network,
        data=job.data,
    )


def _network(bundle: ModelBundle) -> NetworkConfig:
    """The network that the bundle describes; the live one for older bundles without a description."""
    try:
        return msgspec.convert(bundle.network or {}, NetworkConfig)
    except (msgspec.ValidationError, ConfigError) as error:
        raise BundleError(
            f"the network of {bundle.folder} cannot be fine-tuned ({error}): use live-nuclei or a model "
            "from 'refocusd train run'; models that work at the scale of the blur are trained with "
            "'refocusd train blur-scale'"
        ) from error


def _frames(source: SampleSource, before: nn.Module, after: nn.Module) -> tuple[Frame, ...]:
    frames = []
    for batch in source.validation():
        earlier, later = (_refocused(network, batch.raw) for network in (before, after))
        for i, um in enumerate(batch.defocus_um):
            raw, truth = batch.raw[i, 0], batch.truth[i, 0]
            first, second = earlier[i, 0], later[i, 0]
            frames.append(
                Frame(
                    raw=raw,
                    truth=truth,
                    before=first,
                    after=second,
                    defocus_um=float(um),
                    psnr_before=psnr(first, truth, affine=True),
                    psnr_after=psnr(second, truth, affine=True),
                    plain_before=psnr(first, truth),
                    plain_after=psnr(second, truth),
                    ssim_before=ssim(first, truth),
                    ssim_after=ssim(second, truth),
                )
            )
    # A frame without structure has no range to measure errors against.
    return tuple(f for f in frames if np.isfinite([f.psnr_before, f.psnr_after]).all())


def _refocused(network: nn.Module, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        output: NDArray[np.float32] = network(torch.from_numpy(raw)).numpy()
    return output
