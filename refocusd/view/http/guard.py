"""Who may ask: only pages that this view served itself, and programs on purpose.

A page of any web site that a user of this computer visits can send requests to
127.0.0.1.  Against that (OWASP, "Cross-Site Request Forgery Prevention";
https://www.w3.org/TR/fetch-metadata/):

- The Host must be a name that is ours: a site whose name was bound anew to
  127.0.0.1 (DNS rebinding) sends its own.
- An Origin, where there is one, must be this very page's.
- Browsers say in Sec-Fetch-Site where a request comes from.
- What changes anything needs a header that no foreign page may send unasked.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Protocol

from refocusd.view.http.options import LOOPBACK, ViewOptions

__all__ = ["COOKIE", "ORDER_HEADER", "SECURITY_HEADERS", "Guard", "Refusal"]

COOKIE = "refocusd_view"
#: Must be there, with any value, on requests that change something.
ORDER_HEADER = "X-Refocusd-View"

#: Sent with every answer.
SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Headers(Protocol):
    """What the guard needs of a request's headers."""

    def get_all(self, name: str) -> list[str] | None:
        """All values of one header."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered, and the status that says so."""

    status: int
    reason: str


class Guard:
    """Checks requests against the options of the view."""

    def __init__(self, options: ViewOptions) -> None:
        self._options = options
        names = {name.lower().strip("[]") for name in options.hosts}
        if options.is_loopback:
            names |= LOOPBACK
        elif options.host not in ("0.0.0.0", "::"):  # noqa: S104 (these are no names)
            names.add(options.host.lower())
        self._names = frozenset(names)

    def refusal(self, method: str, path: str, headers: Headers) -> Refusal | None:
        """Why a request is refused; None if it may be answered.

        The token is another matter: see `knows`.
        """
        hosts = headers.get_all("Host") or []
        if len(hosts) != 1:
            return Refusal(400, "a request has one Host")
        # The port is not compared: it may be forwarded (ssh -L 9000:127.0.0.1:8750).
        if _name_of(hosts[0]) not in self._names:
            return Refusal(
                403,
                f"{hosts[0][:80]!r} is not a name of this view; where it is, give it with "
                "--allow-host",
            )
        origins = headers.get_all("Origin") or []
        ours = f"{self._options.scheme}://{hosts[0]}".lower()
        if any(origin.lower() != ours for origin in origins):
            return Refusal(403, "this page belongs to another site")
        site = (headers.get_all("Sec-Fetch-Site") or ["none"])[0]
        mode = (headers.get_all("Sec-Fetch-Mode") or [""])[0]
        followed_a_link = method == "GET" and path == "/" and mode == "navigate"
        if site not in ("same-origin", "none") and not followed_a_link:
            return Refusal(403, "this request comes from another site")
        if method == "POST" and not headers.get_all(ORDER_HEADER):
            return Refusal(403, f"orders carry the header {ORDER_HEADER}: 1")
        return None

    def knows(self, headers: Headers) -> bool:
        """Whether the request shows the token, where one is asked for."""
        if not self._options.token:
            return True
        shown = [
            value.removeprefix("Bearer ").strip()
            for value in headers.get_all("Authorization") or []
        ]
        try:
            cookie = SimpleCookie("; ".join(headers.get_all("Cookie") or []))
        except CookieError:
            cookie = SimpleCookie()
        if COOKIE in cookie:
            shown.append(cookie[COOKIE].value)
        return any(self.is_token(text) for text in shown)

    def is_token(self, text: str) -> bool:
        """Whether `text` is the token; takes as long for any text."""
        token = self._options.token
        return bool(token) and hmac.compare_digest(text.encode(), token.encode())

    @property
    def cookie(self) -> str:
        """The header's value with which a page keeps the token."""
        secure = "; Secure" if self._options.certificate else ""
        return f"{COOKIE}={self._options.token}; HttpOnly; SameSite=Strict; Path=/{secure}"


def _name_of(host: str) -> str:
    """The name in ``name``, ``name:port`` or ``[v6]:port``; empty if it is none of these."""
    host = host.strip().lower()
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        port = port.removeprefix(":") if bracket else "?"
    else:
        name, _, port = host.partition(":")
    return name if not port or (port.isascii() and port.isdigit()) else ""
