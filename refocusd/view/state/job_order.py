"""Order for a job: one of refocusd's own commands, with the options that a page may choose."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from refocusd.errors import InputError
from refocusd.models.library import shipped_bundles, user_bundles


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A measurement of ``refocusd calibrate``, and its flags; not every measurement has all of them.

    Parameters
    ----------
    measure : str
        A measurement; or ``use``, which puts the profile that `JobOrder.path` names into service.
    dry_run : bool
        Only report what would move.
    flat : str
        For ``camera``: the flat recording; the dark one is the job's path.
    z_limits : (float, float)
        Range of stage positions that is safe for objective and specimen, um.
    """

    measure: Literal["focus", "psf", "camera", "use"]
    dry_run: bool = False
    flat: str = ""
    mm_config: str = ""
    channel: str = ""
    in_focus: str = ""
    z_from: float | None = None
    z_to: float | None = None
    z_step: float | None = None
    z_limits: tuple[float, float] | None = None
    exposure_ms: float | None = None
    pixel_um: float | None = None
    na: float | None = None
    wavelength_um: float | None = None
    refractive_index: float | None = None

    @property
    def draws(self) -> bool:
        """Whether the command draws a picture of the profile."""
        measures = self.measure != "use" and not self.dry_run
        return measures and find_spec("matplotlib") is not None

    def arguments(self, path: str, profile: str) -> list[str]:
        """The arguments after ``refocusd calibrate``.

        Parameters
        ----------
        path : str
            A recording; empty for the microscope.
        profile : str
            The file to write.
        """
        if self.measure == "use":
            return ["use", path]
        recorded = ["--from-recording", path, *filter(None, [self.flat])] if path else []
        # The page has already asked what the command would ask at a terminal.
        agreed = ["--yes"] if self.measure == "camera" and not path else []
        limits = ["--z-limits", *(f"{z:f}" for z in self.z_limits)] if self.z_limits else []
        report = [f"--report={picture_of(profile)}"] if self.draws else []
        flags = [
            f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
            for name, value in msgspec.structs.asdict(self).items()
            if name not in ("measure", "flat", "z_limits") and value not in ("", None, False)
        ]
        return [self.measure, *recorded, f"--output={profile}", *report, *agreed, *limits, *flags]


class JobOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of a few commands, with one path and few options.

    Parameters
    ----------
    command : str
    path : str
        Absolute path of a dataset or recording; for ``doctor``, of the folder where acquisitions
        are saved; empty for ``calibrate`` on the microscope.
    quick : bool
        For ``verify``: do not compare pixels.
    model : str
        For ``process``: name of the model; empty for that of the settings.
    file : str
        For ``export`` and ``calibrate``: absolute path of the file to write.
    fill : bool
        For ``export``: write zeros for missing frames.
    calibration : Calibration, optional
        For ``calibrate``.
    """

    command: Literal["process", "resume", "verify", "report", "export", "calibrate", "doctor"]
    path: str = ""
    quick: bool = False
    model: str = ""
    file: str = ""
    fill: bool = False
    calibration: Calibration | None = None

    @property
    def moves(self) -> bool:
        """Whether the microscope's stage or shutter moves."""
        return not self.path and self.calibration is not None and not self.calibration.dry_run

    @property
    def dry_run(self) -> JobOrder:
        """The same order as a dry run."""
        assert self.calibration is not None
        calibration = msgspec.structs.replace(self.calibration, dry_run=True)
        return msgspec.structs.replace(self, calibration=calibration)

    def arguments(self) -> list[str]:
        """The arguments of ``refocusd``.

        Raises
        ------
        InputError
            If a path is not absolute or does not exist, or the command does not have an option.
        """
        self._check()
        named = [self.path] if self.path else []
        if self.command == "doctor":
            return ["doctor", *(("--folder", *named) if named else ())]
        if self.calibration is not None:
            return ["calibrate", *self.calibration.arguments(self.path, self.file)]
        quick = ["--quick"] if self.quick else []
        model = ["--model", self.model] if self.model else []
        output = ["--output", self.file] if self.file else []
        fill = ["--fill"] if self.fill else []
        return [self.command, *named, *quick, *model, *output, *fill]

    def _check(self) -> None:
        calibration = self.calibration
        if (self.command == "calibrate") != (calibration is not None):
            raise InputError(f"calibrate, and only calibrate, needs calibration: {self.command}")
        needed = self.command != "doctor" and not (calibration and calibration.measure != "use")
        _check_path(self.path, "of a dataset", needed=needed)
        for option, commands in _OPTIONS.items():
            if getattr(self, option) and self.command not in commands:
                raise InputError(f"{option} is for {commands[0]}, not for {self.command}")
        if self.model and self.model not in (*shipped_bundles(), *user_bundles()):
            raise InputError(f"there is no model {self.model!r}; `refocusd models` lists them")
        writes = self.command == "export" or (calibration and calibration.measure != "use")
        if writes and not Path(self.file).is_absolute():
            raise InputError(f"{self.file!r}: give the full path of the file to write")
        if calibration is not None:
            _check_path(calibration.flat, "of the flat recording", needed=False)


#: The commands that have an option.
_OPTIONS = {
    "quick": ("verify",),
    "model": ("process",),
    "file": ("export", "calibrate"),
    "fill": ("export",),
}


def _check_path(text: str, what: str, *, needed: bool) -> None:
    """Refuse a path that does not exist, or is relative: the view runs in an arbitrary folder."""
    path = Path(text)
    if not path.is_absolute() and (text or needed):
        raise InputError(f"{text!r}: give the full path {what}, from the root or drive on")
    if text and not (path.is_dir() or path.is_file()):
        raise InputError(f"{text} does not exist: give the folder or file {what}")


def picture_of(profile: str) -> Path:
    """The picture beside a profile."""
    return Path(profile).with_suffix(".png")
