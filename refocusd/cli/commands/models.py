"""``refocusd models``: list, add, remove, test and build models.

The models that refocusd can use: shipped ones, and those in your model folder
(REFOCUSD_MODELS). Nothing in a model is executed; every file is checked
against its sha256.

examples:
  refocusd models                              list the models, and check every file
  refocusd models show live-nuclei             what it is for, how good it is, its files
  refocusd models add my-model.zip             add a bioimage.io model (2-D, ONNX)
  refocusd models test live-nuclei             run its test tensors on this computer
  refocusd models build live-nuclei --backend tensorrt --size 2048
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from refocusd.cli.console import console, plain, say, write_json
from refocusd.cli.flags import add_action, add_setting_flags, frame_size, settings_of
from refocusd.cli.model_summary import Listed, bundle_json, quality, summary_lines
from refocusd.config import WITHOUT_MODEL, EngineOptions
from refocusd.demo.specimen import Specimen
from refocusd.engines.choose import build_engine
from refocusd.engines.self_test import check_engine
from refocusd.errors import ConfigError, RefocusdError
from refocusd.frame import Pixels
from refocusd.models.bundle import load_bundle
from refocusd.models.install import add_bundle, remove_bundle
from refocusd.models.library import models_folder, shipped_bundles, user_bundles

_FLAGS = ("backend", "precision", "device")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.set_defaults(bundle=[], json=None)
    actions = parser.add_subparsers(metavar="ACTION")

    list_ = add_action(actions, "list", run, "check and list the models")
    list_.add_argument("bundle", nargs="*", help="further bundles (folders) to check")
    show = add_action(actions, "show", _show, "show a model's card, optics, files and figures")
    add = add_action(actions, "add", _add, "check a model and copy it into your model folder")
    add.add_argument("path", type=Path, help="folder or zip of a bioimage.io model")
    add.add_argument("--name", help="name of the model (default: its own id)")
    add.add_argument(
        "--replace", action="store_true", help="replace an existing model of this name"
    )
    remove = add_action(actions, "remove", _remove, "delete a model from your model folder")
    remove.add_argument("model", metavar="NAME")
    test = add_action(
        actions,
        "test",
        _test,
        "run a model's test tensors through an engine; exit with 1 if results differ",
    )
    build = add_action(actions, "build", _build, "build and warm up a model's engine now")
    build.add_argument(
        "--size",
        type=frame_size,
        default="512",
        metavar="W[xH]",
        help="frame size, px (default: 512)",
    )
    for one in (show, test, build):
        one.add_argument("model", metavar="NAME", help="name of a model, or a bundle's folder")
    for one in (test, build):
        add_setting_flags(one, *_FLAGS)
    for one in (list_, show, test):
        one.add_argument("--json", metavar="FILE", help="write the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    names = [*shipped_bundles(), *user_bundles(), *arguments.bundle]
    listed = [_listed(name) for name in dict.fromkeys(names)]
    table = Table("model", "meant for", "refocused", "from", "state")
    # A long path is folded, so that the other columns keep their width.
    table.columns[0].overflow = "fold"
    table.columns[0].min_width = max(map(len, shipped_bundles()))
    for item in listed:
        name = item.name if item.id in ("", item.name) else f"{item.name}\n({item.id})"
        cells = (name, item.meant_for, item.quality, item.origin, item.state)
        table.add_row(*map(plain, cells))
    console.print(table)
    for item in listed:
        if item.error:
            say(f"{item.name}: {item.error}")
    say(f"your models: {models_folder()}")
    write_json(arguments.json, {"models": [asdict(item) for item in listed]})
    return 1 if any(item.error for item in listed) else 0


def _listed(name: str) -> Listed:
    origin = "shipped" if name in shipped_bundles() else "given"
    if name in user_bundles():
        origin = "yours"
    try:
        return Listed.of(name, load_bundle(name), origin)
    except RefocusdError as error:
        return Listed(name, origin=origin, error=str(error))


def _show(arguments: argparse.Namespace) -> int:
    bundle = load_bundle(arguments.model)
    figures = bundle_json(bundle)
    for line in summary_lines(bundle):
        say(line)
    if quality(figures["metrics"]):
        say(f"  refocused  {quality(figures['metrics'])} (PSNR, mean over defocus)")
    table = Table("file", "KiB", "sha256")
    for file in figures["files"]:
        table.add_row(plain(file["name"]), f"{file['bytes'] / 1024:.0f}", file["sha256"])
    console.print(table)
    if bundle.card:
        say(bundle.card)
    write_json(arguments.json, figures)
    return 0


def _add(arguments: argparse.Namespace) -> int:
    added = add_bundle(
        arguments.path, frames=_typical, name=arguments.name, replace=arguments.replace
    )
    if added.adopted is not None:
        say(
            "made elsewhere; measured here: its own test tensor is reproduced within "
            f"{added.adopted.deviation:.1g}, sides are multiples of {added.adopted.size_multiple} px, the "
            f"receptive field is {added.adopted.receptive_field_px} px"
        )
    say(
        f"{added.name} is in {added.bundle.folder}; use it with `refocusd run --model {added.name}`"
    )
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    say(f"{remove_bundle(arguments.model)} is deleted")
    return 0


def _test(arguments: argparse.Namespace) -> int:
    bundle = load_bundle(arguments.model)
    engine = build_engine(arguments.model, _options(arguments))
    try:
        about = engine.description
        checks = check_engine(bundle, engine)
    finally:
        engine.close()
    table = Table("tensors", "frames", "largest", "p99.9", "tolerance", "")
    for check in checks:
        table.add_row(
            check.name,
            str(check.frames),
            f"{check.largest:.2e}",
            f"{check.p99_9:.2e}",
            f"{check.tolerance:.2e}",
            "good" if check.good else "OUT",
        )
    say(f"{bundle.model_id} on {about.backend} in {about.precision} ({about.device})")
    console.print(table)
    say("differences in network units (1: from the low to the high percentile of a frame)")
    good = all(check.good for check in checks)
    write_json(
        arguments.json,
        {
            "model": bundle.model_id,
            "sha256": bundle.sha256,
            "engine": asdict(about),
            "tensors": [{**asdict(check), "good": check.good} for check in checks],
            "good": good,
        },
    )
    return 0 if good else 1


def _build(arguments: argparse.Namespace) -> int:
    begun = time.perf_counter()
    engine = build_engine(arguments.model, _options(arguments))
    built = time.perf_counter()
    try:
        engine.warm_up(arguments.size)
        about = engine.description
    finally:
        engine.close()
    height, width = arguments.size
    say(
        f"{about.model_id}: {about.backend} in {about.precision} on {about.device}, built in "
        f"{built - begun:.1f} s, warmed up for {width}×{height} px in {time.perf_counter() - built:.1f} s; "
        f"key {about.key}"
    )
    return 0


def _options(arguments: argparse.Namespace) -> EngineOptions:
    options = settings_of(arguments, *_FLAGS).engine_options
    if options.backend in WITHOUT_MODEL:
        raise ConfigError(
            f"backend = {options.backend} does not run models: name another --backend"
        )
    return options


def _typical() -> list[Pixels]:
    """Frames on which a foreign network is measured: the demo's specimen, in and out of focus."""
    import numpy as np

    specimen = Specimen()
    rng = np.random.default_rng(0)
    return [specimen.frame("DAPI", defocus, 10.0, rng) for defocus in (0.0, 8.0, 16.0)]
