"""Records of frames, engines, workers and acquisitions in messages; plain data."""

from __future__ import annotations

from typing import Literal

import msgspec

from refocusd.frame import DType

#: Prefix of the reason of frames that failed because raw is at fault: another attempt would fail too.
UNFIT = "raw cannot be used"


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages; the tag is the class name."""


class Counts(msgspec.Struct, frozen=True):
    """Number of frames of one acquisition, by final state; `pending` frames have none yet."""

    acquired: int = 0
    refocused: int = 0
    passed_through: int = 0
    skipped: int = 0
    failed: int = 0
    pending: int = 0

    @property
    def final(self) -> int:
        """Frames that reached a final state."""
        return self.refocused + self.passed_through + self.skipped + self.failed


class EngineInfo(msgspec.Struct, frozen=True):
    """How a model is run, in enough detail to repeat it.

    Parameters
    ----------
    backend, precision, device : str
        For example ``openvino``, ``bf16``, ``CPU``.
    key : str
        Content key of the compiled engine.
    model_id, model_sha256 : str
        The bundle that it was built from.
    """

    backend: str
    precision: str
    device: str
    key: str
    model_id: str
    model_sha256: str


class Engines(EngineInfo, frozen=True):
    """All engines of a worker: that of most frames, and those of single channels.

    Parameters
    ----------
    channels : dict of str to EngineInfo
        Engines of channels with their own model, by name.
    """

    channels: dict[str, EngineInfo] = {}

    def of_channel(self, channel: str) -> EngineInfo:
        """The engine that made a frame: `channel` is one of `channels`, or empty for any other."""
        return self.channels[channel] if channel else self


class FocusAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """The distance of the stage from focus, and what is known of the direction.

    Parameters
    ----------
    offset_um : float
        To be added to the stage's z.  If the direction is not known, it is positive, and only
        its magnitude is meaningful.
    uncertainty_um : float
        Standard uncertainty (k = 1).
    direction_known : bool
    confidence : float
        Of the distance, 0 to 1.
    beyond : bool
        The true distance may be larger than the offset.
    in_focus : bool
        Within half the depth of field.
    estimates : int
        Number of estimates since the stage last moved, on which the advice is based.
    stage_um : float or None
        Position of the stage; None if no frame states it.
    drift_um_per_min, drift_uncertainty_um_per_min : float or None
        Drift of the focal plane in stage coordinates; None while it is not known.
    depth_of_field_um : float
        Full width.
    text : str
        The advice as one sentence.
    """

    offset_um: float
    uncertainty_um: float
    direction_known: bool
    confidence: float
    beyond: bool = False
    in_focus: bool = False
    estimates: int = 0
    stage_um: float | None = None
    drift_um_per_min: float | None = None
    drift_uncertainty_um_per_min: float | None = None
    depth_of_field_um: float = 0.0
    text: str = ""


class FocusOptics(msgspec.Struct, frozen=True):
    """Optics for an estimate of the defocus, see `refocusd.imaging.optics.Optics`.

    Parameters
    ----------
    measured : bool
        Whether they come from a calibration profile, rather than being nominal or assumed.
    """

    na: float
    wavelength_um: float
    refractive_index: float
    pixel_um: float
    spherical_waves: float = 0.0
    apodisation: float = 0.0
    measured: bool = False


class FrameFacts(msgspec.Struct, frozen=True):
    """What the worker measured of one frame.

    Parameters
    ----------
    offset, scale : float
        Counts; the engine saw (counts - offset) / scale.
    engine_ms : float
        Time inside the engine alone.
    worker_ms : float
        Time in the worker, including copies and normalisation.
    focus_before, focus_after : float
        Focus score of the raw and the refocused frame.
    flux_ratio : float
        Sum of the refocused frame above its background, divided by that of the raw frame.
    clipped : int
        Number of pixels clipped at the ends of the counts scale.
    verdict : str
        See `refocusd.engines.verdict`.
    written : str
        What the frame's pixels are: what the engine made of it (``refocused``), a deconvolution in
        its place, ``raw``, or ``nothing``, so that the frame is skipped.
    reasons : list of str
        Reasons of the verdict, in plain words.
    error_chance : float or None
        Probability that the error is above the bound of the verdict; None for raw frames.
    contrast, noise : float or None
        Height of the brightest structures above the background, and noise of one pixel, in counts.
    clipped_share : float or None
        Share of raw's pixels that are at the end of the counts scale, 0 to 1.
    unexplained : float or None
        Share of raw's structure that the frame, blurred again, does not explain.
    residual_chi2, worst_flux_change : float or None
        Median over the frame of the normalised squared residual; largest relative change of light
        in one tile.
    expected_error : float or None
        Root mean square error that the engine expects of the frame, in counts; None if it does not
        estimate it.
    interval_counts, interval_share : float or None
        90 % of the true pixels differ from the frame's by at most `interval_counts`, plus
        `interval_share` of the pixel's light above `offset`; None for raw pixels, and if the frame
        is not trusted.
    kept_share : float
        Share of the frame that was already in focus and is copied from raw.
    defocus_um, defocus_uncertainty_um : float or None
        Distance from focus, on either side, and its standard uncertainty; None if it was not
        requested, or cannot be estimated from the frame.
    defocus_confidence : float
        Confidence in `defocus_um`, 0 to 1.
    calibration : str or None
        Id of the calibration profile that applied.
    blur_px : float or None
        Standard deviation of the frame's blur; None if the engine did not estimate it, or it cannot
        be estimated from the frame.
    blur_uncertainty : float or None
        Its relative standard uncertainty.
    blur_source : str or None
        What `blur_px` mostly rests on: ``frame``, ``frames`` (with earlier ones), ``profile``,
        ``stack``, ``nominal``, ``memory`` or ``optics``, see `refocusd.imaging.blur.BlurEstimate`.
    """

    offset: float
    scale: float
    engine_ms: float
    worker_ms: float
    focus_before: float
    focus_after: float
    flux_ratio: float
    clipped: int
    verdict: Literal["trusted", "doubtful", "untrusted", "passed_through"]
    defocus_um: float | None = None
    defocus_uncertainty_um: float | None = None
    defocus_confidence: float = 0.0
    calibration: str | None = None
    blur_px: float | None = None
    blur_uncertainty: float | None = None
    blur_source: str | None = None
    written: Literal["refocused", "deconvolved", "raw", "nothing"] = "refocused"
    reasons: list[str] = []
    error_chance: float | None = None
    contrast: float | None = None
    noise: float | None = None
    clipped_share: float | None = None
    unexplained: float | None = None
    residual_chi2: float | None = None
    worst_flux_change: float | None = None
    kept_share: float = 0.0
    expected_error: float | None = None
    interval_counts: float | None = None
    interval_share: float | None = None


class KnownBlur(msgspec.Struct, frozen=True):
    """What is known of a frame's blur beforehand, see `refocusd.imaging.blur.BlurEstimate`."""

    sigma_px: float
    uncertainty: float
    source: Literal["profile", "stack", "nominal", "memory", "frames"]
    #: `refocusd.imaging.blur.PsfShape.gains`; empty where the form is not known.
    form: list[float] = []


