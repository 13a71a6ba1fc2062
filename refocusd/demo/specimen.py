"""The demo's specimen: real nuclei on a slide, imaged through focus by a small simulator.

The picture is real (`sample/PROVENANCE.md`); everything else is simulated: the
defocus (`refocusd.imaging.optics`), the camera and the channels.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import tifffile
from numpy.typing import NDArray

from refocusd.errors import ConfigError, InputError
from refocusd.imaging.optics import Optics, defocus_otf

#: Numerical aperture, in air.
NA = 0.45
SAMPLE = Path(__file__).parent / "sample" / "nuclei.tif"
#: Noise of the original picture in grey levels, from the median absolute value
#: of its second differences; it is the same (5) in background and nuclei.
_SAMPLE_NOISE = 5.0


@dataclass(frozen=True, slots=True)
class Camera:
    """A scientific CMOS camera, 12 bits in 16.

    Parameters
    ----------
    offset : float
        Counts of a dark frame.
    electrons_per_count : float
        Conversion gain.
    read_noise_electrons : float
        Standard deviation of the read noise.
    bits : int
        Counts saturate at ``2**bits - 1``.
    """

    offset: float = 100.0
    electrons_per_count: float = 2.0
    read_noise_electrons: float = 4.0
    bits: int = 12


@dataclass(frozen=True, slots=True)
class Stain:
    """What one channel shows.

    Parameters
    ----------
    name : str
        A preset of the configuration group `Channel`.
    wavelength_um : float
        Emission, in micrometres.
    electrons_per_ms : float
        Photoelectrons per pixel and millisecond at the 99th percentile of
        the picture.
    quarter_turns, mirrored : int, bool
        How the picture is turned to look like another stain.
    """

    name: str
    wavelength_um: float
    electrons_per_ms: float
    quarter_turns: int
    mirrored: bool = False


#: The presets of Micro-Manager's demo configuration.  With 10 ms the nuclei of
#: DAPI reach 900 counts, those of Cy5 500: the range of BBBC006.
CHANNELS = (
    Stain("DAPI", 0.461, 160.0, quarter_turns=0),
    Stain("FITC", 0.525, 120.0, quarter_turns=1),
    Stain("Rhodamine", 0.580, 100.0, quarter_turns=0, mirrored=True),
    Stain("Cy5", 0.670, 80.0, quarter_turns=2),
)


@dataclass(frozen=True, slots=True)
class FocalPlane:
    """The stage position that is in focus; it changes across a tilted slide.

    Parameters
    ----------
    z0_um : float
        Its z at x = y = 0, in micrometres.
    tilt_x, tilt_y : float
        Micrometres of z per micrometre of x, y.  Within one field, the tilt is
        ignored.
    """

    z0_um: float = 0.0
    tilt_x: float = 0.0
    tilt_y: float = 0.0

    def at(self, x_um: float = 0.0, y_um: float = 0.0) -> float:
        """Stage z in micrometres that is in focus at this stage position."""
        return self.z0_um + self.tilt_x * x_um + self.tilt_y * y_um


class Specimen:
    """Sharp fluorescence, and its image at any stage position.

    The objective is 20×/0.45 with 0.645 µm pixels, as for BBBC006.  The slide
    is endless: the picture is continued by mirror images, so that a field has no
    false border and the XY stage can be moved.  Only the first channel shows a
    stain that was really recorded; the others are the same picture turned
    or mirrored, with another brightness and wavelength, so that channels can be
    told apart.  They make no claim about biology.

    Noise is Gaussian with the variance of shot and read noise, taken from a
    pool at a random place for each frame.  There is no fixed pattern, but the noise
    of a frame can reappear, shifted, in a later one.

    Safe to use from several threads.

    Parameters
    ----------
    focus : FocalPlane, optional
    camera : Camera, optional
    planes_kept : int
        Blurred planes kept in memory (1 MiB each).

    Raises
    ------
    InputError
        If the sample picture is missing from the installation.
    """

    #: Camera pixel in the specimen plane, in micrometres.
    pixel_um = 0.645

    def __init__(
        self,
        *,
        focus: FocalPlane | None = None,
        camera: Camera | None = None,
        planes_kept: int = 64,
    ) -> None:
        self.focus = focus or FocalPlane()
        self.camera = camera or Camera()
        self._stains = {stain.name: stain for stain in CHANNELS}
        self._picture = _sharp_picture()
        # Four frames of normal deviates (4 MiB): drawing new ones for each frame
        # would take longer than everything else.
        self._noise = np.random.default_rng(0).standard_normal(
            4 * self._picture.size, dtype=np.float32
        )
        self._planes: OrderedDict[tuple[str, float, int, int], NDArray[np.float32]] = OrderedDict()
        self._planes_kept = max(1, planes_kept)
        self._lock = threading.Lock()

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(self._stains)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        height, width = self._picture.shape
        return height, width

    def optics(self, channel: str) -> Optics:
        """The optics with which a channel is imaged.

        Raises
        ------
        ConfigError
            If the specimen has no such channel.
        """
        return Optics(NA, self._stain(channel).wavelength_um, pixel_um=self.pixel_um)

    def sharp(self, channel: str) -> NDArray[np.float32]:
        """The light of a stain, before any blur.

        Returns
        -------
        ndarray of float32, shape (height, width)
            Photoelectrons per pixel and millisecond.
        """
        stain = self._stain(channel)
        picture = np.rot90(self._picture, stain.quarter_turns)
        if stain.mirrored:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(picture * np.float32(stain.electrons_per_ms))

    def expected(
        self,
        channel: str,
        z_um: float,
        *,
        exposure_ms: float = 10.0,
        xy_um: tuple[float, float] = (0.0, 0.0),
    ) -> NDArray[np.float32]:
        """The frame without noise.

        Parameters
        ----------
        channel : str
        z_um : float
            Stage position, in micrometres; in focus at ``focus.at(*xy_um)``.
        exposure_ms : float
        xy_um : (float, float)
            Stage position, in micrometres; rounded to whole pixels.

        Returns
        -------
        ndarray of float32, shape (height, width)
            Camera counts, offset included.

        Raises
        ------
        ConfigError
            If the specimen has no such channel, a number is not finite, or the exposure not positive.
        """
        return self._signal(channel, z_um, exposure_ms, xy_um) + np.float32(self.camera.offset)

    def truth(
        self,
        channel: str,
        *,
        exposure_ms: float = 10.0,
        xy_um: tuple[float, float] = (0.0, 0.0),
    ) -> NDArray[np.float32]:
        """The frame without noise and in focus: the target of refocusing.

        Returns
        -------
        ndarray of float32, shape (height, width)
            Camera counts, offset included.
        """
        return self.expected(channel, self.focus.at(*xy_um), exposure_ms=exposure_ms, xy_um=xy_um)

    def frame(
        self,
        channel: str,
        z_um: float,
        exposure_ms: float,
        rng: np.random.Generator,
        *,
        xy_um: tuple[float, float] = (0.0, 0.0),
    ) -> NDArray[np.uint16]:
        """One frame with shot and read noise, clipped to the camera's bits.

        Takes about 1 ms at 512×512 px, and 50 ms the first time at each stage position.

        Parameters
        ----------
        channel, z_um, exposure_ms, xy_um
            As for `expected`.
        rng : numpy.random.Generator
            Determines the noise: equal states give equal frames.

        Returns
        -------
        ndarray of uint16, shape (height, width)
        """
        counts = self._signal(channel, z_um, exposure_ms, xy_um)
        gain = self.camera.electrons_per_count
        start = int(rng.integers(self._noise.size - counts.size + 1))
        noise = self._noise[start : start + counts.size].reshape(counts.shape)
        # Poisson: the variance in counts is the signal over the gain.
        spread = counts * np.float32(1 / gain)
        spread += np.float32((self.camera.read_noise_electrons / gain) ** 2)
        np.sqrt(spread, out=spread)
        spread *= noise
        counts += spread
        # Adding 0.5 makes the truncation round; by then no value is negative.
        counts += np.float32(self.camera.offset + 0.5)
        np.clip(counts, 0, 2**self.camera.bits - 1, out=counts)
        return counts.astype(np.uint16)

    def _signal(
        self, channel: str, z_um: float, exposure_ms: float, xy_um: tuple[float, float]
    ) -> NDArray[np.float32]:
        """The counts above the offset, as a new array."""
        if not (math.isfinite(exposure_ms) and exposure_ms > 0):
            raise ConfigError(f"exposure is {exposure_ms} ms; give a positive time")
        if not all(math.isfinite(value) for value in (z_um, *xy_um)):
            raise ConfigError(f"stage position is {(*xy_um, z_um)} um; give finite numbers")
        rate = self._rate(channel, z_um, xy_um)
        return rate * np.float32(exposure_ms / self.camera.electrons_per_count)

    def _rate(self, channel: str, z_um: float, xy_um: tuple[float, float]) -> NDArray[np.float32]:
        """Photoelectrons per millisecond of one blurred field; kept, so it must not be changed."""
        height, width = self.shape
        x_um, y_um = xy_um
        top = round(y_um / self.pixel_um) % (2 * height)
        left = round(x_um / self.pixel_um) % (2 * width)
        # Rounding to a nanometre, finer than any stage, makes equal positions equal.
        defocus_um = round(z_um - self.focus.at(x_um, y_um), 3)
        key = (channel, defocus_um, top, left)
        with self._lock:
            rate = self._planes.get(key)
            if rate is None:
                rate = self._blurred(channel, defocus_um, top, left)
                self._planes[key] = rate
                if len(self._planes) > self._planes_kept:
                    self._planes.popitem(last=False)
            else:
                self._planes.move_to_end(key)
        return rate

    def _blurred(self, channel: str, defocus_um: float, top: int, left: int) -> NDArray[np.float32]:
        height, width = self.shape
        # The picture and its mirror images are one period of the endless slide:
        # the Fourier transform's wrap-around is then the reflection itself.
        slide = np.pad(self.sharp(channel), ((0, height), (0, width)), mode="symmetric")
        otf = defocus_otf(self.optics(channel), defocus_um, (2 * height, 2 * width))
        blurred = scipy.fft.irfft2(scipy.fft.rfft2(slide) * otf, s=slide.shape)
        rows = np.arange(top, top + height) % (2 * height)
        columns = np.arange(left, left + width) % (2 * width)
        # Rounding can leave -1e-6 where nothing shines.
        return np.asarray(np.maximum(blurred[np.ix_(rows, columns)], 0), np.float32)

    def _stain(self, channel: str) -> Stain:
        stain = self._stains.get(channel)
        if stain is None:
            raise ConfigError(
                f"the demo specimen has no channel {channel!r}; it has {', '.join(self._stains)}"
            )
        return stain


def _sharp_picture() -> NDArray[np.float32]:
    """The sample without its noise and background, scaled to 1 at the 99th percentile."""
    # Takes half a second to import, and only the demo needs it.
    from skimage.restoration import denoise_nl_means

    try:
        grey = tifffile.imread(SAMPLE).astype(np.float32)
    except OSError as error:
        raise InputError(
            f"the demo's sample picture {SAMPLE} cannot be read ({error}); reinstall refocusd"
        ) from error
    clean = denoise_nl_means(
        grey,
        patch_size=5,
        patch_distance=6,
        h=0.8 * _SAMPLE_NOISE,
        sigma=_SAMPLE_NOISE,
        preserve_range=True,
    )
    low, high = np.percentile(clean, (0.5, 99.0))
    return np.asarray(np.maximum((clean - low) / (high - low), 0), np.float32)
