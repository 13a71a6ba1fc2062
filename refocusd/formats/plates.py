"""Image files of plate readers and of MetaMorph, by the names that these systems give them.

=============  ============================================================================
Yokogawa       ``exp_D08_T0001F001L01A01Z01C01.tif`` (CellVoyager, CV7000, CV8000); shading
               and dark images (``SC_*``, ``DC_*``) lie beside them
MetaMorph      ``exp_w1DAPI_s1_t1.TIF``: wave and dye, stage, time; its ``exp.nd`` gives the names of
               the stages and the distance between planes, which may be the pages of each file;
               other programs use another order, and wells (``exp_A01_s1_z0_w1.tif``)
ImageXpress    ``exp_B02_s1_w1.tif`` also with a UUID appended, in folders ``TimePoint_1`` and
               ``ZStep_1``; small pictures (``*_thumb*``) and projections (``ZStep_0``, or files
               beside these folders) lie beside them
Opera          ``r01c02f03p04-ch1sk1fk1fl1.tiff``: row, column, field, plane, channel, time
CV1000         ``W0001F0001T0001Z01C1.tif``
ScanR          ``exp--W00001--P00001--Z00000--T00000--DAPI.tif``
IN Cell        ``A - 01(fld 1 wv DAPI - DAPI z 1 tm 1).tif``
Cellomics      ``exp_B02f00d0.TIF``, and EVOS ``exp_p00_z00_0_B02f00d0.TIF``
Incucyte       ``exp_A1_1_00d04h00m.tif`` or with a date: well, image of it, time
Leica          ``image--L0000--S00--U00--V00--J08--E00--O00--X00--Y00--T0000--Z00--C00.ome.tif``
=============  ============================================================================

Sources: faim-hcs and Bio-Formats (``CV7000Reader``, ``MetamorphReader``, ``CellWorxReader``), and the
folders that these systems write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from refocusd.errors import InputError
from refocusd.files import read_limited
from refocusd.formats.metadata import finite_number
from refocusd.frame import AxisValue, counted

YOKOGAWA = "Yokogawa CellVoyager"
_YOKOGAWA = re.compile(
    r"(?P<name>.*)_(?P<well>[A-Z]{1,2}\d{2,3})_T(?P<time>\d{4})F(?P<site>\d{3})L(?P<line>\d{2})"
    r"A(?P<action>\d{2})Z(?P<z>\d{2,3})C(?P<channel>\d{2})",
    re.IGNORECASE,
)
_YOKOGAWA_CORRECTION = re.compile(r"[SD]C_.*", re.IGNORECASE)
#: An ImageXpress site; MetaXpress appends a UUID to its names.
_IMAGEXPRESS = re.compile(
    r"(?P<name>.*?)_(?P<well>(?:A[A-F]|[A-P])\d{2})(?:_s(?P<site>\d+))?(?:_w(?P<wave>\d))?"
    r"(?:[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12})?",
    re.IGNORECASE,
)
_IMAGEXPRESS_THUMBNAIL = re.compile(r".*_thumb.*", re.IGNORECASE)
_METAMORPH = re.compile(
    r"(?P<name>.*?)(?:_(?P<wave>w[1-9]\d*)(?P<dye>[^_]+(?:_(?![stz]\d+(?:_|$))[^_]*)*)?)?"
    r"(?:_s(?P<site>\d+))?(?:_z(?P<z>\d+))?(?:_t(?P<time>\d+))?",
    re.IGNORECASE,
)
_BEFORE_WAVE = re.compile(r"_([stz])(\d+)(?=(?:_[stz]\d+)*$)", re.IGNORECASE)
_WELL_AT_END = re.compile(r"(?:^|.*_)((?:A[A-F]|[A-P])\d{2})", re.IGNORECASE)
#: Names of other systems; groups: ``well`` (or ``row`` and ``column``), ``site``, ``z``, ``time``, ``channel``.
_OTHERS = {
    "Opera": r"(?P<row>r\d{2})(?P<column>c\d{2})(?P<site>f\d{2,4})p(?P<z>\d{2,4})-"
    r"(?P<channel>ch\d+)sk(?P<time>\d+)fk(?P<line>\d+)fl(?P<action>\d+)",
    "CV1000": r"(?P<well>W\d+)(?P<site>F\d+)T(?P<time>\d+)Z(?P<z>\d+)(?P<channel>C\d+)",
    "ScanR": r".*--(?P<well>W\d{5})--(?P<site>P\d{5})--Z(?P<z>\d{5})--T(?P<time>\d{5})"
    r"--(?P<channel>.+)",
    "IN Cell": r"(?P<row>[A-P]) - (?P<column>\d{1,2})\(fld (?P<site>\d+) wv (?P<channel>.+?)"
    r"(?: z (?P<z>\d+))?(?: tm (?P<time>\d+))?\)",
    "Incucyte": r"(?P<channel>.*)_(?P<well>[A-P]\d{1,2})_(?P<site>\d+)_"
    r"(?P<time>\d{4}y\d\dm\d\dd_\d\dh\d\dm|\d+d\d\dh\d\dm)",
    "Cellomics": r".*?(?:_p\d+_z(?P<z>\d+)_t?(?P<time>\d+))?_(?P<well>[A-P]\d{2})f(?P<site>\d{2,3})"
    r"d(?P<channel>\d+)",
    "Leica's Matrix Screener": r".*--(?P<well>U\d+--V\d+)--J\d+--E\d+--O\d+--(?P<site>X\d+--Y\d+)"
    r"--T(?P<time>\d+)--Z(?P<z>\d+)--(?P<channel>C\d+)(?:\.ome)?",
}
_TIME_FOLDER = re.compile(r"TimePoint_(\d+)", re.IGNORECASE)
_PLANE_FOLDER = re.compile(r"ZStep_(\d+)", re.IGNORECASE)
_NUMBERED = ("time", "z")
#: Axes that are used only if no others distinguish the frames.
_SECONDARY = ("timeline", "action")


#: A line of MetaMorph's ``exp.nd``: ``"Stage1", "A1"`` or ``"ZStepSize", 0.5``.
_ND_LINE = re.compile(r'^"(\w+)",\s*"?(.*?)"?\s*$', re.MULTILINE)
_MOST_ND_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PlateImages:
    """Frames of a plate, and what their names mean.

    Parameters
    ----------
    system : str
        The system that names files in this way.
    frames : sequence of (Path, axes, str)
        Each file with its axes and the name of its position (empty if there is only one).
    left_out : int
        Number of files that are not frames: corrections and thumbnails.
    z_um : float or None
        Distance between planes in um.
    """

    system: str
    frames: Sequence[tuple[Path, Mapping[str, AxisValue], str]]
    left_out: int
    z_um: float | None = None


def time_folders(folder: Path) -> list[Path]:
    """The folder of an ImageXpress plate, or those of its times, each with those of its planes."""
    times = _numbered(folder, _TIME_FOLDER) or [folder]
    return [place for outer in times for place in (outer, *_numbered(outer, _PLANE_FOLDER))]


def _numbered(folder: Path, name: re.Pattern[str]) -> list[Path]:
    # Only what is named so is looked at: there may be 100 000 files.
    found = [(match, entry) for entry in folder.iterdir() if (match := name.fullmatch(entry.name))]
    return [
        entry for _, entry in sorted((int(m[1]), entry) for m, entry in found) if entry.is_dir()
    ]


def plate_images(files: Sequence[Path]) -> PlateImages | None:
    """Frames by the names of their files; None if neither a plate reader nor MetaMorph names them so.

    Raises
    ------
    InputError
        If only some of the names are those of a plate reader.
    """
    nd = _nd_of(files[0].parent)
    readers: tuple[tuple[str, re.Pattern[str], _Reader], ...] = (
        (YOKOGAWA, _YOKOGAWA_CORRECTION, _yokogawa),
        ("ImageXpress", _IMAGEXPRESS_THUMBNAIL, _imagexpress),
        *((each, _IMAGEXPRESS_THUMBNAIL, _by_groups(name)) for each, name in _OTHERS.items()),
        ("MetaMorph", _IMAGEXPRESS_THUMBNAIL, partial(_metamorph, said=nd)),
    )
    for system, correction, axes_of in readers:
        frames = [path for path in files if not correction.fullmatch(path.stem)]
        found = [(path, axes_of(path)) for path in frames]
        understood = [(path, named) for path, named in found if named is not None]
        if understood and len(understood) == len(frames):
            if system == "ImageXpress":
                understood = _without_projections(understood)
            said = nd if system == "MetaMorph" else {}
            return _placed(system, understood, len(files) - len(understood), said)
        if understood and system != "MetaMorph":
            odd = next(path for path, named in found if named is None)
            raise InputError(
                f"{odd.parent} holds {counted(len(understood), 'file')} with names of {system}, such as "
                f"{understood[0][0].name}, and {len(frames) - len(understood)} others, such as "
                f"{odd.name}: put the others elsewhere"
            )
    return None


#: Axes as numbers and names, and the position's name.
_Named = tuple[dict[str, AxisValue], str]
_Reader = Callable[[Path], _Named | None]


def _yokogawa(path: Path) -> _Named | None:
    if (match := _YOKOGAWA.fullmatch(path.stem)) is None:
        return None
    axes: dict[str, AxisValue] = {name: int(match[name]) - 1 for name in _NUMBERED}
    axes |= {"channel": f"C{match['channel']}"}
    axes |= {"timeline": int(match["line"]) - 1, "action": int(match["action"]) - 1}
    return axes, f"{match['well'].upper()}_F{match['site']}"


def _imagexpress(path: Path) -> _Named | None:
    match = _IMAGEXPRESS.fullmatch(path.stem)
    folders = [path.parent.name, path.parent.parent.name]
    time = next((m for name in folders if (m := _TIME_FOLDER.fullmatch(name))), None)
    plane = _PLANE_FOLDER.fullmatch(folders[0])
    if match is None or not (match["wave"] or time or match["site"]):
        return None
    axes: dict[str, AxisValue] = {}
    if time:
        axes["time"] = int(time[1])
    if plane and int(plane[1]):  # the plane 0 is a projection
        axes["z"] = int(plane[1])
    if match["wave"]:
        axes["channel"] = f"w{match['wave']}"
    return axes, match["well"].upper() + (f"_s{match['site']}" if match["site"] else "")


def _without_projections(understood: list[tuple[Path, _Named]]) -> list[tuple[Path, _Named]]:
    """Frames without those that were computed of planes: a wave may also have one plane only."""

    def of_stack(named: _Named) -> tuple[str, AxisValue | None, AxisValue | None]:
        return named[1], named[0].get("time"), named[0].get("channel")

    stacks = {of_stack(named) for _, named in understood if "z" in named[0]}
    return [each for each in understood if "z" in each[1][0] or of_stack(each[1]) not in stacks]


def _metamorph(path: Path, said: Mapping[str, str]) -> _Named | None:
    match = _METAMORPH.fullmatch(path.stem)
    # A series of one wave has no number of it; without an .nd file other programs write such names.
    if match is None or not (match["wave"] or (said and (match["site"] or match["time"]))):
        return None
    before = {letter.lower(): number for letter, number in _BEFORE_WAVE.findall(match["name"])}
    axes: dict[str, AxisValue] = {}
    if wave := (match["wave"] or "").lower():
        dye = match["dye"] or said.get(f"WaveName{wave[1:]}", "")
        # Behind a short number what parts it from the name is no part of the name; a long one, as in
        # ``w1405 nm``, ends with the first digits of the name.
        axes["channel"] = wave + (dye.strip(" -_") if len(wave) <= 3 else dye)
    axes |= {
        axis: int(number) for axis in _NUMBERED if (number := match[axis] or before.get(axis[0]))
    }
    well = _WELL_AT_END.fullmatch(_BEFORE_WAVE.sub("", match["name"]))
    site = match["site"] or before.get("s")
    return axes, "_".join([*([well[1].upper()] if well else []), *([f"s{site}"] if site else [])])


def _by_groups(pattern: str) -> Callable[[Path], _Named | None]:
    name = re.compile(pattern, re.IGNORECASE)

    def axes_of(path: Path) -> _Named | None:
        if (match := name.fullmatch(path.stem)) is None:
            return None
        said = {group: text for group, text in match.groupdict().items() if text}
        # The digits of a time in days, hours and minutes make a number that keeps the order.
        numbers = {axis: said.get(axis) for axis in (*_NUMBERED, "line", "action")}
        axes: dict[str, AxisValue] = {
            "timeline" if axis == "line" else axis: int(re.sub(r"\D", "", text))
            for axis, text in numbers.items()
            if text
        }
        axes["channel"] = said["channel"]
        well = said.get("well") or said["row"] + said["column"]
        return axes, f"{well}_{said['site']}"

    return axes_of


def _from_zero(system: str, rows: Sequence[tuple[Path, dict[str, AxisValue], str]]) -> None:
    """Number planes and times from 0; times that are not counts are numbered in their order."""
    if system == "Incucyte" and len({axes["channel"] for _, axes, _ in rows}) == 1:
        for _, axes, _ in rows:
            del axes["channel"]  # the name of the experiment
    for axis in _NUMBERED:
        values = sorted(
            {number for _, axes, _ in rows if isinstance(number := axes.get(axis), int)}
        )
        if system == "Incucyte":
            places = {value: place for place, value in enumerate(values)}
        else:
            first = min(values[:1], default=0) and 1
            places = {value: value - first for value in values}
        for _, axes, _ in rows:
            if axis in axes:
                axes[axis] = places[int(axes[axis])]


def _nd_of(folder: Path) -> dict[str, str]:
    """Contents of the ``.nd`` file of a MetaMorph series; empty if there is none, or several."""
    places = [entry for entry in folder.iterdir() if entry.suffix.lower() == ".nd"]
    if len(places) != 1:
        return {}
    try:
        return dict(
            _ND_LINE.findall(read_limited(places[0], _MOST_ND_BYTES).decode("cp1252", "replace"))
        )
    except OSError:
        return {}


def _placed(
    system: str, understood: Sequence[tuple[Path, _Named]], left_out: int, said: Mapping[str, str]
) -> PlateImages:
    """Frames in the order of time, position, plane and channel, without axes of one value."""
    positions = sorted({position for _, (_, position) in understood}, key=natural)
    numbers = {position: number for number, position in enumerate(positions)}
    rows = [
        (path, {**axes, "position": numbers[position]}, position)
        for path, (axes, position) in understood
    ]
    if system != YOKOGAWA:
        _from_zero(system, rows)
    channels = {str(axes["channel"]) for _, axes, _ in rows if "channel" in axes}
    dyes = _dyes(channels)
    ranks = {dyes[each]: str(rank) for rank, each in enumerate(sorted(channels, key=natural))}
    for _, axes, _ in rows:
        if "channel" in axes:
            axes["channel"] = dyes[str(axes["channel"])]
    told: tuple[str, ...] = (*_NUMBERED, "position", "channel")
    if len({tuple(axes.get(axis) for axis in told) for _, axes, _ in rows}) < len(rows):
        told = (*told, *_SECONDARY)
    several = {axis for axis in told if len({axes.get(axis) for _, axes, _ in rows}) > 1}
    frames: list[tuple[Path, Mapping[str, AxisValue], str]] = []
    for path, axes, position in rows:
        kept = {axis: axes[axis] for axis in axes if axis in several or axis == "channel"}
        label = said.get(f"Stage{position[1:]}", "") if system == "MetaMorph" else ""
        frames.append((path, kept or {"time": 0}, label or position))
    order = (*_SECONDARY, "time", "position", "z")

    def place(frame: tuple[Path, Mapping[str, AxisValue], str]) -> list[list[tuple[int, str]]]:
        said = [str(frame[1].get(axis, "")) for axis in order]
        return [natural(text) for text in (*said, ranks.get(str(frame[1].get("channel")), ""))]

    frames.sort(key=place)
    z_um = finite_number(said.get("ZStepSize", "").replace(",", ".")) or None
    return PlateImages(system, frames, left_out, z_um)


def _dyes(channels: set[str]) -> dict[str, str]:
    """Channels without MetaMorph's wave number, if they still differ without it."""
    dyes = {channel: re.sub(r"^w\d(?=\D)", "", channel) for channel in channels}
    apart = len(set(dyes.values())) == len(channels)
    return dyes if apart else {channel: channel for channel in channels}


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which ``z2`` comes before ``z10``."""
    parts = re.findall(r"\d+|\D+", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
