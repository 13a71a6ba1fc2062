"""Finds what belongs to a dataset: its raw frames, refocused frames and ledgers.

Folders are moved and copied, so datasets that are beside each other take precedence over
the paths that were recorded.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from refocusd.datasets.identity import (
    Recognition,
    Recording,
    derived_id,
    ends,
    fingerprint,
    frame_names,
    recognise,
    samples,
    without_replaced,
)
from refocusd.datasets.output import Output
from refocusd.datasets.output_ledger import open_ledger
from refocusd.datasets.run_folder import (
    RUN_FILE,
    ZARR,
    made_by,
    output_of,
    refocused_in,
    refocused_path,
)
from refocusd.errors import InputError, LedgerError, OutputError
from refocusd.files import in_command
from refocusd.formats.dataset import Dataset
from refocusd.formats.ndtiff.reader import place_of
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.refocused_name import REFOCUSED_NAME, SUFFIX
from refocusd.formats.sink import refuse_within
from refocusd.frame import counted
from refocusd.ledger import Ledger, OpenMark, ledger_path, marked, noted_outputs
from refocusd.transport.messages import Open


@dataclass(frozen=True, slots=True)
class RawAndOutputs:
    """Raw frames and the outputs that belong to them.

    Parameters
    ----------
    raw : Path or None
        Where the raw frames are now; None if they cannot be found or were never saved.
    raw_lost : str
        Where they should be, if they are not there.
    outputs : tuple of Output
        One per run.
    notes : tuple of str
        Remarks for the user on how they were found.
    """

    raw: Path | None
    raw_lost: str
    outputs: tuple[Output, ...]
    notes: tuple[str, ...]


def find_dataset(path: str | Path, ledgers: str | Path) -> RawAndOutputs:
    """Find what belongs to a raw or a refocused dataset.

    Parameters
    ----------
    path : path
        Folder of the raw dataset, a recording's file or folder, or the folder of
        one run's refocused frames; then the other runs are left out.
    ledgers : path
        Folder of the local ledgers.

    Raises
    ------
    InputError
        If nothing is at `path`, or it is not a dataset.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist: check the path of the dataset")
    folder = path.parent if path.is_file() else path
    if output := Output.at(folder):
        raw, lost, notes = _raw_of(output, ledgers)
        return RawAndOutputs(raw, lost, (output,), notes)
    if (path / RUN_FILE).exists():
        raise InputError(
            f"{path / RUN_FILE} cannot be read, so nobody knows which run this is; restore that file, "
            f"or move {path} away and refocus the raw data once more with `refocusd process`"
        )
    with open_dataset(path) as frames:
        refuse_refocused(frames)
        outputs = outputs_of(frames, ledgers)
        if not outputs:
            frames.first_format()  # says what to do where there is no frame
        return RawAndOutputs(frames.path, "", outputs, ())


def refuse_refocused(frames: Dataset) -> None:
    """Refuse refocused frames where raw ones are expected.

    Raises
    ------
    InputError
    """
    ours = frames.summary.get("refocusd")
    made = Output.at(frames.path)
    if isinstance(ours, dict) and "trust_map" in ours:
        raise InputError(
            f"{frames.path} holds the trust maps of refocused frames; name the raw data they were made from"
        )
    if made is None and isinstance(ours, dict) and "sink" in ours:
        raise InputError(
            f"{frames.path} holds refocused frames, and its {RUN_FILE}, which names their run, is not "
            "there: restore that file, or move the folder away and refocus the raw data once more with "
            "`refocusd process`"
        )
    if made is not None or (isinstance(ours, dict) and "exported" in ours):
        raise InputError(
            f"{frames.path} holds refocused frames; name the raw data they were made from (`refocusd "
            "resume` on those continues them)"
        )


def output_for(frames: Dataset, folder: Path | None = None) -> Path:
    """Output of the first run: ``<name>_refocused`` beside raw, or in `folder`.

    Raises
    ------
    OutputError
        If that folder lies within the raw data, or is a refocused dataset.
    """
    if folder is not None:
        refuse_within(folder, frames.path)
        if made_by(folder):
            refuse_within(folder, folder)
    return refocused_in((folder or place_of(frames.place).parent).resolve(), frames.name)


