"""An acquisition's place on disk: its refocused dataset, its ledger, and what made it."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from refocusd import __version__
from refocusd.config import Settings
from refocusd.datasets.run_folder import LEDGER_COPY, RUN_FILE, made_by, notes_of, output_of
from refocusd.errors import InputError, OutputError, RefocusdError
from refocusd.formats.disk_space import check_free_space, free_space_needed
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import append_sink, create_sink
from refocusd.formats.sink import Sink
from refocusd.frame import FinalState
from refocusd.ledger import (
    Ledger,
    is_marked,
    ledger_path,
    mark_open,
    rebuild,
    restore_ledger,
    unmark,
)
from refocusd.profiles.applied import Applied
from refocusd.transport.messages import Engines, Open

__all__ = ["Place"]

log = logging.getLogger(__name__)

#: How often the free disk space is looked at, and the ledger copied beside the output.
LOOK_AT_DISK_S = 1.0
COPY_LEDGER_S = 60.0


@dataclass(slots=True)
class Place:
    """An open acquisition on disk; belongs to the writer's thread."""

    open: Open
    run: str
    sink: Sink
    ledger: Ledger
    reserve_nbytes: int
    ledgers: str
    #: Frames by final state that the ledger had already.
    before: dict[FinalState, int] = field(default_factory=dict)
    #: Frames whose latest attempt failed: a later one replaces it in the counts.
    failed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    #: The ledger could not be written once: it is not complete.
    unrecorded: bool = False
    looked_at: float = 0.0
    copied_at: float = field(default_factory=time.monotonic)
    full: bool = False

    @classmethod
    def make(
        cls,
        settings: Settings,
        open_: Open,
        run: str,
        engine: Engines,
        undo: ExitStack,
        applied: Applied | None = None,
    ) -> Place:
        """Begin an acquisition's dataset, or go on with what exists of the same run.

        Parameters
        ----------
        settings, open_, run, engine
            What is refocused by what.
        undo : ExitStack
            Closes what was opened, if the rest fails.
        applied : Applied, optional
            Calibration profiles, and what to say of them.

        Raises
        ------
        InputError, LedgerError, OutputError
        """
        summary = json.loads(open_.summary or "{}")
        if not isinstance(summary, dict):
            raise InputError("the summary metadata of an acquisition is a JSON object")
        ours = {
            "version": __version__,
            "run": run,
            "acquisition": open_.acquisition,
            "name": open_.name,
            "raw": open_.raw,
            "engine": msgspec.to_builtins(engine),
            "settings": {
                "model": settings.model,
                "channel_models": settings.channel_models,
                "pass_in_focus": settings.pass_in_focus,
            },
            "calibration": applied.id if applied else None,
            "profiles": applied.selection.ids if applied else [],
            "first": json.loads(open_.first or "{}"),
            "warnings": list(applied.warnings) if applied else [],
        }
        output, goes_on = _choose(settings, open_, run)
        mark = msgspec.json.encode({**msgspec.structs.asdict(open_), "run": run})
        mark_open(settings.ledgers, mark, open_.acquisition)
        frame_nbytes = open_.height * open_.width * (2 if open_.dtype == "uint16" else 1)
        needed = 0 if goes_on else free_space_needed(frame_nbytes, open_.expected)
        check_free_space(output, needed, settings.reserve_mib << 20)
        if goes_on:
            sink = undo.enter_context(append_sink(output))
            for done in restore_ledger(
                settings.ledgers, open_.acquisition, notes_of(output) / LEDGER_COPY
            ):
                log.warning("%s", done)
        else:
            sink = undo.enter_context(
                create_sink(settings.sink, output, {**summary, "refocusd": ours})
            )
        if not made_by(output):
            # Whole or not at all, whatever ends this process.
            fresh = notes_of(output) / (RUN_FILE + ".new")
            fresh.write_text(json.dumps(ours, indent=1), encoding="utf-8")
            fresh.replace(notes_of(output) / RUN_FILE)
        ledger = undo.enter_context(Ledger(ledger_path(settings.ledgers, open_.acquisition)))
        ledger.begin_run(
            run,
            version=__version__,
            engine=msgspec.json.encode(engine).decode(),
            settings=msgspec.json.encode(settings).decode(),
        )
        ledger.open_acquisition(
            open_.acquisition,
            name=open_.name,
            raw=open_.raw,
            output=str(output),
            shape=(open_.height, open_.width),
            dtype=open_.dtype,
        )
        place = cls(open_, run, sink, ledger, settings.reserve_mib << 20, settings.ledgers)
        if goes_on:
            place._repair()
        place._remember()
        return place

    def _repair(self) -> None:
        """Compare the dataset with the ledger: a killed writer may have got between the two."""
        with closing(open_dataset(self.sink.path)) as frames:
            known = self.ledger.final_states(self.run, self.open.acquisition)
            lost = [key for key in frames.axes_keys() if known.get(key, "failed") == "failed"]
            if lost:
                named = ((key, frames.read(key).metadata) for key in lost)
                rebuild(self.ledger, self.run, self.open.acquisition, named)

    def _remember(self) -> None:
        """Frames with a final state; those that went with a lost dataset or a power cut have none."""
        states = self.ledger.final_states(self.run, self.open.acquisition)
        self.failed = {key for key, state in states.items() if state == "failed"}
        self.skipped = {key for key, state in states.items() if state == "skipped"}
        ended = {k: s for k, s in states.items() if s in ("failed", "skipped") or k in self.sink}
        self.before = dict(Counter(ended.values()))  # type: ignore[assignment]
        if gone := len(states) - len(ended):
            log.warning("%s: %d frames are in the ledger only", self.sink.path, gone)

    def is_full(self) -> bool:
        """Whether the disk's reserve is touched: what is left belongs to the raw data."""
        now = time.monotonic()
        if now - self.looked_at > LOOK_AT_DISK_S:
            self.looked_at = now
            self.full = shutil.disk_usage(self.sink.path).free < self.reserve_nbytes
        return self.full

    def copy_ledger(self, *, at_once: bool = False) -> None:
        """Copy the ledger beside the output, if the last copy is old.

        Raises
        ------
        LedgerError
        """
        now = time.monotonic()
        if at_once or now - self.copied_at > COPY_LEDGER_S:
            self.copied_at = now
            self.ledger.copy_to(notes_of(self.sink.path) / LEDGER_COPY)

    def close(self, acquired: int | None) -> None:
        """Close dataset and ledger; `acquired` is None for an acquisition that is not complete."""
        try:
            self.sink.close()
            if acquired is not None:
                self.ledger.close_acquisition(self.open.acquisition, acquired)
            self.copy_ledger(at_once=True)
            if acquired is not None or not self.open.raw:
                # Without raw there is nothing that a later daemon could do.
                unmark(self.ledgers, self.open.acquisition)
        except (RefocusdError, OSError):
            log.exception("closing %s", self.sink.path)
        finally:
            self.ledger.close()


