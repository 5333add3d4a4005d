"""Read the metadata and tensors of a GGUF file, as far as a dump of statistics needs: plain 32-bit floats."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.limits import size_fault
from moesim.trace.peek import unreadable

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_F32 = 0
_MAX_ENTRIES, _MAX_TEXT_BYTES, _MAX_AXES = 1_000_000, 1 << 20, 4
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_TEXT, _ARRAY = 8, 9
_MAX_NESTING = 4


@dataclass(frozen=True, slots=True)
class Gguf:
    """What a file says and where its tensors lie.

    Parameters
    ----------
    values
        Metadata by key; of arrays, the number of elements alone.
    tensors
        Name to shape (fastest axis first, as stored), type number and offset in the file.
    """

    path: Path
    values: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor of 32-bit floats, flat.

        Raises
        ------
        TraceError
            If it has another type, or reaches beyond the file.
        """
        shape, kind, offset = self.tensors[name]
        nbytes = 4 * math.prod(shape)
        if kind != _F32:
            raise TraceError(Fault("is no tensor of 32-bit floats", name, kind), self.path)
        size = self.path.stat().st_size
        if offset + nbytes > size:
            raise TraceError(
                Fault(f"is truncated: ends at byte {offset + nbytes} of {size}", name), self.path
            )
        with self.path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(nbytes)
        if len(data) != nbytes:
            raise TraceError(Fault("is truncated", name), self.path)
        return np.frombuffer(data, "<f4")


def read_gguf(path: Path) -> Gguf:
    """Read the head of a file: metadata and the list of tensors.

    Raises
    ------
    TraceError
        If it is no GGUF file of a known version, is truncated, or claims more than it can hold.
    """
    try:
        with path.open("rb") as stream:
            return _Head(stream, path).read()
    except OSError as error:
        raise unreadable(error, path) from None


class _Head:
    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path = stream, path
        self._size = path.stat().st_size

    def read(self) -> Gguf:
        if self._take(4) != MAGIC:
            raise self._error("is no GGUF file")
        version = self._scalar("<I")
        if version not in _VERSIONS:
            raise TraceError(Fault("is of a GGUF version that is not read", "", version, "2, 3"), self._path)
        tensors, pairs = self._count("<Q"), self._count("<Q")
        values: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._text()
            values[key] = self._value(self._scalar("<I"))
        places = {}
        for _ in range(tensors):
            name = self._text()
            axes = self._scalar("<I")
            if axes > _MAX_AXES:
                raise self._error(f"has a tensor of {axes} axes")
            shape = tuple(self._scalar("<Q") for _ in range(axes))
            kind, offset = self._scalar("<I"), self._scalar("<Q")
            if name in places:
                raise self._error(f"has the tensor {name[:60]} twice")
            if math.prod(shape) > self._size or offset > self._size:
                raise self._error(f"is truncated: the tensor {name[:60]} reaches beyond it")
            places[name] = shape, kind, offset
        step = values.get("general.alignment", 32)
        if type(step) is not int or not 0 < step <= 1 << 16:
            raise self._error("has a strange alignment")
        start = -(-self._stream.tell() // step) * step
        return Gguf(self._path, values, {n: (s, k, start + o) for n, (s, k, o) in places.items()})

    def _error(self, what: str) -> TraceError:
        return TraceError(Fault(what), self._path)

    def _take(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise self._error("is truncated")
        return data

    def _scalar(self, code: str) -> Any:  # noqa: ANN401
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _count(self, code: str) -> int:
        count: int = self._scalar(code)
        # Every entry takes some bytes, so a longer list than the file is a lie.
        if count > min(_MAX_ENTRIES, self._size):
            raise self._error(f"claims {count} entries")
        return count

    def _text(self) -> str:
        length = self._scalar("<Q")
        fault = size_fault(length, "a text", min(_MAX_TEXT_BYTES, self._size))
        if fault:
            raise TraceError(fault, self._path)
        return self._take(length).decode("utf-8", errors="replace")

    def _value(self, kind: int, depth: int = 0) -> Any:  # noqa: ANN401
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY or depth == _MAX_NESTING:
            raise self._error(f"has a value of the unknown type {kind}")
        inner, length = self._scalar("<I"), self._count("<Q")
        if inner in _SCALARS:
            self._take(length * struct.calcsize(_SCALARS[inner]))
        else:
            for _ in range(length):
                self._value(inner, depth + 1)
        return length
