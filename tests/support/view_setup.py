"""For the tests of the view's HTTP: a stand-in daemon with datasets, a view of it, requests."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from view_process import Reply, ask, view_of
from view_standin import Scene, StandIn, written_datasets
from waiting import until as eventually

#: Headers of the page's actions.
ACTION = {"X-Refocusd-View": "1", "Content-Type": "application/json"}
HOST = b"Host: 127.0.0.1\r\n"
#: The OpenAPI description.
API = json.loads((files("refocusd.view.http") / "openapi.json").read_bytes())
JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


@dataclass(frozen=True)
class Setup:
    """A stand-in daemon with datasets, and a view of it."""

    daemon: StandIn
    port: int
    scene: Scene

    def get(self, path: str, **query: Any) -> Reply:
        fields = {k: json.dumps(v) if isinstance(v, dict) else str(v) for k, v in query.items()}
        return ask(self.port, f"{path}?{urllib.parse.urlencode(fields)}" if fields else path)


@contextmanager
def setting_up(scene: Scene, folder: Path) -> Iterator[Setup]:
    """Run a ready view of a stand-in daemon whose datasets are in `folder`."""
    raw = written_datasets(folder, scene)
    with StandIn(scene, raw=raw) as daemon, view_of(daemon.endpoint) as port:
        here = Setup(daemon, port, scene)
        eventually(lambda: here.get("/health").status == 200, "ready")
        yield here


def hold(schema: dict[str, Any], value: Any, where: str = "answer") -> None:
    """Validate a value against the subset of JSON Schema that the description uses."""
    if "$ref" in schema:
        schema = API["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert any(isinstance(value, JSON_TYPES[kind]) for kind in kinds), f"{where} is {value!r}"
    if value is None:
        return
    assert value in schema.get("enum", [value]), f"{where} is {value!r}"
    for name in schema.get("required", []):
        assert name in value, f"{where} has no {name}"
    for name, inner in schema.get("properties", {}).items():
        if name in value:
            hold(inner, value[name], f"{where}.{name}")
    for item in value if "items" in schema else []:
        hold(schema["items"], item, f"{where}[]")


def raw_request(port: int, data: bytes, timeout_s: float = 10.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        connection.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(65536):
                answer += chunk
        return answer
