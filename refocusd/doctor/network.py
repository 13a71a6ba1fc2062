"""Checks of Micro-Manager's bridge, the daemon, and the ports of this computer."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Iterator

from refocusd import __version__
from refocusd.doctor.case import Case, Finding, broken, doubtful, fine, not_applicable
from refocusd.errors import TransportError
from refocusd.sources.micromanager.probe import probe
from refocusd.transport.client import Connection

LOCAL = "127.0.0.1"
ANSWER_S = 3.0
HEALTH_S = 5.0
_MAX_HEALTH = 1 << 16


def bridge(case: Case) -> Iterator[Finding]:
    """Which program answers on the port of Micro-Manager's bridge."""
    answer = probe(LOCAL, case.settings.bridge_port)
    wanted = case.settings.studio == "on"
    if answer.state == "ready":
        yield fine(answer.says)
    elif answer.state == "nothing" and not wanted:
        yield not_applicable(
            f"not running at {LOCAL}:{case.settings.bridge_port}",
            "for acquisitions of its GUI: start it, and tick Tools > Options > Run pycro-manager "
            "server; scripts and --follow do not need it",
        )
    else:
        yield doubtful(*_split(answer.says))


def daemon(case: Case) -> Iterator[Finding]:
    """Whether a daemon of this version runs; if not, whether its port is free."""
    endpoint = case.settings.endpoint
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if is_free(host, int(port)):
        yield fine(f"not running; its port {port} is free", "refocusd run starts it")
        return
    try:
        with Connection(endpoint, "control", inline=True, version=__version__) as connection:
            theirs = connection.welcome(ANSWER_S).version
    except TransportError as error:
        yield broken(
            f"port {port} is used by a program that is not a daemon of this version ({error})",
            "end that program (or the older daemon), or set another endpoint",
        )
        return
    if theirs != __version__:
        yield doubtful(
            f"version {theirs} runs at {endpoint}, this is {__version__}",
            "refocusd run --stop, then refocusd run",
        )
    else:
        yield fine(f"version {theirs} runs at {endpoint}")


def view_port(case: Case) -> Iterator[Finding]:
    """Whether the live view's port is free, or in use by the view."""
    port = case.settings.view_port
    if not case.settings.view:
        yield not_applicable("switched off (view = false)")
    elif port == 0:
        yield fine("takes any free port")
    elif is_free(LOCAL, port):
        yield fine(f"its port {port} is free")
    elif _is_view(port):
        yield fine(f"http://{LOCAL}:{port}/")
    else:
        yield doubtful(
            f"port {port} is taken by another program: there will be no live view",
            "end that program, or set another view_port",
        )


def listen(case: Case) -> Iterator[Finding]:
    """Whether the address for workers on other hosts is free."""
    address = case.settings.listen
    if not address:
        yield not_applicable("none wanted (listen is not set)")
        return
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        yield broken(f"{address} is not an address", "write tcp://HOST:PORT")
    elif int(port) == 0 or is_free("" if host in ("*", "0.0.0.0") else host, int(port)):  # noqa: S104
        yield fine(f"{address} is free")
    else:
        yield doubtful(
            f"{address} is in use (perhaps by the daemon), or not an address of this computer",
            "compare it with the addresses that ipconfig or ip address show",
        )


def is_free(host: str, port: int) -> bool:
    """Whether a program could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        if sys.platform == "win32":
            # Without it Windows gives the same port to two programs.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # As ZeroMQ does: connections that have ended do not count.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
            trial.listen(1)
        except OSError:
            return False
    return True


def _is_view(port: int) -> bool:
    connection = http.client.HTTPConnection(LOCAL, port, timeout=HEALTH_S)
    try:
        connection.request("GET", "/health")
        said = json.loads(connection.getresponse().read(_MAX_HEALTH))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return isinstance(said, dict) and "ready" in said


def _split(says: str) -> tuple[str, str]:
    """Split the probe's sentence, at its semicolon or colon, into what was found and what to do."""
    for sign in ("; ", ": "):
        head, found, tail = says.partition(sign)
        if found:
            return head, tail
    return says, "start Micro-Manager, and look into its log"
