"""The result of a fine-tuning, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Frame:
    """One held-out frame in network units, and its PSNR (dB) and SSIM before and after fine-tuning.

    ``psnr_*`` are after the best offset and gain, ``plain_*`` is PSNR without them.
    """

    raw: Image
    truth: Image
    before: Image
    after: Image
    defocus_um: float
    psnr_before: float
    psnr_after: float
    plain_before: float
    plain_after: float
    ssim_before: float
    ssim_after: float


@dataclass(frozen=True, slots=True)
class FineTuned:
    """Result of a fine-tuning: mean PSNR over the held-out frames before and after it, in dB.

    It is given after an affine fit and, as ``plain``, without this fit, so that errors of offset and
    gain count as well.
    """

    frames: tuple[Frame, ...]
    before_db: float
    after_db: float
    plain_before_db: float
    plain_after_db: float
    page: Path

    @property
    def worse(self) -> bool:
        """Whether the mean PSNR fell, either after the affine fit or without it."""
        return self.after_db < self.before_db or self.plain_after_db < self.plain_before_db
