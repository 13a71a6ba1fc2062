"""The writer's jobs, one frozen object each."""

from __future__ import annotations

import msgspec

from refocusd.frame import FinalState
from refocusd.profiles.applied import Applied
from refocusd.transport.messages import EngineInfo, Engines, FocusAdvice, FrameFacts, Open, Submit


class OpenOutput(msgspec.Struct, frozen=True):
    """Open the output of an acquisition; answered by `OutputOpened`."""

    open: Open
    run: str
    engine: Engines
    applied: Applied

    @property
    def of(self) -> str:
        """Id of its acquisition."""
        return self.open.acquisition


class WriteFrame(msgspec.Struct, frozen=True):
    """Write the refocused half of a slot; answered by `FramesWritten` or `FrameNotWritten`."""

    task: int
    submit: Submit
    checksum: int
    facts: FrameFacts
    engine: EngineInfo
    focus: FocusAdvice | None
    trust: bytes = b""
    #: A newer live frame went to a worker before it.
    late: bool = False

    @property
    def in_live_image(self) -> bool:
        """Whether the live image may show it: it came live, and no newer frame was sent before it."""
        return self.submit.live and not self.late

    @property
    def of(self) -> str:
        """Id of its acquisition."""
        return self.submit.acquisition

    @property
    def outcome(self) -> tuple[FinalState, str]:
        """The frame's final state once it is written, and the reason."""
        facts = self.facts
        if self.engine.backend == "identity":
            return (
                "refocused" if facts.written == "refocused" else "passed_through",
                "identity engine",
            )
        if facts.written == "refocused":
            return "refocused", ""
        why = facts.reasons[0] if facts.reasons else "already in focus"
        if facts.verdict == "untrusted":
            why = f"not trusted: {why}"
        if facts.written == "deconvolved":
            return "refocused", f"deconvolved: {why}"
        return ("skipped" if facts.written == "nothing" else "passed_through"), why


class RecordFrames(msgspec.Struct, frozen=True):
    """Record frames that have no pixels to write; answered by one `FramesWritten`.

    `task` is 0 for frames that were never submitted.
    """

    acquisition: str
    axes: tuple[str, ...]
    state: FinalState
    reason: str
    task: int = 0
    live: bool = True

    @property
    def of(self) -> str:
        """Id of its acquisition."""
        return self.acquisition


class CloseOutput(msgspec.Struct, frozen=True):
    """Close sink and ledger; answered by `OutputClosed`.

    `acquired` is None for an acquisition that is not complete.
    """

    acquisition: str
    acquired: int | None

    @property
    def of(self) -> str:
        """Id of its acquisition."""
        return self.acquisition


Job = OpenOutput | WriteFrame | RecordFrames | CloseOutput
