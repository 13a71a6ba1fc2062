"""Order for a job: one of the product's own commands, with what the page may choose of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from refocusd.errors import InputError
from refocusd.models.library import shipped_bundles, user_bundles


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``refocusd calibrate`` measures, and its flags: of these, those that the command has.

    Parameters
    ----------
    measure : str
        A measurement; or ``use``, which puts the profile that `JobOrder.path` names into service.
    dry_run : bool
        Only tell what would move.
    flat : str
        ``camera``: the flat recording; the dark one is the job's path.
    z_limits : (float, float)
        Stage positions that are safe for objective and specimen, um.
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
        """Whether a picture of the profile is made."""
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
        # Those who started it from the page have read what is asked at a terminal.
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
        Absolute path of a dataset or recording; of ``doctor``, of the folder where acquisitions are
        saved; empty for ``calibrate`` on the microscope.
    quick : bool
        ``verify`` without comparing pixels.
    model : str
        Name of the model for ``process``; empty for that of the settings.
    file : str
        Absolute path of what ``export`` or ``calibrate`` writes.
    fill : bool
        ``export`` with zeros where a frame is missing.
    calibration : Calibration, optional
        Of ``calibrate``.
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
            If a path is not absolute or not there, or an option does not belong to the command.
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
            raise InputError(f"what to calibrate is for calibrate, which needs it: {self.command}")
        needed = self.command != "doctor" and not (calibration and calibration.measure != "use")
        _check_path(self.path, "of a dataset", needed=needed)
        for option, commands in _OPTIONS.items():
            if getattr(self, option) and self.command not in commands:
                raise InputError(f"{option} is for {commands[0]}, not for {self.command}")
        if self.model and self.model not in (*shipped_bundles(), *user_bundles()):
            raise InputError(f"there is no model {self.model!r}; `refocusd models` lists them")
        writes = self.command == "export" or (calibration and calibration.measure != "use")
        if writes and not Path(self.file).is_absolute():
            raise InputError(f"{self.file!r}: give the whole path of the file to write")
        if calibration is not None:
            _check_path(calibration.flat, "of the flat recording", needed=False)


#: Which commands have an option.
_OPTIONS = {
    "quick": ("verify",),
    "model": ("process",),
    "file": ("export", "calibrate"),
    "fill": ("export",),
}


def _check_path(text: str, what: str, *, needed: bool) -> None:
    """Refuse a path that is not there, or leads from where the view happens to run."""
    path = Path(text)
    if not path.is_absolute() and (text or needed):
        raise InputError(f"{text!r}: give the whole path {what}, from the root or drive on")
    if text and not (path.is_dir() or path.is_file()):
        raise InputError(f"{text} is not there: give the folder or file {what}")


def picture_of(profile: str) -> Path:
    """The picture beside a profile."""
    return Path(profile).with_suffix(".png")
