"""Client of the view's API, for programs: requests, streams, and the outcomes of frames."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from refocusd.config import DEFAULT_VIEW_PORT
from refocusd.errors import ConfigError, TransportError
from refocusd.frame import Pixels
from refocusd.transport.secure.user_keys import derived_secret
from refocusd.view.http.options import LOOPBACK, read_token

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_VIEW_PORT}"
#: Time-out of requests and reads, s; on a stream, a view sends at least a comment every few seconds.
ANSWER_S = 10.0


class Event(NamedTuple):
    """One event of a stream; `id` is empty if the stream gives none."""

    name: str
    data: Any
    id: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ShownFrame:
    """One frame before and after, as the view gives it.

    Parameters
    ----------
    about : dict
        The header: ``name``, ``axes``, ``state``, ``pixel_um``, ``facts`` and more.  The pixels are
        every ``step``-th of the frame.
    frames : dict of str to ndarray of uint8 or uint16, shape (rows, columns)
        ``raw`` and ``refocused`` in counts, as far as they exist.
    trust : ndarray of uint8, shape (rows, columns) of cells, or None
        Its trust map, as in `refocusd.imaging.trust_map`.
    """

    about: dict[str, Any]
    frames: dict[str, Pixels]
    trust: NDArray[np.uint8] | None

    @classmethod
    def from_bytes(cls, body: bytes) -> ShownFrame:
        """Decode an answer of the view; `refocusd.view.frames.encode` describes its bytes."""
        start = 4 + int.from_bytes(body[:4], "little")
        about = json.loads(body[4:start])
        names = [name for name in ("raw", "refocused") if name not in about["missing"]]
        pixels = np.frombuffer(body, np.dtype(about["dtype"]).newbyteorder("<"), offset=start)
        frames = pixels.reshape(len(names), about["rows"], about["columns"])
        trust = None
        if (sent := about["trust"]) is not None:
            cells = np.frombuffer(base64.b64decode(sent["cells"]), np.uint8)
            trust = cells.reshape(sent["rows"], sent["columns"])
        return cls(about, dict(zip(names, frames, strict=True)), trust)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one frame.

    Parameters
    ----------
    at : float
        Time of the outcome, in seconds since 1970.
    acquisition, name : str
        Id and name of its acquisition.
    axes : dict of str to int or str
    state : str
        ``refocused``, ``passed_through``, ``skipped`` or ``failed``; `reason` says why.
    verdict : str or None
        ``trusted``, ``doubtful``, ``untrusted`` or ``passed_through``, with `reasons`; None for a
        frame that was not judged, because a rule skipped it or it failed.
    written : str or None
        What its pixels are: ``refocused``, ``deconvolved``, ``raw`` or ``nothing``.
    error_chance : float or None
        Probability that its error is large.
    blur_px : float or None
        Standard deviation of its blur, pixels.
    defocus_um, defocus_uncertainty_um : float or None
        Distance from focus, um; known if the daemon runs with ``--advise-focus``.
    """

    at: float
    acquisition: str
    name: str
    axes: dict[str, int | str]
    state: str
    reason: str = ""
    verdict: str | None = None
    reasons: list[str] = []
    written: str | None = None
    error_chance: float | None = None
    blur_px: float | None = None
    defocus_um: float | None = None
    defocus_uncertainty_um: float | None = None


def outcomes(
    url: str = DEFAULT_URL,
    *,
    verdicts: Collection[str] = ("untrusted",),
    acquisition: str = "",
    token: str | None = None,
) -> Iterator[Outcome]:
    """The outcomes of frames from now on, in order, for as long as the daemon's view runs.

    Parameters
    ----------
    url : str
        Address of the live view.
    verdicts : collection of str
        Only frames with these verdicts; ``none`` stands for frames that were not judged.
        Empty for all frames.
    acquisition : str
        Name or id of one acquisition; empty for all.
    token : str, optional
        Token of the view; not needed for your own views on this computer.

    Yields
    ------
    Outcome

    Raises
    ------
    TransportError
        If there is no such view (any more), or it refuses this program.

    Examples
    --------
    >>> for frame in outcomes(acquisition="cells_1"):  # doctest: +SKIP
    ...     image_again(frame.axes)
    """
    fields = {"verdict": ",".join(verdicts), "acquisition": acquisition}
    # Opened now and not when the first outcome is read, so that none in between is missed.
    events = ApiClient(url, token).events("outcomes", fields)
    return _outcomes(events, url)


