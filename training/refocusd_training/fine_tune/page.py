"""The page that shows a fine-tuning: images before and after, and a table."""

from __future__ import annotations

import numpy as np

from refocusd.cli.html_page import document, grey_png, picture, table
from refocusd_training.fine_tune.result import FineTuned, Frame

#: Number of frames that are shown, spread from the largest loss to the largest gain.
SHOWN = 8


def page_of(tuned: FineTuned, title: str) -> str:
    """One HTML page with its pictures inside."""
    ordered = sorted(tuned.frames, key=lambda frame: frame.psnr_after - frame.psnr_before)
    chosen = np.unique(np.linspace(0, len(ordered) - 1, min(SHOWN, len(ordered))).round())
    verdict = "worse" if tuned.worse else "better"
    change = tuned.after_db - tuned.before_db
    plain = tuned.plain_after_db - tuned.plain_before_db
    summary = (
        f"<p>{len(ordered)} held-out frames: PSNR {tuned.before_db:.2f} dB before, "
        f"{tuned.after_db:.2f} dB after, <b class='{verdict}'>{verdict}: {change:+.2f} "
        f"dB</b>, and {plain:+.2f} dB where offset and gain count (one that falls is enough to refuse). "
        "PSNR against the frame in focus after an affine fit, less a 16 px border; all "
        "pictures of a row have the range of the frame in focus.</p>"
    )
    heads = ("defocus, um", "PSNR before", "after", "change", "SSIM before", "after")
    return document(
        title,
        [
            summary,
            *(_pictures(ordered[int(i)]) for i in chosen),
            "<h2>All held-out frames</h2>",
            table((_row(frame) for frame in ordered), heads),
        ],
    )


def _row(frame: Frame) -> tuple[object, ...]:
    change = frame.psnr_after - frame.psnr_before
    return (
        _micrometres(frame),
        *(f"{frame.psnr_before:.2f}", f"{frame.psnr_after:.2f}"),
        (f"{change:+.2f}", "better" if change >= 0 else "worse"),
        *(f"{frame.ssim_before:.3f}", f"{frame.ssim_after:.3f}"),
    )


def _pictures(frame: Frame) -> str:
    low, high = (float(end) for end in np.percentile(frame.truth, [0.1, 99.9]))
    named = {
        f"raw, {_micrometres(frame)} um": frame.raw,
        f"before, {frame.psnr_before:.2f} dB": frame.before,
        f"after, {frame.psnr_after:.2f} dB": frame.after,
        "in focus": frame.truth,
    }
    pngs = (picture(grey_png(image, low, high), name) for name, image in named.items())
    return f"<figure>{' '.join(pngs)}<figcaption>{'; '.join(named)}</figcaption></figure>"


def _micrometres(frame: Frame) -> str:
    return "unknown" if np.isnan(frame.defocus_um) else f"{frame.defocus_um:+.1f}"
