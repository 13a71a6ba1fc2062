"""`refocusd calibrate auto`: measures the PSF on z-stacks; run by the daemon and `refocusd process`."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from refocusd.cli.console import say, told_as_json
from refocusd.cli.flags import add_command, add_json_flag, add_setting_flags, settings_of
from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.files import output, remove
from refocusd.formats.scale import z_position_um
from refocusd.processes.priority import yield_to_acquisition
from refocusd.profiles.catalogue import LEARNED, Catalogue
from refocusd.profiles.microscope_metadata import na_of
from refocusd.profiles.profile import Learned, Microscope, Profile, PsfSection, save_profile
from refocusd_calibration.profile.identity import microscope_of

if TYPE_CHECKING:
    from refocusd.formats.dataset import Dataset

#: Niceness of this process, so that everything else goes first.
_NICENESS = 10
#: Largest number of such profiles; beyond it, the oldest is deleted.
_MOST_KEPT = 512


def register(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "auto",
        _calibrate,
        short="the PSF, on the z-stacks of a recording (run by the daemon and by process)",
        description="Measures the PSF on the z-stacks of a recording, as `psf --in-focus sharpest` does, and "
        "keeps it for the recording's frames if all checks pass. The daemon and `refocusd process` run "
        "this by themselves (self_calibrate).",
        epilog="",
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument(
        "--acquisition", required=True, metavar="UUID", help="id of the recording's acquisition"
    )
    parser.add_argument(
        "--elsewhere",
        action="store_true",
        help="keep it for this day's other acquisitions of that microscope, too",
    )
    add_setting_flags(parser, "calibrations", "na")
    add_json_flag(parser)


def _calibrate(arguments: argparse.Namespace) -> int:
    from refocusd.formats.open_dataset import open_dataset
    from refocusd_calibration.psf.automatic import stacks

    if arguments.elsewhere:  # run by the daemon, so nobody waits for it
        yield_to_acquisition(_NICENESS)
    settings = settings_of(arguments, "calibrations", "na")
    catalogue = Catalogue(settings.calibrations)
    said, kept = [], []
    with open_dataset(arguments.recording) as recording:
        for channel, keys in stacks(recording):
            name = f"the z-stack of channel {channel}" if channel else "the z-stack"
            try:
                profile = _profile(arguments, recording, keys, channel, settings.na, catalogue)
                kept.append(_keep(profile, catalogue.folder / LEARNED))
            except (ConfigError, InputError) as error:
                said.append(f"the PSF could not be measured on {name}: {error}")
                continue
            except OutputError as error:
                said.append(f"the PSF was measured on {name}, but cannot be saved: {error}")
                continue
            said.append(f"the PSF was measured on {name}: calibration profile {kept[-1]}")
    if not told_as_json(arguments.json, {"said": said, "profiles": kept}):
        for line in said or [f"{arguments.recording} holds no z-stack"]:
            say(line)
    return 0


def _profile(
    arguments: argparse.Namespace,
    recording: Dataset,
    keys: list[str],
    channel: str,
    na: float,
    catalogue: Catalogue,
) -> Profile:
    """The profile that is measured on one stack.

    Raises
    ------
    InputError
        If the PSF cannot be measured on it, or a check fails.
    """
    from refocusd_calibration.profile.write import with_section
    from refocusd_calibration.psf.automatic import measure_automatically, read_stack

    stack = read_stack(recording, keys)
    if stack is None:
        raise InputError("the file does not state the pixel size and the distance of the planes")
    na = na or na_of(stack.metadata) or 0.0
    measured = measure_automatically(stack, na or None)
    if failed := [item for item in measured.checks if not item.passed]:
        raise InputError("these checks failed: " + ", ".join(item.name for item in failed))
    microscope = microscope_of(None, stack.metadata, channel=channel, pixel_um=stack.pixel_um)
    # Other acquisitions can use it only if their frames state the camera and the stage position.
    elsewhere = (
        arguments.elsewhere and microscope.camera and z_position_um(stack.metadata) is not None
    )
    learned = Learned(
        recording=str(recording.path),
        acquisition=arguments.acquisition,
        elsewhere=bool(elsewhere) and not _is_better_known(catalogue, microscope, measured.section),
    )
    profile = with_section(None, microscope, measured.section, (), measured.checks)
    return msgspec.structs.replace(profile, learned=learned)


def _is_better_known(catalogue: Catalogue, microscope: Microscope, section: PsfSection) -> bool:
    """Whether another stack of this day gave a PSF with at most this misfit."""
    said = {"Camera": microscope.camera, "PixelSizeUm": microscope.pixel_um}
    others = [p.psf for p in catalogue.learned_lately(said) if p.microscope == microscope and p.psf]
    return any((other.misfit or 0.0) <= (section.misfit or 0.0) for other in others)


def _keep(profile: Profile, folder: Path) -> str:
    """Write a profile, remove the oldest ones if there are too many, and return its id."""
    assert profile.learned
    with output(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_profile(profile, folder / f"{profile.learned.acquisition}-{profile.id()}.json")
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for old in files[:-_MOST_KEPT]:
        with suppress(OSError):  # an older profile may be in use; the new one is written already
            remove(old, missing_ok=True)
    return profile.id()
