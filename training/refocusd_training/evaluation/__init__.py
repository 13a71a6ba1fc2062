"""Evaluates a bundle; the result decides whether it ships.

===================  ==============================================================
`cases`              specimens of the test side before microscopes never drawn
`held_out`           which of their optics and noise training did not see
`methods`            the bundle, deconvolution and rivals behind one Protocol
`figures`            MS-SSIM, Fourier rings, flux, nuclei; PSNR: `refocusd.imaging.quality`
`fourier_rings`      down to which size the truth is shown
`segmentation`       nuclei by Otsu and watershed, invented and lost
`results`            every method on every frame
`summary`            means by level, microscope, specimens, channel
`report`             JSON, CSV, tables
`page`               curves and contact sheets, typical and worst, as HTML
`pair`               frames that were taken: one's own
`protocol`           BBBC006 as it is published on: planes 2, 6, 10 against 16
`defocus`            the defocus head's accuracy
===================  ==============================================================

Simulated truths are the noise-free expectation of the in-focus frame by the same optics
and camera; networks run through the engine that ships, so what is measured is what a
user gets.
"""

from __future__ import annotations

from refocusd_training.evaluation.cases import (
    AVERAGED_UM,
    LEVELS_UM,
    Case,
    channel_cases,
    deep_cases,
    held_out_cases,
    scene_of,
)
from refocusd_training.evaluation.defocus import defocus_accuracy
from refocusd_training.evaluation.methods import Exposure, Method, OnnxMethod
from refocusd_training.evaluation.report import print_table, write_csv, write_json
from refocusd_training.evaluation.results import Result, evaluate
from refocusd_training.evaluation.summary import summary

__all__ = [
    "AVERAGED_UM",
    "LEVELS_UM",
    "Case",
    "Exposure",
    "Method",
    "OnnxMethod",
    "Result",
    "channel_cases",
    "deep_cases",
    "defocus_accuracy",
    "evaluate",
    "held_out_cases",
    "print_table",
    "scene_of",
    "summary",
    "write_csv",
    "write_json",
]
