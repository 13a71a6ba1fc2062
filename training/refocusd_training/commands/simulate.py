"""`refocusd train simulate`: simulate the out-of-focus image of one picture."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from refocusd.errors import InputError, OutputError


def register(inner: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = inner.add_parser("simulate", help="simulate an out-of-focus frame of a sharp image")
    parser.add_argument("image", type=Path, help="sharp grey image, PNG or TIFF")
    parser.add_argument("--defocus-um", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True, help="TIFF to write")
    parser.add_argument(
        "--profile",
        type=Path,
        help="calibration profile, whose measured optics and camera are simulated",
    )
    parser.add_argument(
        "--na", type=float, help="numerical aperture (default: the profile's, or 0.45)"
    )
    parser.add_argument(
        "--wavelength-um", type=float, help="emission wavelength (default: the profile's, or 0.461)"
    )
    parser.add_argument(
        "--pixel-um", type=float, help="pixel size (default: the profile's, or 0.645)"
    )
    parser.add_argument("--peak", type=float, default=900.0, help="counts of bright structures")
    parser.add_argument(
        "--layers", type=int, default=1, help="layers of the specimen (default: 1, a plane)"
    )
    parser.add_argument(
        "--depth-um", type=float, default=0.0, help="depth over which several layers are spread"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the camera's noise")
    parser.set_defaults(command=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    import tifffile

    from refocusd.imaging.optics import Optics
    from refocusd.profiles.profile import load_profile
    from refocusd_training.data.images import read_image
    from refocusd_training.simulate.blur import Defocus
    from refocusd_training.simulate.camera import Camera
    from refocusd_training.simulate.ranges import Setting, measured
    from refocusd_training.simulate.scene import simulate_frame
    from refocusd_training.simulate.specimen import flux_of

    if arguments.output.exists():
        raise OutputError(f"{arguments.output} exists already: name another file")
    if not 0 < arguments.peak < 60000:
        raise InputError(f"a peak of {arguments.peak} counts does not fit 16 bits; give 1 to 60000")
    if not 1 <= arguments.layers <= 16 or not 0 <= arguments.depth_um <= 1000:
        raise InputError(
            f"{arguments.layers} layers over {arguments.depth_um:g} um cannot be simulated: give "
            "1 to 16 layers, and a depth of up to 1000 um"
        )
    if (arguments.layers > 1) != (arguments.depth_um > 0):
        raise InputError(
            f"{arguments.layers} layers over {arguments.depth_um:g} um are a plane: give --layers of 2 "
            "or more together with --depth-um"
        )
    if not abs(arguments.defocus_um) <= 1000 or arguments.seed < 0:
        raise InputError(
            f"a defocus of {arguments.defocus_um:g} um with seed {arguments.seed} cannot be simulated: "
            "give up to 1000 um on either side of focus, and a seed of 0 or more"
        )
    flux = flux_of(read_image(arguments.image))
    optics, camera = Optics(0.45, 0.461, pixel_um=0.645), Camera(bits=16)
    if arguments.profile:
        optics, camera = measured(load_profile(arguments.profile), (flux.shape[0], flux.shape[1]))
    given = {name: getattr(arguments, name) for name in ("na", "wavelength_um", "pixel_um")}
    optics = replace(optics, **{name: value for name, value in given.items() if value is not None})
    setting = Setting(
        "command line",
        optics,
        camera,
        arguments.peak,
        layers=arguments.layers,
        depth_um=arguments.depth_um,
    )
    scene = simulate_frame(
        flux,
        setting,
        Defocus(arguments.defocus_um),
        np.random.default_rng(arguments.seed),
    )
    tifffile.imwrite(arguments.output, scene.raw)
    Console().print(f"wrote {arguments.output}: {arguments.defocus_um:g} um out of focus")
    return 0
