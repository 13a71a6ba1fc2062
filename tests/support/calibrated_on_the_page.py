"""What the page's tests calibrate: a recorded series, and a microscope with beads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recordings_on_disk import write_ndtiff
from simulated_focus import FocusScene, depth_of_field_um

from refocusd.imaging.optics import Optics

#: The demo microscope, whose beads are at z = 0.
SWEEP = {
    "z_from": -6.3,
    "z_to": 6.7,
    "z_step": 1.0,
    "z_limits": [-20.0, 20.0],
    "exposure_ms": 2.0,
    "pixel_um": 1.0,
}


def through_focus(folder: Path) -> Path:
    """A recorded through-focus series whose focus is 0.4 um from its middle."""
    optics = Optics(0.45, 0.52)
    z_um = np.arange(-8, 9) * 0.45 * depth_of_field_um(optics)
    planes = FocusScene(optics, (160, 160), surface_um=(0.4, 0, 0, 0)).stack(z_um.tolist())
    said = [{"ZPosition_um_Intended": float(z), "Camera": "Zyla"} for z in z_um]
    return write_ndtiff(folder, [({"z": n}, plane, said[n]) for n, plane in enumerate(planes)], {})


def bead_microscope(folder: Path) -> Path:
    """Hardware configuration of a demo camera that shows beads; skips if there is none."""
    adapters = pytest.importorskip("mm_test_adapters", reason="the demo camera is not installed")
    demo = Path(adapters.device_adapter_path()) / "MMConfig_demo.cfg"
    beads = "Property,Camera,Mode,Fluorescent Beads\nProperty,Camera,PixelType,16bit\n"
    config = folder / "beads.cfg"
    config.write_text(demo.read_text(encoding="utf-8") + beads, encoding="utf-8")
    return config
