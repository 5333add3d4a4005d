"""Read ``.safetensors`` files: a length, a JSON header of that length, then raw tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.json_text import short
from moesim.trace.limits import size_fault
from moesim.trace.peek import unreadable

Array = npt.NDArray[Any]
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_AXES = 8
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name; only the header is read.

    Raises
    ------
    TraceError
        If it is no such file, is truncated, or its tensors overlap or reach beyond it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise TraceError(Fault("is no safetensors file, or is truncated"), path)
            fault = size_fault(length, "the header", _MAX_HEADER_BYTES)
            if fault:
                raise TraceError(fault, path)
            text = stream.read(length)
    except OSError as error:
        raise unreadable(error, path) from None
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise TraceError(Fault("has a header that is no JSON object"), path)
    header.pop("__metadata__", None)
    found, faults = {}, []
    for name, entry in header.items():
        tensor = _tensor(entry, 8 + length)
        if tensor is None or tensor.offset + tensor.nbytes > size:
            faults.append(Fault("is no tensor inside the file", str(short(name)), short(entry)))
        else:
            found[name] = tensor
    if faults:
        raise TraceError(faults[:5], path)
    if sum(t.nbytes for t in found.values()) > size - 8 - length:
        raise TraceError(Fault("has tensors that overlap"), path)
    return found


def read_tensor(path: Path, tensor: Tensor) -> Array:
    """One tensor of a file.

    Raises
    ------
    TraceError
        If it is truncated or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(tensor.offset)
            data = stream.read(tensor.nbytes)
    except OSError as error:
        raise unreadable(error, path) from None
    if len(data) < tensor.nbytes:
        raise TraceError(Fault("is truncated"), path)
    return np.frombuffer(data, _DTYPES[tensor.dtype]).reshape(tensor.shape)


def _tensor(entry: object, start: int) -> Tensor | None:
    if not isinstance(entry, Mapping):
        return None
    dtype, shape, offsets = (entry.get(name) for name in ("dtype", "shape", "data_offsets"))
    good = isinstance(dtype, str) and dtype in _DTYPES and _wholes(shape) and _wholes(offsets)
    if not good or len(shape) > _MAX_AXES or len(offsets) != 2:  # type: ignore[arg-type]
        return None
    begin, end = offsets  # type: ignore[misc]
    wanted = math.prod(shape) * np.dtype(_DTYPES[str(dtype)]).itemsize  # type: ignore[arg-type]
    return Tensor(str(dtype), tuple(shape), start + begin, wanted) if end - begin == wanted else None  # type: ignore[arg-type]


def _wholes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)
