"""Finds out who answers on the bridge's port, before pyjavaz connects to it.

pyjavaz waits for ever if there is no answer, and assumes that any program that answers is
Micro-Manager.  Therefore the first message of its protocol is sent here, over a socket of our own
with a time limit.

Micro-Manager's server has one thread: while a caller's acquisition blocks it, nobody gets an answer.
ZeroMQ sends its greeting all the same, from another thread, which tells a busy Micro-Manager from
other programs.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Literal

import zmq

#: Version of Micro-Manager's side of the bridge that pyjavaz 1.2 expects.
EXPECTED_VERSION = "5.1.0"
#: Time limit for the answer of a bridge that is not busy.
ANSWER_S = 2.0
CONNECT_S = 0.5
#: First byte of ZeroMQ's greeting (ZMTP 3.1, "signature").
_GREETING = b"\xff"
#: The bridge's answer is never larger; a program that sends more is another one.
MAX_ANSWER = 1 << 16


@dataclass(frozen=True, slots=True)
class BridgeAnswer:
    """What listens on the bridge's port.

    Parameters
    ----------
    state : {"nothing", "stranger", "busy", "old", "ready"}
        No program; another program; a bridge that is serving another caller; one of an old version;
        or one that answers.
    version : str
        Version of the bridge; empty if not known.
    says : str
        The same in words, with what to do about it.
    """

    state: Literal["nothing", "stranger", "busy", "old", "ready"]
    version: str
    says: str


def is_listening(host: str, port: int) -> bool:
    """Whether any program listens on that port."""
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError:
        return False
    return True


def probe(host: str, port: int, timeout_s: float = ANSWER_S) -> BridgeAnswer:
    """Find out who listens at a bridge's address.

    Parameters
    ----------
    host : str
    port : int
        By default, Micro-Manager uses 4827.
    timeout_s : float
        Time limit for the answer of a program that listens.
    """
    if not is_listening(host, port):
        says = (
            f"no Micro-Manager at {host}:{port}: start it, and tick Tools > Options > "
            '"Run pycro-manager server on port 4827"'
        )
        return BridgeAnswer("nothing", "", says)
    reply = _ask(host, port, timeout_s) if _speaks_zeromq(host, port, timeout_s) else {}
    if reply is None:
        says = (
            f"Micro-Manager's bridge on port {port} is busy: it serves one caller at a time, and a "
            "script's acquisition may run; refocusd waits and takes what was acquired"
        )
        return BridgeAnswer("busy", "", says)
    if "type" not in reply:
        says = (
            f"another program than Micro-Manager listens on port {port}: set bridge_port to the port "
            "that Micro-Manager's log names"
        )
        return BridgeAnswer("stranger", "", says)
    # Bridges that do not name their version are 2.0.0 or older.
    version = str(reply.get("version", "2.0.0"))
    if _major(version) < _major(EXPECTED_VERSION):
        says = (
            f"Micro-Manager's bridge on port {port} has version {version}, refocusd needs "
            f"{EXPECTED_VERSION}: update Micro-Manager to a recent nightly build"
        )
        return BridgeAnswer("old", version, says)
    exact = version == EXPECTED_VERSION
    also = "" if exact else f" (refocusd is made for {EXPECTED_VERSION}; the difference may matter)"
    return BridgeAnswer("ready", version, f"Micro-Manager's bridge {version} on port {port}{also}")


def _speaks_zeromq(host: str, port: int, timeout_s: float) -> bool:
    try:
        with socket.create_connection((host, port), CONNECT_S) as connection:
            connection.settimeout(timeout_s)
            return connection.recv(1) == _GREETING
    except OSError:
        return False


def _ask(host: str, port: int, timeout_s: float) -> dict[str, object] | None:
    """The program's answer, empty if it is not that of a bridge; None if there is none in time."""
    try:
        # A context of our own: the global one belongs to pyjavaz.
        with zmq.Context() as context, context.socket(zmq.REQ) as request:
            request.setsockopt(zmq.LINGER, 0)
            request.setsockopt(zmq.MAXMSGSIZE, MAX_ANSWER)
            # A program that hangs up at once leaves nobody to send to.
            request.setsockopt(zmq.SNDTIMEO, round(timeout_s * 1000))
            request.setsockopt(zmq.RCVTIMEO, round(timeout_s * 1000))
            request.connect(f"tcp://{host}:{port}")
            request.send(json.dumps({"command": "connect", "debug": False}).encode("iso-8859-1"))
            parts = request.recv_multipart()
        reply = json.loads(parts[0].decode("iso-8859-1"))
    except zmq.Again:
        return None
    except ValueError:
        return {}
    return reply if isinstance(reply, dict) else {}


def _major(version: str) -> int:
    first = version.partition(".")[0]
    return int(first) if first.isascii() and first.isdigit() else 0
