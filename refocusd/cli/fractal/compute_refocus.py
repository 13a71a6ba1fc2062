"""A Fractal task's second part: refocuses one image of a plate."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel, validate_call

from refocusd.cluster.job import refocus_position
from refocusd.cluster.order import JobResult, PositionOrder
from refocusd.errors import WorkerError
from refocusd.frame import counted

log = logging.getLogger(__name__)


class RefocusJob(BaseModel):
    """Order for one image, made by init_refocus.

    Parameters
    ----------
    order : str
        A PositionOrder of refocusd, as JSON.
    """

    order: str


@validate_call
def compute_refocus(*, zarr_url: str, init_args: RefocusJob) -> dict[str, Any]:
    """Refocus one image with the daemon's engines, blur estimate and verdicts.

    Tables (regions of interest) are copied; labels are not, as they belong to the blurred image.

    Parameters
    ----------
    zarr_url : str
        Path of the refocused image (standard argument, managed by Fractal server).
    init_args : RefocusJob
        Order for this image, made by init_refocus (managed by Fractal server).

    Raises
    ------
    WorkerError
        If a frame failed.
    """
    order = msgspec.json.decode(init_args.order, type=PositionOrder)
    result = JobResult.unpack(refocus_position(order.pack()))
    for attempt in result.attempts:
        log.info("%s: %s %s", attempt.axes, attempt.state, attempt.reason)
    if failed := [attempt for attempt in result.attempts if attempt.state == "failed"]:
        raise WorkerError(f"{zarr_url}: {counted(len(failed))} failed: {failed[0].reason}")
    raw, made = Path(order.raw) / order.position, Path(zarr_url)
    if (raw / "tables").is_dir():
        shutil.copytree(raw / "tables", made / "tables", dirs_exist_ok=True)
    attributes = {"plate": Path(order.output).name} if order.position else {}
    return {
        "image_list_updates": [{"zarr_url": zarr_url, "origin": str(raw), "attributes": attributes}]
    }


if __name__ == "__main__":
    from fractal_task_tools.task_wrapper import run_fractal_task

    run_fractal_task(task_function=compute_refocus)
