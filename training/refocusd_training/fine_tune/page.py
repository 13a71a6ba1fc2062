"""The page that shows a fine-tuning: images before and after, and a table."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refocusd.errors import OutputError
from refocusd_training.fine_tune.result import FineTuned, Frame

__all__ = ["write_page"]

#: Number of frames that are shown, spread from the largest loss to the largest gain.
SHOWN = 8

STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1100px;color:#1c2430}"
    "table{border-collapse:collapse}td,th{padding:.25em .8em;text-align:right;"
    "border-bottom:1px solid #d5dbe3}img{width:250px;image-rendering:pixelated}"
    "figure{display:inline-block;margin:0 .4em 1em 0}.worse{color:#b3261e}.better{color:#0b6b3a}"
)


def write_page(tuned: FineTuned, path: Path, *, title: str) -> None:
    """Write one HTML file with its pictures inside.

    Parameters
    ----------
    tuned : FineTuned
    path : Path
    title : str

    Raises
    ------
    OutputError
        If it cannot be written.
    """
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
    head = (
        "<h2>All held-out frames</h2><table><tr><th>defocus, um<th>PSNR before<th>after"
        "<th>change<th>SSIM before<th>after</tr>"
    )
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        summary,
        *(_pictures(ordered[int(i)]) for i in chosen),
        head,
        *(_row(frame) for frame in ordered),
        "</table></html>\n",
    ]
    try:
        path.write_text("\n".join(parts), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror})") from error


def _row(frame: Frame) -> str:
    change = frame.psnr_after - frame.psnr_before
    kind = "better" if change >= 0 else "worse"
    return (
        f"<tr><td>{_micrometres(frame)}<td>{frame.psnr_before:.2f}<td>{frame.psnr_after:.2f}"
        f"<td class='{kind}'>{change:+.2f}<td>{frame.ssim_before:.3f}<td>{frame.ssim_after:.3f}</tr>"
    )


def _pictures(frame: Frame) -> str:
    low, high = np.percentile(frame.truth, [0.1, 99.9])
    named = {
        f"raw, {_micrometres(frame)} um": frame.raw,
        f"before, {frame.psnr_before:.2f} dB": frame.before,
        f"after, {frame.psnr_after:.2f} dB": frame.after,
        "in focus": frame.truth,
    }
    return (
        "<div>"
        + "".join(
            f"<figure><img alt='{name}' src='{_png(image, float(low), float(high))}'>"
            f"<figcaption>{name}</figcaption></figure>"
            for name, image in named.items()
        )
        + "</div>"
    )


def _micrometres(frame: Frame) -> str:
    return "unknown" if np.isnan(frame.defocus_um) else f"{frame.defocus_um:+.1f}"


def _png(image: NDArray[np.float32], low: float, high: float) -> str:
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray((255 * grey).astype(np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