def outputs_of(
    frames: Dataset, ledgers: str | Path, folder: Path | None = None
) -> tuple[Output, ...]:
    """The refocused datasets of raw frames.

    They are searched for by name beside the raw frames, in `folder` or else wherever outputs of these
    frames were noted, and in the folders that open acquisitions of these frames name. If the recording
    was renamed since, they are found by its content; otherwise, `recognised` tells whether they belong
    to this recording.
    """
    first = {output_for(frames), output_for(frames, folder)}
    # The name that the daemon itself uses.
    first.add(refocused_path(frames.path))
    folders = [
        beside
        for place in sorted(first)
        for stem in (place.name.removesuffix(ZARR),)
        for beside in sorted(place.parent.glob(glob.escape(stem) + "*"))
        if REFOCUSED_NAME.fullmatch(SUFFIX + beside.name.removeprefix(stem))
    ]
    folders += [Path(open_.output) for open_ in _open_acquisitions(frames, ledgers) if open_.output]
    outputs = {output.path: output for place in folders if (output := Output.at(place))}
    if folder is None:
        outputs |= {
            output.path: output
            for place in noted_outputs(ledgers, frames.path)
            # Another recording may have been refocused into that folder since.
            if (output := Output.at(place))
            and (frames.path == Path(output.raw).resolve() or _is_of(frames, output, ledgers))
        }
    # Two recordings may differ only in their ending: the output says which one it was made from.
    found = {
        path: output
        for path, output in outputs.items()
        if not output.raw or output.raw_name == frames.path.name
    }
    if not found:
        beside = {place.parent for place in first}
        renamed = (each for where in sorted(beside) for each in sorted(where.glob(f"*{SUFFIX}*")))
        outputs |= {output.path: output for place in renamed if (output := Output.at(place))}
        found = {
            path: output
            for path, output in outputs.items()
            if not _exists(output.raw) and _is_of(frames, output, ledgers)
        }
    if not found and folder is None:
        found = _moved(frames, ledgers)
    return tuple(found.values())


def _moved(frames: Dataset, ledgers: str | Path) -> dict[Path, Output]:
    """Outputs that lie elsewhere, of a recording that was moved since; a copy may have its own."""
    # A slide is too large to be read once more for this.
    first = [key for key in ends(frames)[:1] if not frames.is_slide(key)]
    places = [
        place
        for name in frame_names(fingerprint(frames, first))
        for place in noted_outputs(ledgers, name)
    ]
    outputs = {output.path: output for place in places if (output := Output.at(place))}
    return {
        path: output
        for path, output in outputs.items()
        if not _exists(output.raw) and _is_of(frames, output, ledgers)
    }


def recognised(
    frames: Dataset, output: Output, ledgers: str | Path | None, *, growing: bool = False
) -> Recognition:
    """Whether raw frames are those that an output was made from.

    This compares the fingerprint in the output, and a few of the frames whose checksum the ledger
    has.

    Parameters
    ----------
    frames : Dataset
    output : Output
    ledgers : path or None
        Folder of the local ledgers; None to use the copy beside the output only.
    growing : bool
        Frames that the recording does not have may still come.
    """
    checksums: dict[str, int] = {}
    recording = output.recording
    ledger, _ = open_ledger(ledgers, output.path, output.acquisition)
    if ledger is not None:
        with ledger:
            sample = ledger.sample(output.run, output.acquisition, samples(frames))
            fates = ledger.fates(output.run, output.acquisition)
            recording = without_replaced(recording, fates)
        checksums = {f.axes: f.raw_checksum for f in sample if f.raw_checksum is not None}
    return recognise(frames, recording, checksums, growing=growing)


def refuse_another(raw: Path, output: Output, recognition: Recognition) -> None:
    """Refuse to add frames to the output of another recording, or of one that changed since.

    Raises
    ------
    OutputError
    """
    if recognition.differing:
        alike = not output.raw or Path(output.raw).resolve() == raw.resolve()
        was = "recorded under this name before" if alike else output.raw
        raise OutputError(
            f"{output.path} was refocused from another recording than {raw} is now "
            f"({recognition.what}): that one was {was}; move {output.path} away, and `refocusd process "
            f"{in_command(raw)}` refocuses all of this one, or give it another --output"
        )


