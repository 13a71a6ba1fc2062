"""A Fractal task's first part: makes the refocused plates, and a job for each image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from pydantic import validate_call

from refocusd.cli.offline import output_of_run
from refocusd.cluster.screen import Cluster
from refocusd.config import load_settings
from refocusd.formats.ome_zarr.store.groups import store_root
from refocusd.formats.open_dataset import open_dataset


@validate_call
def init_refocus(
    *,
    zarr_urls: list[str],
    zarr_dir: str,
    model: str | None = None,
    settings_file: str | None = None,
) -> dict[str, Any]:
    """Make a refocused plate beside each plate, with the same wells, fields, names and scales.

    It is named {plate}_refocused.zarr.  Frames that are in it already are not refocused again.

    Parameters
    ----------
    zarr_urls : list of str
        Paths of the images to refocus (standard argument, managed by Fractal server).
    zarr_dir : str
        Folder of the refocused plates (standard argument, managed by Fractal server).
    model : str, optional
        Name of a model, or path of a bundle's folder. The default is live-fluorescence.
    settings_file : str, optional
        Path of a refocusd.toml with other settings, such as channel_models.
    """
    settings = msgspec.structs.replace(load_settings(settings_file, {"model": model}), threads=1)
    cluster = Cluster(None)
    cluster.start(settings)
    jobs = []
    for store, positions in _by_store(zarr_urls).items():
        with open_dataset(store) as frames:
            keys = [k for k in frames.axes_keys() if json.loads(k).get("position", "") in positions]
            output, _ = output_of_run(frames, settings, cluster.run_of, Path(zarr_dir))
            with cluster.opened(frames, keys, output) as (dataset, orders):
                jobs += [
                    {
                        "zarr_url": str(dataset.sink.path / order.position),
                        "init_args": {"order": msgspec.json.encode(order).decode()},
                    }
                    for order in orders
                ]
    return {"parallelization_list": jobs}


def _by_store(zarr_urls: list[str]) -> dict[Path, set[str]]:
    """Positions of the images, by the plate (or the single image) that stores them."""
    found: dict[Path, set[str]] = {}
    for url in map(Path, zarr_urls):
        root = store_root(url)
        found.setdefault(root, set()).add("" if url == root else url.relative_to(root).as_posix())
    return found


if __name__ == "__main__":
    from fractal_task_tools.task_wrapper import run_fractal_task

    run_fractal_task(task_function=init_refocus)
