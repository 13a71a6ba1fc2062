"""The growth of a dataset: its new frames, and whether its writer or its share is gone."""

from __future__ import annotations

import logging
import time
from typing import Literal

from refocusd.errors import InputError
from refocusd.files import exists
from refocusd.formats.dataset import Dataset

log = logging.getLogger(__name__)

#: A dataset that has not grown for this long is at rest: frames may be delayed by a share.
SETTLE_S = 0.5
#: Interval at which an unreachable share is tried again, s.
AGAIN_S = 0.5
#: Shortest interval between warnings about an unstable share, s.
COMPLAIN_S = 60.0
#: A dataset that cannot be read for this long, s, counts as deleted.
AWAY_S = 60.0


class Growth:
    """Looks at one dataset at intervals; for one thread.

    Parameters
    ----------
    dataset : Dataset
    poll_s : float
        Shortest time between two looks.
    quiet_s : float
        A dataset that has not grown for this long has ended, even if its writer did not close it.
    away_s : float
        How long its share may be unreachable.

    Attributes
    ----------
    away_since : float
        Since when the dataset cannot be read, by the monotonic clock; 0 while it can.
    replaced : list of str
        As `Dataset.replaced`, since the list was cleared.
    """

    def __init__(self, dataset: Dataset, *, poll_s: float, quiet_s: float, away_s: float) -> None:
        self.away_since = 0.0
        self.replaced: list[str] = []
        self._dataset = dataset
        self._poll_s = poll_s
        self._quiet_s = quiet_s
        self._away_s = away_s
        self._looked_at = 0.0
        self._grown_at = time.monotonic()
        self._complained = False
        self._complained_at = -COMPLAIN_S

    def look(self, *, now: bool = False) -> list[str]:
        """Canonical axes of new frames; looks at most once in `poll_s`, unless `now`."""
        if not now and self.until_next_s > 0:
            return []
        begun = time.monotonic()
        fresh: list[str] = []
        try:
            fresh = self._dataset.refresh()
        except (OSError, InputError) as error:
            self._is_away(begun, error)
        else:
            self._is_back(begun)
        self._looked_at = time.monotonic()
        again = self._dataset.replaced()
        self.replaced += again
        if fresh or again:
            self._grown_at = self._looked_at
        return fresh

    @property
    def frames(self) -> int:
        """Number of frames that it has so far."""
        return len(self._dataset.axes_keys())

    def is_whole(self, key: str) -> bool:
        """Whether a frame is complete and can be read now."""
        try:
            return self._dataset.is_whole(key)
        except OSError:
            return False

    @property
    def until_next_s(self) -> float:
        """Seconds until the next look."""
        wait_s = AGAIN_S if self.away_since else self._poll_s
        return self._looked_at + wait_s - time.monotonic()

    @property
    def quiet(self) -> bool:
        """Whether it has not grown for so long that its writer must be gone."""
        return time.monotonic() - self._grown_at > self._quiet_s

    @property
    def rests(self) -> bool:
        """Whether it does not grow at the moment."""
        return time.monotonic() - self._grown_at > SETTLE_S

    @property
    def ending(self) -> Literal["closed", "gone"] | None:
        """How it ended, if no more frames are expected.

        ``closed`` by its writer or quiet, or ``gone``: deleted, or unreachable for too long.
        """
        if self.away_since:
            away_s = time.monotonic() - self.away_since
            # Deleted or moved: its folder is gone, but its share is there.
            path = self._dataset.path
            deleted = away_s > AGAIN_S and not exists(path) and exists(path.parent)
            return "gone" if away_s > self._away_s or deleted else None
        return "closed" if self.quiet or (self.rests and self._dataset.finished) else None

    def _is_away(self, now: float, error: Exception) -> None:
        if not self.away_since:
            self.away_since = now
            self._complained = now - self._complained_at > COMPLAIN_S
            if self._complained:
                self._complained_at = now
                log.warning("%s cannot be read (%s): tried again", self._dataset.path, error)
        self._dataset.close()

    def _is_back(self, now: float) -> None:
        if self.away_since:
            if self._complained:
                log.info("%s can be read again", self._dataset.path)
            # The writer may have gone on meanwhile: this time does not count as quiet.
            self._grown_at += now - self.away_since
            self.away_since = 0.0
