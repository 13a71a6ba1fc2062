"""All figures of one frame compared with the truth, in addition to `refocusd.imaging.quality`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.engines.verdict import flux_ratio
from refocusd.imaging.quality import BORDER
from refocusd_training.evaluation.measures.fourier_rings import (
    BETWEEN_NOISY,
    TO_NOISE_FREE,
    ring_resolution_um,
)
from refocusd_training.evaluation.measures.objects import IsolatedObjects, ObjectRatios
from refocusd_training.evaluation.measures.segmentation import (
    Agreement,
    Labels,
    agreement,
    nuclei_of,
)

#: Least side for MS-SSIM, px: at the coarsest of five scales, it holds one window of 11 px.
MS_SSIM_SIDE = 176

DEFINITIONS = {
    "psnr_db": "20 log10(range / RMS difference), range = 0.1-99.9 percentile of the truth",
    "psnr_affine_db": "the same after the least-squares offset and gain, as CARE does",
    "ssim": "mean structural similarity, Gaussian window of 1.5 px, same range (Wang et al. 2004)",
    "ms_ssim": "multi-scale structural similarity, five scales, same range, counts above the truth's "
    "0.1st percentile (Wang et al. 2003); none for frames below 208 px",
    "pearson": "correlation coefficient",
    "frc_um": "period at which the Fourier-ring correlation with the truth falls below 1/2, um; below "
    "1/7 where the truth is a frame with noise of its own (Rosenthal and Henderson 2003)",
    "flux_ratio": "light above the truth's 1st percentile, restored over true",
    "object_area": "area above half of its own peak of an isolated object, restored over true, median; "
    "objects are what Otsu's threshold finds in the truth, alone in their window",
    "area_within_15": "share of the isolated objects whose area is within 15 % of the true one",
    "object_light": "counts above the background in an isolated object's window, restored over true, "
    "median",
    "light_within_5": "share of the isolated objects whose light is within 5 % of the true one",
    "f1": "2 matched / (true + found) nuclei; Otsu and watershed on both frames, matched at an "
    "intersection over union of 0.5",
    "count_error": "(found - true) / true nuclei",
    "area_ratio": "area of all nuclei, restored over true",
    "invented": "restored nuclei that match no true one, per true nucleus",
    "lost": "true nuclei that no restored one matches, per true nucleus",
    "phantoms": "restored nuclei of which less than 10 % lies on a true one, per true nucleus",
    "vanished": "true nuclei of which less than 10 % lies on a restored one, per true nucleus",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Comparison of a restored frame with the truth; see `DEFINITIONS`.

    Parameters
    ----------
    ms_ssim, frc_um, flux_ratio : float
        NaN if the frame is too small.
    objects : ObjectRatios
        Size and light of isolated objects.
    nuclei : Agreement or None
        None for channels without nuclei.
    """

    ms_ssim: float
    frc_um: float
    flux_ratio: float
    objects: ObjectRatios
    nuclei: Agreement | None


class Truth:
    """A true frame; quantities that depend only on it are computed once for all methods.

    Parameters
    ----------
    frame : ndarray of real numbers, shape (height, width)
        Counts.
    pixel_um : float
    nuclear : bool
        Whether to segment nuclei.
    noisy : bool
        Whether it is a camera's frame rather than a noise-free simulated one.
    """

    def __init__(
        self, frame: NDArray[Any], pixel_um: float, *, nuclear: bool, noisy: bool = False
    ) -> None:
        self._threshold = BETWEEN_NOISY if noisy else TO_NOISE_FREE
        self._inner = _inner(frame)
        self._pixel_um = pixel_um
        low, high = np.percentile(self._inner, (0.1, 99.9))
        self._low, self._range = float(low), float(high - low) or 1.0
        self._background = float(np.percentile(self._inner, 1))
        self._objects = IsolatedObjects(self._inner)
        self.nuclei: Labels | None = nuclei_of(self._inner, pixel_um) if nuclear else None

    def compare(self, image: NDArray[Any]) -> Figures:
        """Compute every figure of a restored frame of the same shape, without its border."""
        inner = _inner(image)
        return Figures(
            ms_ssim=ms_ssim(inner - self._low, self._inner - self._low, self._range),
            frc_um=ring_resolution_um(
                inner, self._inner, self._pixel_um, threshold=self._threshold
            ),
            flux_ratio=flux_ratio(self._inner, inner, self._background),  # type: ignore[arg-type]
            objects=self._objects.compare(inner),
            nuclei=None
            if self.nuclei is None
            else agreement(nuclei_of(inner, self._pixel_um), self.nuclei),
        )


def ms_ssim(image: NDArray[Any], truth: NDArray[Any], span: float) -> float:
    """Multi-scale structural similarity (Wang et al. 2003, Asilomar 37:1398).

    It is computed by torchmetrics; single precision is enough after scaling to the range.

    Parameters
    ----------
    image, truth : ndarray of real numbers, shape (height, width)
        Without the camera's offset, which would make any two frames alike.
    span : float
        Range of the truth.

    Returns
    -------
    float
        At most 1; NaN where a side is below 176 px.
    """
    if min(truth.shape) < MS_SSIM_SIDE:
        return math.nan
    import torch
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as similarity,
    )

    a, b = (
        torch.from_numpy(np.asarray(frame / span, dtype=np.float32))[None, None]
        for frame in (image, truth)
    )
    return float(similarity(a, b, data_range=1.0, sigma=1.5, kernel_size=11))


def _inner(frame: NDArray[Any]) -> NDArray[np.float64]:
    return frame[BORDER:-BORDER, BORDER:-BORDER].astype(np.float64)
