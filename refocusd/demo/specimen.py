"""The demo's specimen: real nuclei on a slide, imaged through focus by a small simulator.

The picture is real (`sample/PROVENANCE.md`); everything else is simulated and
said so here: the defocus (`refocusd.imaging.optics`), the camera, the channels.
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
#: Noise of the original picture in grey levels, by the median absolute value
#: of its second differences: the same (5) in background and nuclei.
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
        Standard deviation.
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
        Photoelectrons a pixel and millisecond where the picture has its 99th
        percentile.
    quarter_turns, mirrored : int, bool
        How the one picture is turned to look like another stain.
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
        At x = y = 0, in micrometres.
    tilt_x, tilt_y : float
        Micrometres of z per micrometre of x, y.  Within one field the plane is
        taken as flat.
    """

    z0_um: float = 0.0
    tilt_x: float = 0.0
    tilt_y: float = 0.0

    def at(self, x_um: float = 0.0, y_um: float = 0.0) -> float:
        """Stage z in micrometres that is in focus at this stage position."""
        return self.z0_um + self.tilt_x * x_um + self.tilt_y * y_um


class Specimen:
    """Sharp fluorescence and how the microscope sees it at any stage position.

    A 20×/0.45 objective on 0.645 µm pixels, as BBBC006 was taken.  The slide
    is endless: the picture is continued by mirror images, so a field has no
    false border and the XY stage can be moved.  Only the first channel is a
    stain that was really recorded; the others are the same picture turned
    or mirrored, at another brightness and wavelength, so that channels can be
    told apart.  Not a claim about biology.

    Noise is Gaussian with the variance of shot and read noise, drawn from a
    pool at a random place for each frame: no fixed pattern, but a frame's noise
    can reappear shifted in a later one.

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
        # Four frames of normal deviates (4 MiB): drawing them afresh takes
        # longer than everything else in a frame.
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
        """Give the optics a channel is imaged with.

        Raises
        ------
        ConfigError
            If the specimen has no such channel.
        """
        return Optics(NA, self._stain(channel).wavelength_um, pixel_um=self.pixel_um)

    def sharp(self, channel: str) -> NDArray[np.float32]:
        """Give what the stain emits, before any blur.

        Returns
        -------
        ndarray of float32, shape (height, width)
            Photoelectrons a pixel and millisecond.
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
        """Compute the frame without noise.

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
            If the specimen has no such channel, or a number is not one.
        """
        return self._signal(channel, z_um, exposure_ms, xy_um) + np.float32(self.camera.offset)

    def truth(
        self,
        channel: str,
        *,
        exposure_ms: float = 10.0,
        xy_um: tuple[float, float] = (0.0, 0.0),
    ) -> NDArray[np.float32]:
        """Compute the frame without noise and in focus: what refocusing is to find.

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
        """Take one frame with shot and read noise, clipped to the camera's bits.

        About 1 ms at 512×512, once a plane was seen (50 ms the first time).

        Parameters
        ----------
        channel, z_um, exposure_ms, xy_um
            As for `expected`.
        rng : numpy.random.Generator
            Decides the noise: equal states give equal frames.

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
        # Truncation after adding 0.5 rounds: nothing negative is left by then.
        counts += np.float32(self.camera.offset + 0.5)
        np.clip(counts, 0, 2**self.camera.bits - 1, out=counts)
        return counts.astype(np.uint16)

    def _signal(
        self, channel: str, z_um: float, exposure_ms: float, xy_um: tuple[float, float]
    ) -> NDArray[np.float32]:
        """Compute the counts above the offset, as a new array."""
        if not (math.isfinite(exposure_ms) and exposure_ms > 0):
            raise ConfigError(f"exposure is {exposure_ms} ms; give a positive time")
        if not all(math.isfinite(value) for value in (z_um, *xy_um)):
            raise ConfigError(f"stage position is {(*xy_um, z_um)} um; give finite numbers")
        rate = self._rate(channel, z_um, xy_um)
        return rate * np.float32(exposure_ms / self.camera.electrons_per_count)

    def _rate(self, channel: str, z_um: float, xy_um: tuple[float, float]) -> NDArray[np.float32]:
        """Photoelectrons a millisecond of one blurred field; kept, not to be changed."""
        height, width = self.shape
        x_um, y_um = xy_um
        top = round(y_um / self.pixel_um) % (2 * height)
        left = round(x_um / self.pixel_um) % (2 * width)
        # A nanometre is finer than any stage, and makes equal positions equal.
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
    """Load the sample without its noise and background; 1 at the 99th percentile."""
    # Half a second to import, and only the demo needs it.
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
