"""Numbers, sizes and times in the metadata of frames and acquisitions."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

#: Length of each unit in um, by the names that formats and programs use; either of Unicode's mu.
UM_PER_UNIT = {
    name: um
    for um, names in (
        (1.0, "micrometer micron microns um \N{MICRO SIGN}m \N{GREEK SMALL LETTER MU}m \\u00b5m"),
        (1e-6, "picometer"),
        (1e-4, "angstrom \N{LATIN CAPITAL LETTER A WITH RING ABOVE}"),
        (1e-3, "nanometer nm"),
        (1e3, "millimeter mm"),
        (1e4, "centimeter cm"),
        (2.54e4, "inch in"),
        (1e6, "meter m"),
    )
    for name in names.split()
}
SECONDS_PER_UNIT = {
    name: seconds
    for seconds, names in (
        (1e-6, "microsecond us \N{MICRO SIGN}s \N{GREEK SMALL LETTER MU}s \\u00b5s"),
        (1e-3, "millisecond milliseconds msec ms"),
        (1.0, "second seconds sec s"),
        (60.0, "minute minutes min"),
        (3600.0, "hour hours hr h"),
        (86400.0, "day days d"),
    )
    for name in names.split()
}


def json_object(text: str | bytes | None) -> dict[str, Any] | None:
    """Parse the JSON object in a text; None for anything else."""
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def java_text(data: bytes) -> str:
    """Text that Micro-Manager wrote: UTF-8, or cp1252 on a western Windows before Java 18.

    Editors on Windows save it with a byte order mark, also in UTF-16.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def finite_number(*values: Any) -> float | None:
    """Return the first of some metadata values that is a finite number, or the text of one."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            continue
        with suppress(ValueError, OverflowError):
            if math.isfinite(number := float(value)):
                return number
    return None


def number_or_none(value: Any) -> float | None:
    """Return a finite number that is not negative, or None."""
    number = finite_number(value)
    return number if number is not None and number >= 0 else None


def start_of(summary: Mapping[str, Any], received: datetime | None = None) -> datetime | None:
    """When an acquisition began; None if that is not recorded.

    Parameters
    ----------
    summary : mapping
        Of the acquisition; programs name its start differently.
    received : datetime, optional
        When its first frame arrived, used if the summary gives no start.
    """
    for name in ("StartTime", "DateAndTime", "Time"):
        # Micro-Manager puts a blank before the time zone, and pycromanager slashes into dates.
        text = re.sub(r" (?=[+-]\d{4}$)", "", str(summary.get(name, ""))).replace("/", "-")
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    return received


#: Largest plausible interval or exposure, in ms: about a year.
MOST_MS = 3.2e10
#: Names of the metadata that `elapsed_ms` uses.
TIMES = ("TimeReceivedByCore", "ElapsedTime-ms")


def elapsed_ms(said: Sequence[Mapping[str, Any]]) -> tuple[float | None, ...]:
    """When each frame was taken, in ms; None where that is not recorded.

    The times at which frames reached the core are preferred, and count from the first
    frame: a hardware-triggered sequence has one ``ElapsedTime-ms`` for all of its frames.
    """
    received = [received_at(metadata) for metadata in said]
    times = [time for time in received if time is not None]
    if len(times) == len(received):
        try:
            return tuple((time - min(times)).total_seconds() * 1000 for time in times)
        except TypeError:
            # Times with and without a time zone cannot be compared.
            pass
    elapsed = (number_or_none(metadata.get("ElapsedTime-ms")) for metadata in said)
    return tuple(None if ms is None or ms > MOST_MS else ms for ms in elapsed)


def received_at(metadata: Mapping[str, Any]) -> datetime | None:
    """When a frame reached the computer; None if that is not recorded."""
    value = metadata.get("TimeReceivedByCore")
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
