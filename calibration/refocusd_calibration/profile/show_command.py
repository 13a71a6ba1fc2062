"""`refocusd calibrate show`, `compare` and `use`: prints a profile, compares two, puts one into use."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from refocusd.cli.console import console, told_as_json
from refocusd.cli.flags import add_command, add_json_flag, add_setting_flags, settings_of
from refocusd.files import output
from refocusd.profiles.conformity import stale, unchecked
from refocusd.profiles.profile import Profile, load_profile, save_profile
from refocusd_calibration.cli.flags import print_outcome


def register(subparsers: Any) -> None:
    """Add the sub-commands."""
    show = add_command(
        subparsers,
        "show",
        _show,
        short="print a profile, and draw it",
        description="Prints a profile and says which measurements are stale.",
        epilog="",
    )
    show.add_argument("profile", type=Path)
    show.add_argument("--report", type=Path, metavar="FILE", help="write FILE.html or FILE.png")
    add_json_flag(show)
    compare = add_command(
        subparsers,
        "compare",
        _compare,
        short="tell whether the microscope has drifted",
        description="Compares two profiles of one microscope. The exit status is 0 if nothing drifted "
        "beyond the limits, 1 if something did, and 2 after an error.",
        epilog="",
    )
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument(
        "--limits",
        type=Path,
        metavar="FILE",
        help='TOML file with a table per number: ["camera.gain_e_per_count"] with percent, absolute or both',
    )
    add_json_flag(compare)
    use = add_command(
        subparsers,
        "use",
        _use,
        short="refocus with a profile from now on",
        description="Copies a profile into the folder of the profiles in use (`calibrations`). It "
        "applies to acquisitions that begin afterwards.",
        epilog="",
    )
    use.add_argument("profile", type=Path)
    add_setting_flags(use, "calibrations")
    add_json_flag(use)


def _show(arguments: argparse.Namespace) -> int:
    from refocusd_calibration.profile.report import write_report
    from refocusd_calibration.profile.rows import profile_rows

    profile = load_profile(arguments.profile)
    remarks = stale(profile)
    figures = {
        "id": profile.id(),
        "stale": remarks,
        "profile": msgspec.to_builtins(profile),
    }
    if arguments.report:
        write_report(arguments.profile, arguments.report)
    if told_as_json(arguments.json, figures):
        return 0
    for section, rows in profile_rows(profile).items():
        checks = [item for item in profile.checks if item.name.startswith(f"{section}:")]
        print_outcome(f"{section} {profile.measured.get(section, '')[:10]}".rstrip(), rows, checks)
    console.print(
        f"profile {profile.id()}, written {profile.created} by refocusd {profile.version}"
    )
    if profile.learned:
        console.print(f"refocusd measured it automatically on {profile.learned.recording}")
    if profile.insisted:
        console.print("[bold red]written although checks failed, because the user insisted[/]")
    for remark in remarks:
        console.print(f"[bold yellow]stale[/]: {remark}")
    if arguments.report:
        console.print(f"wrote {arguments.report}")
    return 0


def _use(arguments: argparse.Namespace) -> int:
    from refocusd_calibration.profile.write import read_map

    path: Path = arguments.profile
    folder = Path(settings_of(arguments, "calibrations").calibrations).expanduser()
    # A profile that refocusd measured automatically now counts as chosen by a person.
    profile = msgspec.structs.replace(load_profile(path), learned=msgspec.UNSET)
    kept = path
    if path.resolve().parent != folder.resolve():
        kept = folder / f"{path.stem}-{profile.id()}.json"
        for stored in profile.camera.maps.values() if profile.camera else ():
            read_map(path, stored)  # refuses a damaged map, or one in another folder
            with output(folder / stored.file):
                shutil.copy(path.with_name(stored.file), folder)
        save_profile(profile, kept)
    if not told_as_json(arguments.json, {"id": profile.id(), "profile": str(kept)}):
        console.print(f"profile {profile.id()} is used from the next acquisition on: {kept}")
        for remark in [*_anybodys(profile), *stale(profile), *unchecked(profile)]:
            console.print(f"[bold yellow]note[/]: {remark}")
    return 0


def _anybodys(profile: Profile) -> list[str]:
    """Warn of a profile that applies to frames of any camera or objective."""
    microscope = profile.microscope
    named = {"camera": microscope.camera, "objective": microscope.objective}
    missing = [what for what, name in named.items() if not name]
    flags = " and ".join(f"--{what}" for what in missing)
    return [f"it names no {' and no '.join(missing)}, and applies to any: state {flags}"] * bool(
        missing
    )


def _compare(arguments: argparse.Namespace) -> int:
    from refocusd_calibration.profile.compare import compare_profiles, load_limits

    before, after = load_profile(arguments.before), load_profile(arguments.after)
    limits = load_limits(arguments.limits) if arguments.limits else None
    found = compare_profiles(before, after, limits)
    drifted = [difference.name for difference in found if difference.drifted]
    figures = {
        "before": before.id(),
        "after": after.id(),
        "drifted": drifted,
        "differences": [difference.as_json() for difference in found],
    }
    status = 1 if drifted else 0
    if told_as_json(arguments.json, figures):
        return status
    table = Table(title=f"{arguments.before} → {arguments.after}")
    for heading in ("number", "before", "after", "change", "allowed", ""):
        table.add_column(heading, justify="left" if heading in ("number", "") else "right")
    for item in found:
        change = f"{item.after - item.before:+.3g} ± {item.uncertainty:.2g}"
        verdict = "[bold red]DRIFTED[/]" if item.drifted else "same"
        table.add_row(
            item.name,
            f"{item.before:.5g}",
            f"{item.after:.5g}",
            change,
            f"{item.allowed:.3g}",
            verdict,
        )
    console.print(table)
    console.print("the microscope has drifted" if drifted else "no drift beyond the limits")
    return status
