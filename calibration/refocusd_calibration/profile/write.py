"""Writes profiles: a section is added to the existing ones if its checks pass.

A profile belongs to one microscope (camera, objective, binning, channel); a section of
another microscope is refused.  The names of raw data and checks begin with the name of their section
(``camera: dark series``), so that a section that is measured again replaces only its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import tifffile
from numpy.typing import NDArray

from refocusd import __version__, files
from refocusd.errors import InputError, OutputError
from refocusd.profiles.conformity import SECTIONS
from refocusd.profiles.profile import (
    CameraSection,
    Check,
    FocusSection,
    Microscope,
    Profile,
    PsfSection,
    RawData,
    StoredMap,
    load_profile,
    save_profile,
)

Section = CameraSection | FocusSection | PsfSection
_NAMES: dict[type, str] = {CameraSection: "camera", FocusSection: "focus", PsfSection: "psf"}
#: Largest relative difference between nominal values of the same microscope.
_SAME = 0.005


@dataclass(frozen=True, slots=True)
class Map:
    """A map to be stored beside the profile.

    Parameters
    ----------
    values : ndarray of float32, shape (height, width)
    unit : str
    """

    values: NDArray[np.float32]
    unit: str


def write_section(
    profile_path: str | Path,
    microscope: Microscope,
    section: Section,
    *,
    raw: Sequence[RawData],
    checks: Sequence[Check],
    insist: bool = False,
    replace: bool = False,
    maps: Mapping[str, Map] | None = None,
) -> Profile:
    """Write a measured section into a profile; the other sections are kept.

    Parameters
    ----------
    profile_path : Path
        A new file, or a profile of the same microscope.
    microscope : Microscope
        Unknown values are taken from the existing profile.
    section : CameraSection, FocusSection or PsfSection
    raw : sequence of RawData
        Raw data of this section; see `raw_data`.
    checks : sequence of Check
        Checks of this section.
    insist : bool
        Write the profile even if checks failed; the profile records this.
    replace : bool
        Start a new profile if the existing one is of another microscope.
    maps : mapping of str to Map
        Stored beside the profile as ``<name of the profile>.<map>.<sha256>.tif`` and
        named in the camera section.

    Returns
    -------
    Profile
        The profile that was written.

    Raises
    ------
    InputError
        If a check failed and `insist` is not set, or the existing file is not a profile.
    OutputError
        If the existing profile is of another microscope, or cannot be written.
    """
    failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    if failed and not insist:
        raise InputError(
            f"the {name_of(section)} calibration failed its checks, and no profile was written: "
            f"{'; '.join(failed)}. Measure again, or give --insist to write it nevertheless"
        )
    path = Path(profile_path)
    former = former_profile(path, microscope, replace=replace)
    if isinstance(section, CameraSection) and maps:
        stored = {kind: _store_map(path, kind, item) for kind, item in maps.items()}
        section = msgspec.structs.replace(section, maps={**section.maps, **stored})
    profile = with_section(former, microscope, section, raw, checks)
    save_profile(profile, path)
    if former is not None and former.camera is not None:
        _remove_maps(path.parent, former.camera, profile.camera)
    return profile


def former_profile(path: Path, microscope: Microscope, *, replace: bool) -> Profile | None:
    """The profile that a section is added to; None if there is none, or it is to be replaced.

    Raises
    ------
    InputError
        If the existing file is not a profile.
    OutputError
        If it is of another microscope.
    """
    former = load_profile(path) if path.exists() else None
    differing = differences(former.microscope, microscope) if former else []
    if differing and not replace:
        raise OutputError(
            f"{path} is the profile of another microscope ({'; '.join(differing)}): name another "
            "file, or give --replace to replace it"
        )
    return None if differing else former


def name_of(section: Section) -> str:
    """The name of a section in its profile."""
    return _NAMES[type(section)]


def with_section(
    former: Profile | None,
    microscope: Microscope,
    section: Section,
    raw: Sequence[RawData],
    checks: Sequence[Check],
) -> Profile:
    """A profile with a newly measured section and the other sections of `former`."""
    name = name_of(section)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if former is None:
        former = Profile(created=now, version=__version__, microscope=microscope)
    new_checks = [
        *(check for check in former.checks if _section(check.name) != name),
        *(msgspec.structs.replace(c, name=_labelled(c.name, name)) for c in checks),
    ]
    changed = {
        "created": now,
        "version": __version__,
        "microscope": _completed(microscope, former.microscope),
        "measured": {**former.measured, name: now},
        "raw": [
            *(data for data in former.raw if _section(data.what) != name),
            *(msgspec.structs.replace(r, what=_labelled(r.what, name)) for r in raw),
        ],
        "checks": new_checks,
        "insisted": any(not check.passed for check in new_checks),
        name: section,
    }
    return msgspec.structs.replace(former, **changed)


def _section(text: str) -> str:
    return text.partition(":")[0]


def _labelled(text: str, section: str) -> str:
    return text if _section(text) in SECTIONS else f"{section}: {text}"


def differences(one: Microscope, other: Microscope) -> list[str]:
    """Differences between two microscopes, as phrases; fields that are unknown for one of them are ignored."""
    found = []
    for name in one.__struct_fields__:
        a, b = getattr(one, name), getattr(other, name)
        if name == "refractive_index" or a in ("", None) or b in ("", None):
            continue
        if a != b and not (isinstance(a, float) and abs(a - b) <= _SAME * abs(a)):
            found.append(f"{name} {a!r} there, {b!r} now")
    return found


def _completed(microscope: Microscope, former: Microscope) -> Microscope:
    known = {
        name: getattr(former, name)
        for name in microscope.__struct_fields__
        if getattr(microscope, name) in ("", None)
    }
    return msgspec.structs.replace(microscope, **known)


def raw_data(what: str, path: str | Path) -> RawData:
    """Identify a recording by its path and sha256.

    For a folder, the sha256 is that of the names and contents of all files in it, in the order of
    their names; for a file, that of its contents, as `sha256sum` prints it.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                digest.update(file.relative_to(path).as_posix().encode())
                _hash(file, digest)
        else:
            _hash(path, digest)
    except OSError as error:
        raise InputError(f"the recording {path} cannot be read: {error.strerror}") from error
    return RawData(what=what, path=str(path.resolve()), sha256=digest.hexdigest())