def refuse_merging(frames: Dataset, output: Output, missing: int) -> None:
    """Refuse to add frames to the output of a recording that is still there, elsewhere.

    Two recordings may begin with the same dark frames.  An output beside its raw frames was copied
    together with them.

    Raises
    ------
    OutputError
    """
    beside = output.path.parent == output_for(frames).parent
    if beside or not output.raw or not _exists(output.raw) or frames.path.samefile(output.raw):
        return
    raise OutputError(
        f"{output.path} is of {output.raw}, which is still there, and lacks {counted(missing)} of "
        f"{frames.path}: nothing tells whether these are one recording; name another --output for each"
    )


def _is_of(frames: Dataset, output: Output, ledgers: str | Path) -> bool:
    recognition = recognised(frames, output, ledgers)
    # One frame may be the same in many recordings: a dark one, with which they begin.
    enough = recognition.compared >= min(2, len(frames))
    return recognition.proved and enough and not recognition.absent


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def acquisition_of(frames: Dataset, outputs: tuple[Output, ...], ledgers: str | Path) -> str:
    """The id of the acquisition that raw frames belong to.

    It is that of its refocused frames or of its mark, if refocusd was running during the
    acquisition. Otherwise it is derived from the path and the first frame, so that it is
    the same each time.

    Raises
    ------
    InputError
        If there is no frame.
    """
    known = [output.acquisition for output in outputs]
    known += [
        open_.acquisition
        for open_ in _open_acquisitions(frames, ledgers)
        # Another recording may have been made under that name since.
        if not (made := Output.at(output_of(open_.raw, open_.output)))
        or made.acquisition != open_.acquisition
        or not recognised(frames, made, ledgers).differing
    ]
    if known:
        return known[0]
    first = frames.first_key()
    derived = derived_id(frames, first)
    if ledger_path(ledgers, derived).exists() and _began_alike(frames, derived, ledgers):
        salt = msgspec.json.encode(fingerprint(frames)).decode()
        return derived_id(frames, first, salt)
    return derived


def _began_alike(frames: Dataset, acquisition: str, ledgers: str | Path) -> bool:
    """Whether a ledger belongs to another recording that was at this path and began with the same frame."""
    try:
        with Ledger(ledger_path(ledgers, acquisition), read_only=True) as ledger:
            checksums = {
                fate.axes: fate.raw_checksum
                for run in ledger.runs()
                for fate in ledger.sample(run, acquisition, samples(frames))
                if fate.raw_checksum is not None
            }
    except LedgerError:
        return False
    return bool(recognise(frames, Recording(), checksums).differing)


def _raw_of(output: Output, ledgers: str | Path) -> tuple[Path | None, str, tuple[str, ...]]:
    """Where the raw frames of an output are, where they should be, and remarks for the user."""
    there = [path for path in output.raw_places() if path.exists()]
    if not there:
        return None, output.raw, ()
    # Another recording of that name may lie nearer; if all are others, the first is reported.
    same = (path for path in there if not _is_another(path, output, ledgers))
    candidate = there[0] if len(there) == 1 else next(same, there[0])
    recorded = Path(output.raw)
    if candidate.resolve() == recorded.resolve():
        return candidate, "", ()
    note = f"the raw data are taken from {candidate}; they were recorded at {recorded}"
    return candidate, "", (note,)


def _is_another(path: Path, output: Output, ledgers: str | Path) -> bool:
    try:
        with open_dataset(path) as frames:
            return recognised(frames, output, ledgers).another
    except InputError:
        return False


def _open_acquisitions(frames: Dataset, ledgers: str | Path) -> Iterator[Open]:
    """Acquisitions of these raw frames that were open when their daemon ended."""
    if not frames.catch_up_from:
        return
    for mark in marked(ledgers):
        try:
            open_, _ = announcement_of(mark)
        except msgspec.MsgspecError:
            continue
        if open_.raw and Path(open_.raw).resolve() == frames.path:
            yield open_


def announcement_of(mark: OpenMark) -> tuple[Open, str]:
    """The announcement of an acquisition that was left open, and the id of its run.

    Raises
    ------
    MsgspecError
        If the mark is damaged.
    """
    said = msgspec.json.decode(mark.open_json, type=dict[str, object])
    run = str(said.pop("run", ""))
    return msgspec.convert(said, Open), run
