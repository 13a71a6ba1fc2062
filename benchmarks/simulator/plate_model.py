"""The simulator's model of the BBBC006 microscope, fitted to the real plate.

The sampling and the dye are published (Ljosa et al., Nature Methods 9, 637, 2012).  The rest is fitted to
statistics of ten Hoechst fields at z = 00: their power spectra, the blur that these imply, and their noise as a
function of brightness.  `benchmarks/simulator/simulator_validation.py` compares them with those of five other
fields at z = 16 after the simulator has defocused these.
"""

from __future__ import annotations

import numpy as np
from refocusd_training.simulate.blur import Defocus, best_focus_um
from refocusd_training.simulate.camera import Camera
from refocusd_training.simulate.ranges import Setting
from refocusd_training.simulate.scene import simulate_frame
from refocusd_training.simulate.specimen import flux_of

from refocusd.frame import Pixels
from refocusd.imaging.optics import Optics

#: The published aperture is 0.45.  A uniform pupil of that aperture gives a disc at z = 00, but the real blur
#: has a central peak and flanks that reach 39 px, like that of this apodised and aberrated pupil (-0.2 Zernike
#: waves).  Pupils up to NA 0.7 with more of both fit nearly as well: statistics determine the blur, not the lens.
PLATE_OPTICS = Optics(0.51, 0.461, pixel_um=0.645, spherical_waves=-1.17, apodisation=0.39)
#: The gain is from the photon transfer of the fields at z = 00. No dark frame is published; the
#: offset is below the darkest pixels (115 counts), and the read noise depends on it.
PLATE_CAMERA = Camera(offset=105.0, gain=3.2, read_noise=6.4, bits=12)
#: Nominally 32 um from the best focus.
PLATE_Z00 = Defocus(best_focus_um(PLATE_OPTICS) + 33.8)


def plate_frame(
    sharp: Pixels,
    rng: np.random.Generator,
    defocus: Defocus = PLATE_Z00,
    optics: Optics = PLATE_OPTICS,
) -> Pixels:
    """A sharp field of the plate as the plate's microscope images it out of focus.

    Parameters
    ----------
    sharp : ndarray of uint8 or uint16, shape (height, width)
        Camera counts of a field at z = 16.
    rng : numpy.random.Generator
        Draws the noise.
    defocus : Defocus
    optics : Optics

    Returns
    -------
    ndarray of uint16, same shape
        With the field's own brightness and background.
    """
    low, high = np.percentile(sharp, [2.0, 99.9])
    peak = float(high - low)
    haze = max(float(low) - PLATE_CAMERA.offset, 0.0) / peak
    setting = Setting("BBBC006 w1", optics, PLATE_CAMERA, peak, haze)
    return simulate_frame(flux_of(sharp), setting, defocus, rng).raw