def _hash(file: Path, digest: hashlib._Hash) -> None:
    with file.open("rb") as stream:
        hashlib.file_digest(stream, lambda: digest)


def _store_map(profile_path: Path, name: str, item: Map) -> StoredMap:
    values = np.ascontiguousarray(item.values, np.float32)
    folder, new = profile_path.parent, profile_path.with_name(f"{profile_path.stem}.{name}.new")
    with files.output(new):
        tifffile.imwrite(new, values, metadata=None, description=f"{name}, {item.unit}")
        digest = hashlib.sha256(new.read_bytes()).hexdigest()
        # Named by its contents, so that the existing profile stays valid until it is replaced.
        file = f"{profile_path.stem}.{name}.{digest[:8]}.tif"
        files.replace(new, folder / file)
    return StoredMap(file=file, sha256=digest, unit=item.unit)


def _remove_maps(folder: Path, former: CameraSection, camera: CameraSection | None) -> None:
    kept = {stored.file for stored in camera.maps.values()} if camera else set()
    for stored in former.maps.values():
        if stored.file not in kept and Path(stored.file).name == stored.file:
            files.remove(folder / stored.file, missing_ok=True)


def read_map(profile_path: str | Path, stored: StoredMap) -> NDArray[np.float32]:
    """Read a map that a profile names.

    Returns
    -------
    ndarray of float32, shape (height, width)

    Raises
    ------
    InputError
        If the file is missing, was altered or is not a map.
    """
    if Path(stored.file).name != stored.file:
        raise InputError(f"{profile_path} names a map outside its folder: {stored.file!r}")
    path = Path(profile_path).parent / stored.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the map {path} cannot be read ({error.strerror}): keep a profile's maps beside it"
        ) from error
    if hashlib.sha256(data).hexdigest() != stored.sha256:
        raise InputError(f"the map {path} was changed after {profile_path} was written")
    values = np.asarray(tifffile.imread(path))
    if values.ndim != 2 or values.dtype != np.float32:
        raise InputError(
            f"{path} is not a map: its pixels are {values.dtype} of shape {values.shape}"
        )
    return values
