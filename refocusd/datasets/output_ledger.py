"""The ledger of refocused frames: the local one, or the copy beside them."""

from __future__ import annotations

from pathlib import Path

from refocusd.datasets.run_folder import LEDGER_COPY, notes_of
from refocusd.errors import LedgerError
from refocusd.formats.open_dataset import open_dataset
from refocusd.ledger import WRITTEN, Ledger, ledger_path, rebuild, restore_ledger


def open_ledger(
    ledgers: str | Path | None, output: Path, acquisition: str
) -> tuple[Ledger | None, list[str]]:
    """Open the ledger of an output's frames for reading.

    This is the local ledger, or the copy beside the output if that has more attempts: on
    another computer, or if the local ledger is lost or damaged.

    Parameters
    ----------
    ledgers : str or Path, optional
        Folder of the local ledgers; None looks at the copy alone.
    output : Path
        The refocused dataset.
    acquisition : str

    Returns
    -------
    Ledger or None
        None if there is neither.
    list of str
        Remarks for the user, in sentences.
    """
    notes: list[str] = []
    best: Ledger | None = None
    local = ledger_path(ledgers, acquisition) if ledgers is not None else None
    for path, what in (
        (local, "ledger"),
        (notes_of(output) / LEDGER_COPY, "copy of the ledger"),
    ):
        if path is None or not path.exists():
            continue
        try:
            ledger = Ledger(path, read_only=True)
        except LedgerError as error:
            notes.append(str(error))
            continue
        try:
            ledger.check()
            entries = len(ledger)
        except LedgerError as error:
            ledger.close()
            notes.append(f"the {what} cannot be used: {error}")
            continue
        if best is not None and entries <= len(best):
            ledger.close()
            continue
        if best is not None:
            notes.append(f"{path} has more attempts than the local ledger: it is used")
            best.close()
        elif path != local:
            notes.append(f"no usable ledger on this computer: {path} is used")
        best = ledger
    if best is None:
        notes.append("there is no ledger of this dataset, nor a usable copy")
    return best, notes


def record_frames(ledger: Ledger, output: Path, run: str, acquisition: str) -> None:
    """Record the frames of a refocused dataset that a ledger does not know, by their metadata.

    Raises
    ------
    InputError, LedgerError
    """
    with open_dataset(output) as frames:
        lost = [
            key
            for key in frames.axes_keys()
            if ledger.state_of(run, acquisition, key) not in WRITTEN
        ]
        if lost:
            rebuild(ledger, run, acquisition, ((key, frames.read(key).metadata) for key in lost))


def repair_ledger(ledgers: str | Path, output: Path, run: str, acquisition: str) -> None:
    """Repair a ledger from its copy beside the refocused frames, and from these; raw is not needed.

    Raises
    ------
    InputError, LedgerError
    """
    copy = notes_of(output) / LEDGER_COPY
    restore_ledger(ledgers, acquisition, copy)
    with Ledger(ledger_path(ledgers, acquisition)) as ledger:
        record_frames(ledger, output, run, acquisition)
        ledger.copy_to(copy)
