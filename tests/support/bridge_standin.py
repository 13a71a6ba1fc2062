"""A stand-in for Micro-Manager's side of the Java bridge, for the classes that refocusd uses.

It speaks the protocol of Micro-Manager's server (version 5.1.0): a ZeroMQ REP socket, JSON in
ISO-8859-1, arrays as separate message parts that the JSON names as ``@`` and a hexadecimal number.
Objects, lists included, are handed out by a hash code with their whole API, and are forgotten
when the client says so.  ``data/bridge_session.json`` has what the real client sends.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import zmq
from bridge_standin_classes import CONSTRUCTIBLE, Java, JavaList, Studio
from bridge_standin_microscope import Microscope
from waiting import PATIENCE_S

VERSION = "5.1.0"
ARRAYS = {"uint8": "byte-array", "uint16": "short-array", "int32": "int-array"}


@dataclass(frozen=True, slots=True)
class Call:
    """One message of the client."""

    at: float
    command: str
    java_class: str
    name: str


@dataclass
class Standin:
    """A bridge that can be started, stopped and started again on its port.

    Parameters
    ----------
    microscope : Microscope
        Whose state it reports.
    port : int
        0 takes a free one, and keeps it across restarts.
    version : str or None
        None: an old bridge, which does not state its version.
    """

    microscope: Microscope = field(default_factory=Microscope)
    port: int = 0
    version: str | None = VERSION
    #: Minimum duration of a call, s.
    latency_s: float = 0.0
    calls: list[Call] = field(default_factory=list)
    #: Requests and replies, if they are to be recorded.
    recorded: list[tuple[dict[str, Any], dict[str, Any]]] | None = None
    pixel_nbytes: int = 0
    #: Calls to objects that do not exist: those of a Micro-Manager that was restarted since.
    unknown: int = 0
    #: After this many messages it ends without an answer, like a program that is killed.
    dies_after: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        self._objects: dict[str, Java] = {}
        self._names = 0
        self._stop = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._socket.bind(f"tcp://127.0.0.1:{self.port or '*'}")
                break
            except zmq.ZMQError:
                # The port of a bridge that has just ended is not free at once.
                assert time.monotonic() < deadline, f"port {self.port} does not become free"
                time.sleep(0.05)
        endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.port = int(endpoint.rpartition(":")[2])
        self._thread = threading.Thread(target=self._serve, name="bridge stand-in")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.term()

    @property
    def serving(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    @property
    def alive(self) -> int:
        """Objects that the client holds."""
        return len(self._objects)

    def rate(self, seconds: float) -> float:
        """Messages per second, over the last `seconds`."""
        now = time.monotonic()
        return sum(now - call.at < seconds for call in list(self.calls)) / seconds

    # -- the protocol -------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._stop.is_set():
                if self._socket.poll(20):
                    request = json.loads(self._socket.recv_multipart()[0].decode("iso-8859-1"))
                    if self.dies_after is not None and len(self.calls) >= self.dies_after:
                        return
                    with self.microscope.server:
                        self._socket.send_multipart(self._answer(request))
        finally:
            self._socket.close()

    def _answer(self, request: dict[str, Any]) -> list[bytes]:
        name = str(request.get("name", request.get("classpath", "")))
        java_class = str(request.get("java_class_name", ""))
        self.calls.append(Call(time.monotonic(), request["command"], java_class, name))
        if self.latency_s:
            time.sleep(self.latency_s)
        arrays: list[bytes] = []
        try:
            reply = self._execute(request, arrays)
        except Exception as error:  # noqa: BLE001 (told to the client, as Java's are)
            reply = {"type": "exception", "value": f"{error}\n\tat org.micromanager.StandIn"}
        if self.recorded is not None:
            self.recorded.append((request, json.loads(json.dumps(reply))))
        return [json.dumps(reply).encode("iso-8859-1"), *arrays]

    def _execute(self, request: dict[str, Any], arrays: list[bytes]) -> dict[str, Any]:
        command = request["command"]
        if command == "connect":
            return {"type": "none"} | ({"version": self.version} if self.version else {})
        if command == "get-constructors":
            known = request["classpath"] in CONSTRUCTIBLE
            api = [{"name": request["classpath"], "arguments": []}] if known else []
            return {"type": "none", "api": api}
        if command == "constructor":
            studio = Studio(self.microscope)
            made = studio if "Studio" in request["classpath"] else studio.core()
            return self._serialize(made, arrays)
        if command == "destructor":
            self._objects.pop(request["hash-code"], None)
            return {"type": "none"}
        target = self._objects.get(request["hash-code"])
        if target is None:
            self.unknown += 1
            raise RuntimeError("java.lang.NullPointerException")
        if command == "get-field":
            return self._serialize(getattr(target, request["name"]), arrays)
        assert command == "run-method", f"unknown command {command}"
        spec = {"name": request["name"], "arguments": request["argument-types"]}
        assert any(spec.items() <= method.items() for method in target.api()), f"no method {spec}"
        arguments = [
            self._objects[one["hash-code"]] if isinstance(one, dict) else one
            for one in request["arguments"]
        ]
        return self._serialize(getattr(target, request["name"])(*arguments), arrays)

    def _serialize(self, value: Any, arrays: list[bytes]) -> dict[str, Any]:
        if value is None:
            return {"type": "none"}
        if isinstance(value, str):
            return {"type": "string", "value": value}
        if isinstance(value, (bool, int, float)):
            return {"type": "primitive", "value": value}
        if isinstance(value, dict):
            return {"type": "object", "class": "JSONObject", "value": json.dumps(value)}
        if isinstance(value, np.ndarray):
            self._names += 1
            arrays += [self._names.to_bytes(4, sys.byteorder), value.tobytes()]
            self.pixel_nbytes += value.nbytes
            return {"type": ARRAYS[value.dtype.name], "value": f"@{self._names:x}"}
        java = JavaList(value) if isinstance(value, list) else value
        assert isinstance(java, Java)
        self._names += 1
        code = f"{java.hashCode():x}{uuid.uuid4()}"
        self._objects[code] = java
        return {
            "type": "unserialized-object",
            "class": java.java_class,
            "hash-code": code,
            "port": self.port,
            "interfaces": [java.java_class, *java.interfaces],
            "fields": list(java.fields),
            "api": java.api(),
        }


@contextmanager
def stranger(answer: Callable[[bytes], bytes] | None = None) -> Iterator[int]:
    """Run another program on a port; yields the port.  Without `answer` it accepts, silently."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()
        server.settimeout(0.05)

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(0.2)
                    try:
                        said = connection.recv(1000)
                        if answer is not None:
                            connection.sendall(answer(said))
                        connection.recv(1000)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()