def _outcomes(events: Iterator[Event], url: str) -> Iterator[Outcome]:
    for event in events:
        if event.name == "outcome":
            yield msgspec.convert(event.data, Outcome)
    raise TransportError(f"the live view at {url} has ended")


@dataclass(frozen=True, slots=True)
class ApiClient:
    """Sends requests to one view.

    Parameters
    ----------
    url : str
        Address of the live view.
    token : str, optional
        Token of the view; by default, on this computer, that of the user's own views.
    """

    url: str = DEFAULT_URL
    token: str | None = None

    @classmethod
    def with_token_file(cls, url: str, token_file: Path | None) -> ApiClient:
        """A client that sends the token in the first line of a file, if a file is named.

        Raises
        ------
        ConfigError
            If the file cannot be read.
        """
        return cls(url, read_token(token_file) if token_file else None)

    def ask(self, address: str, body: Any = None) -> Any:
        """The JSON that answers a GET request, or with a `body` a POST request.

        Raises
        ------
        TransportError
            If the view does not answer, or refuses.
        """
        with self.open(address, body) as answer:
            return json.load(answer)

    def frame(self, address: str, **query: str) -> ShownFrame | None:
        """The frame at ``frame/latest`` or ``frame``; None if there is none, or none that is new.

        Raises
        ------
        TransportError
            As `ask`.
        """
        with self.open(_with(address, query)) as answer:
            try:
                body = answer.read()
            except (OSError, HTTPException) as error:
                raise self._gone(error) from error
        return ShownFrame.from_bytes(body) if body else None

    def events(
        self, address: str, query: dict[str, str] | None = None, *, heartbeat: bool = False
    ) -> Iterator[Event]:
        """The events of a stream, which is open when this returns.

        Parameters
        ----------
        address : str
        query : dict, optional
        heartbeat : bool
            Also give an event without a name every few seconds while nothing else happens.

        Raises
        ------
        TransportError
            As `ask`; while reading, if the connection is lost.
        """
        return self._read(self.open(_with(address, query or {})), heartbeat=heartbeat)

    def _read(self, stream: Any, *, heartbeat: bool) -> Iterator[Event]:
        name = ident = ""
        with stream:
            try:
                for raw in stream:
                    field, _, value = raw.decode("utf-8").rstrip("\n").partition(": ")
                    if field == "event":
                        name, ident = value, ""
                    elif field == "id":
                        ident = value
                    elif field == "data":
                        yield Event(name, json.loads(value), ident)
                    elif not field and value and heartbeat:
                        yield Event("", None)
            except (OSError, HTTPException) as error:
                raise self._gone(error) from error

    def _gone(self, error: Exception) -> TransportError:
        return TransportError(f"the live view at {self.url} is gone: {error}")

    def open(self, address: str, body: Any = None) -> Any:
        """The open response, which the caller reads and closes.

        Raises
        ------
        TransportError
            As `ask`.
        ConfigError
            If `url` is not an address of a view.
        """
        url = f"{self.url.rstrip('/')}/api/v1/{address}"
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{self.url} is not an address of a live view, such as {DEFAULT_URL}")
        headers = {"X-Refocusd-View": "1", "Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        elif urllib.parse.urlsplit(url).hostname in LOOPBACK:
            # The token of the views that this user started on this computer.
            headers["Authorization"] = f"Bearer {derived_secret('view')}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers)  # noqa: S310 (http and https only)
        try:
            return urllib.request.urlopen(request, timeout=ANSWER_S)  # noqa: S310
        except urllib.error.HTTPError as error:
            raise TransportError(f"{url}: {_reason(error)}") from error
        except OSError as error:
            raise TransportError(
                f"no live view at {self.url} ({_system(error)}): start the daemon with `refocusd run`, or "
                "name the view with --url"
            ) from error


def _system(error: OSError) -> object:
    """The system's own message, without the exceptions that wrap it."""
    inner = getattr(error, "reason", error)
    return getattr(inner, "strerror", None) or inner


def _with(address: str, query: dict[str, str]) -> str:
    fields = urllib.parse.urlencode({name: value for name, value in query.items() if value})
    return f"{address}?{fields}" if fields else address


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return str(error)