def _choose(settings: Settings, open_: Open, run: str) -> tuple[Path, bool]:
    """The folder for a run, and whether frames of that run are in it already.

    A second run of an acquisition gets a folder of its own beside the first.
    """
    first = output_of(open_.raw, open_.output)
    for output in (first, first.with_name(f"{first.name}_{run[:8]}")):
        if not output.exists() or not any(output.iterdir()):
            return output, False
        said = made_by(output)
        if not said and is_marked(settings.ledgers, open_.acquisition):
            # We were killed while this folder was made.
            said = _begun(output)
        if said.get("acquisition") != open_.acquisition:
            break
        if said.get("run") == run:
            return output, True
    else:
        raise OutputError(
            f"{first} holds two other runs of this acquisition already; name another --output"
        )
    if not output.exists():
        return output, False
    raise OutputError(
        f"{output} exists already and holds something else; move it away, or name another --output"
    )


def _begun(output: Path) -> dict[str, Any]:
    """What a dataset without `RUN_FILE` says of itself; if it is none yet, it is moved aside."""
    try:
        with append_sink(output) as sink:
            said = getattr(sink, "summary", {}).get("refocusd", {})
            return dict(said) if isinstance(said, dict) else {}
    except OutputError:
        aside = output.with_name(f"{output.name}.incomplete-{time.time_ns():x}")
        log.warning("%s was never completed: moved to %s", output, aside.name)
        output.rename(aside)
        return {}
