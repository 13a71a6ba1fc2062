"""Guard: answers only pages that this view served itself, and programs that address it on purpose.

Any web page that is open on this computer can send requests to 127.0.0.1.  The
guard refuses them (OWASP, "Cross-Site Request Forgery Prevention";
https://www.w3.org/TR/fetch-metadata/):

- The Host header must name this view.  A site that rebinds its own name to
  127.0.0.1 (DNS rebinding) sends its own name.
- The Origin header, if there is one, must be that of this page.
- The Sec-Fetch-Site header, which browsers send, must not name another site.
- A request that changes anything must carry a header that a foreign page cannot
  send without permission.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refocusd.view.http.answers import entry_page, problem
from refocusd.view.http.options import LOOPBACK, ViewOptions

COOKIE = "refocusd_view"
#: Required, with any value, on requests that change something.
ACTION_HEADER = "X-Refocusd-View"
MAX_ADDRESS_CHARS = 8192
MAX_BODY_NBYTES = 4096

#: Sent with every answer, unless it sets the same header itself.
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


class GuardedApp:
    """An ASGI application that refuses forged, malformed and unauthorised requests.

    Parameters
    ----------
    app : ASGIApp
        Answers the requests that pass.
    options : ViewOptions
    """

    def __init__(self, app: ASGIApp, options: ViewOptions) -> None:
        self._app = app
        self._options = options
        names = {name.lower().strip("[]") for name in options.hosts}
        if options.is_loopback:
            names |= LOOPBACK
        elif options.host not in ("0.0.0.0", "::"):  # noqa: S104 (not names)
            names.add(options.host.lower())
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope)
        answer = self._malformed(request) or self._foreign(request) or self._without_token(request)
        await (answer or self._app)(scope, receive, send_secured)

    def _malformed(self, request: Request) -> Response | None:
        """The refusal of a malformed request; None if it is well-formed."""
        scope = request.scope
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_ADDRESS_CHARS:
            return problem(414, "the address is too long", close=True)
        length = request.headers.get("Content-Length")
        if "Transfer-Encoding" in request.headers or (
            request.method != "POST" and length not in (None, "0")
        ):
            return problem(400, "this request may have no body", close=True)
        if request.method == "POST" and length is None:
            return problem(411, "state the length of the body (Content-Length)", close=True)
        if int(length or 0) > MAX_BODY_NBYTES:
            return problem(413, f"a body has at most {MAX_BODY_NBYTES} bytes", close=True)
        return None

    def _foreign(self, request: Request) -> Response | None:
        """The refusal of a request that another site may have sent; None if none did."""
        headers = request.headers
        host = headers.get("Host", "")
        # The port is not compared: it may be forwarded (ssh -L 9000:127.0.0.1:8750).
        if _name_of(host) not in self._names:
            return problem(
                403,
                f"{host[:80]!r} is not a name of this view; if it should be, allow it with --allow-host",
                close=True,
            )
        ours = f"{self._options.scheme}://{host}".lower()
        if any(origin.lower() != ours for origin in headers.getlist("Origin")):
            return problem(403, "this page belongs to another site", close=True)
        followed_a_link = (
            request.method == "GET"
            and request.url.path == "/"
            and headers.get("Sec-Fetch-Mode") == "navigate"
        )
        site = headers.get("Sec-Fetch-Site", "none")
        if site not in ("same-origin", "none") and not followed_a_link:
            return problem(403, "this request comes from another site", close=True)
        if request.method == "POST" and not headers.get(ACTION_HEADER):
            return problem(403, f"an action needs the header {ACTION_HEADER}: 1", close=True)
        return None

    def _without_token(self, request: Request) -> Response | None:
        """The answer to a request that lacks the token; None if it has it, or needs none."""
        token = self._options.token
        path = request.url.path
        shown = [
            *(v.removeprefix("Bearer ").strip() for v in request.headers.getlist("Authorization")),
            request.cookies.get(COOKIE, ""),
        ]
        if (
            not token
            or path in self._options.without_token
            or any(self._is_token(text) for text in shown)
        ):
            return None
        if path == "/" and self._is_token(request.query_params.get("token", "")):
            # The cookie keeps the token out of the address, and so out of the browser's history.
            entry = RedirectResponse("/", 303)
            entry.set_cookie(
                COOKIE,
                token,
                httponly=True,
                samesite="strict",
                secure=self._options.certificate is not None,
            )
            return entry
        if path == "/" and "text/html" in request.headers.get("Accept", ""):
            return entry_page(wrong="token" in request.query_params)
        return problem(
            401,
            "this view needs its token: open it as /?token=... (`refocusd view --print-url` prints "
            "that address to its user), or send the token as Bearer",
            close=True,
        )

    def _is_token(self, text: str) -> bool:
        """Whether `text` is the token; the time this takes does not depend on `text`."""
        return hmac.compare_digest(text.encode(), self._options.token.encode())


def _name_of(host: str) -> str:
    """The name in ``name``, ``name:port`` or ``[v6]:port``; empty for any other form."""
    host = host.strip().lower()
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        port = port.removeprefix(":") if bracket else "?"
    else:
        name, _, port = host.partition(":")
    return name if not port or (port.isascii() and port.isdigit()) else ""