class DoubtedFrame(msgspec.Struct, frozen=True):
    """A frame whose result is doubtful or untrusted.

    Parameters
    ----------
    acquisition, axes : str
        The acquisition's id, and the frame's canonical axes.
    verdict : str
    reasons : list of str
        Reasons of the verdict, in plain words.
    """

    acquisition: str
    axes: str
    verdict: str
    reasons: list[str]


class Histogram(msgspec.Struct, frozen=True):
    """Durations of one stage: how many took at most each bound, as Prometheus counts them.

    Parameters
    ----------
    bounds_ms : list of float
        Upper bounds of the buckets, without the last (infinite) one.
    counts : list of int
        Number of durations in each bucket, not cumulative; one entry more than `bounds_ms`.
    sum_ms : float
    """

    bounds_ms: list[float]
    counts: list[int]
    sum_ms: float


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker, as the broker sees it.

    Parameters
    ----------
    state : {"starting", "ready", "busy"}
    frames : int
        Number of frames it has answered.
    remote : bool
        Whether it runs on another host.
    rate : float
        Frames per second over the last ten seconds.
    """

    identity: str
    pid: int
    state: Literal["starting", "ready", "busy"]
    remote: bool
    frames: int
    rate: float
    engine: Engines | None


class AcquisitionStatus(msgspec.Struct, frozen=True):
    """One acquisition, open or among the last that ended.

    Parameters
    ----------
    state : {"waiting", "live", "catching up", "closing", "ended"}
    queued : int
        Number of frames in the daemon that no worker has yet.
    deferred : int
        Number of frames left to the catch-up, so that newer live frames go first.
    focus : FocusAdvice or None
        How far the stage is from focus, as of the newest estimate.
    """

    id: str
    name: str
    raw: str
    output: str
    run: str
    state: Literal["waiting", "live", "catching up", "closing", "ended"]
    height: int
    width: int
    dtype: DType
    counts: Counts
    queued: int
    deferred: int
    warnings: list[str]
    focus: FocusAdvice | None = None
