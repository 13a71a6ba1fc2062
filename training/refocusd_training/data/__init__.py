"""Training data: makes batches from images, plates and stacks.

===================  ==============================================================
`config`             the ``[data]`` table of a run
`source`             what all kinds of data offer, and opening them
`images`             grey images on disk
`sides`              which well or field trains, validates and tests
`sharp`              sharp images for the simulator, one channel or several
`bbbc038`            the nuclei that the shipped bundle is trained on
`bbbc006`            plates of BBBC006: real pairs
`fetch_bbbc006`      getting them: `download`, `archive`
`stacks`             through-focus stacks of one's own: `ome_zarr`, `z_step`
`pairs`              pairs of real frames as batches
===================  ==============================================================

Which of the BBBC038 images train, validate and test: `refocusd_training.data.split`.
"""

from __future__ import annotations

from refocusd_training.data.bbbc038 import BBBC038_URL, fetch_bbbc038
from refocusd_training.data.config import DataConfig
from refocusd_training.data.images import find_images, pixels_digest, read_image
from refocusd_training.data.source import ExposureSource, SampleSource, open_samples

__all__ = [
    "BBBC038_URL",
    "DataConfig",
    "ExposureSource",
    "SampleSource",
    "fetch_bbbc038",
    "find_images",
    "open_samples",
    "pixels_digest",
    "read_image",
]
