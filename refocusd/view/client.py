"""A program's end of the view's API: requests, streams, and what became of frames as it happens."""

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
#: A view answers within this time, and says something at least so often on a stream.
ANSWER_S = 10.0


class Event(NamedTuple):
    """One event of a stream; `id` is empty where the stream gives none."""

    name: str
    data: Any
    id: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ShownFrame:
    """One frame before and after, as the view gives it.

    Parameters
    ----------
    about : dict
        Its ``name``, ``axes``, ``state``, ``pixel_um``, ``facts``; every ``step``-th pixel is there.
    frames : dict of str to ndarray, shape (rows, columns)
        ``raw`` and ``refocused``, in counts: those that there are.
    trust : ndarray of uint8 or None
        Its trust map, as in `refocusd.imaging.trust_map`.
    """

    about: dict[str, Any]
    frames: dict[str, Pixels]
    trust: NDArray[np.uint8] | None

    @classmethod
    def from_bytes(cls, body: bytes) -> ShownFrame:
        """As `refocusd.view.frames.encode` describes them."""
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
    """What became of one frame.

    Parameters
    ----------
    at : float
        Seconds since 1970.
    acquisition, name : str
        Id and name of its acquisition.
    axes : dict of str to int or str
    state : str
        ``refocused``, ``passed_through``, ``skipped`` or ``failed``; `reason` says why.
    verdict : str or None
        ``trusted``, ``doubtful``, ``untrusted`` or ``passed_through``, and `reasons` for it; None
        for a frame that was not judged: skipped by a rule, or failed.
    written : str or None
        What its pixels are: ``refocused``, ``deconvolved``, ``raw`` or ``nothing``.
    error_chance : float or None
        Probability that its error is large.
    blur_px : float or None
        Standard deviation of its blur, pixels.
    defocus_um, defocus_uncertainty_um : float or None
        Distance from focus; known where the daemon runs with ``--advise-focus``.
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
    """What becomes of frames from now on, one after the other, for as long as the daemon's view runs.

    Parameters
    ----------
    url : str
        Of the live view.
    verdicts : collection of str
        Frames with other verdicts are left out; ``none`` stands for those that were not judged.
        Empty for all frames.
    acquisition : str
        Name or id of one acquisition; empty for all.
    token : str, optional
        Of the view; that of your own views on this computer is known.

    Yields
    ------
    Outcome

    Raises
    ------
    TransportError
        If there is no such view (any more), or it does not let this program in.

    Examples
    --------
    >>> for frame in outcomes(acquisition="cells_1"):  # doctest: +SKIP
    ...     image_again(frame.axes)
    """
    fields = {"verdict": ",".join(verdicts), "acquisition": acquisition}
    # Opened at once, not with the first frame that is asked for: none in between is missed.
    events = ApiClient(url, token).events("outcomes", fields)
    return _outcomes(events, url)


def _outcomes(events: Iterator[Event], url: str) -> Iterator[Outcome]:
    for event in events:
        if event.name == "outcome":
            yield msgspec.convert(event.data, Outcome)
    raise TransportError(f"the live view at {url} has ended")


@dataclass(frozen=True, slots=True)
class ApiClient:
    """Asks one view.

    Parameters
    ----------
    url : str
    token : str, optional
        That of the user's own views is taken for a view on this computer.
    """

    url: str = DEFAULT_URL
    token: str | None = None

    @classmethod
    def with_token_file(cls, url: str, token_file: Path | None) -> ApiClient:
        """One that shows the token in the first line of a file, if one is named.

        Raises
        ------
        ConfigError
            If it cannot be read.
        """
        return cls(url, read_token(token_file) if token_file else None)

    def ask(self, address: str, body: Any = None) -> Any:
        """The answer's JSON; with a `body`, that is posted.

        Raises
        ------
        TransportError
            If there is no answer, or it is a refusal.
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
            Give an event without a name, too, every few seconds in which nothing else happens.

        Raises
        ------
        TransportError
            As `ask`; on reading, if the connection is lost.
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
        """The answer, to be read and closed.

        Raises
        ------
        TransportError
            As `ask`.
        ConfigError
            If the address is none of a view.
        """
        url = f"{self.url.rstrip('/')}/api/v1/{address}"
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{self.url} is not an address of a live view, such as {DEFAULT_URL}")
        headers = {"X-Refocusd-View": "1", "Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        elif urllib.parse.urlsplit(url).hostname in LOOPBACK:
            # That of views which the same user has started on this computer.
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
    """What the system said, without the classes in between."""
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
