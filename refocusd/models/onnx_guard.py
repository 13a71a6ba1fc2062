"""Refuses ONNX files whose weights are in other files, before any runtime opens them.

A network may refer to any file on the disk as its weights.  The base
install has no ``onnx`` package, so this module walks the few messages of its protobuf
schema that lead to a tensor (field numbers: onnx.proto, IR version 3 to 13).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import IO

from refocusd.errors import BundleError
from refocusd.files import reading

#: No network has more fields; a file that is made to be slow to walk is refused here.
MAX_FIELDS = 2_000_000
MAX_DEPTH = 32
MAX_TAG = 1 << 32

#: Message -> field number -> message in that field.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "function": {7: "node", 11: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _FIXED64, _BYTES, _GROUP, _FIXED32 = 0, 1, 2, 3, 5


class _NoProtobufError(Exception):
    """Not protobuf from here on; no runtime reads such a file either."""


def refuse_outside_weights(path: Path) -> None:
    """Check that a network keeps all of its weights in its own file.

    A file that is not protobuf is accepted here, because the runtime refuses it.

    Raises
    ------
    BundleError
        If it refers to other files, cannot be read, or is made to be slow to read.
    """
    with suppress(_NoProtobufError), reading(path, BundleError), path.open("rb") as stream:
        _Walk(path, stream).message("model", path.stat().st_size, 0)


class _Walk:
    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path = path
        self._stream = stream
        self._left = MAX_FIELDS

    def message(self, kind: str, end: int, depth: int) -> None:
        """Walk one message up to the offset `end`."""
        if depth > MAX_DEPTH:
            raise BundleError(
                f"{self._path}: graphs are nested more than {MAX_DEPTH} deep, which is not supported"
            )
        inner = _FIELDS[kind]
        while (at := self._stream.tell()) < end:
            self._left -= 1
            if self._left < 0:
                raise BundleError(
                    f"{self._path} has more than {MAX_FIELDS} fields, which is not supported"
                )
            tag = self._varint()
            if tag >= MAX_TAG:
                # Runtimes truncate it to 32 bits, and would see another field than this walk.
                raise BundleError(
                    f"{self._path} has an oversized tag at byte {at}, which is not supported"
                )
            number, wire = tag >> 3, tag & 7
            if kind == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION):
                self._tensor_field(number, wire)
                continue
            if wire == _VARINT:
                self._varint()
            elif wire in (_FIXED64, _FIXED32):
                self._stream.seek(8 if wire == _FIXED64 else 4, 1)
            elif wire == _BYTES:
                length = self._varint()
                stop = self._stream.tell() + length
                if stop > end:
                    raise _NoProtobufError
                if number in inner:
                    self.message(inner[number], stop, depth + 1)
                self._stream.seek(stop)
            elif wire == _GROUP:
                # No tool writes groups, and this walk would not look inside them.
                raise BundleError(
                    f"{self._path} has an obsolete field at byte {at}, which is not supported"
                )
            else:
                raise _NoProtobufError
        if self._stream.tell() != end:
            raise _NoProtobufError

    def _tensor_field(self, number: int, wire: int) -> None:
        if number == _DATA_LOCATION and wire == _VARINT and self._varint() == 0:
            return
        raise BundleError(
            f"{self._path} keeps weights in other files (ONNX external data), which is not supported; save "
            "the network as one file (onnx.save with save_as_external_data=False)"
        )

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._stream.read(1)
            if not byte:
                raise _NoProtobufError
            value |= (byte[0] & 127) << shift
            if byte[0] < 128:
                return value
            shift += 7
        raise _NoProtobufError
