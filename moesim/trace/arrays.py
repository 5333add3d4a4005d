"""Numpy files, read without trusting them: no objects, and sizes checked before anything is allocated."""

from __future__ import annotations

import ast
import math
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.limits import size_fault
from moesim.trace.peek import unreadable
from moesim.trace.schema import MAX_LAYERS

Array = npt.NDArray[Any]
_PLAIN = re.compile(r"[<>|=](b1|[iu][1248]|f[248]|U[1-9]\d{0,5})")
_LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}
_MAX_HEADER_BYTES, _MAX_AXES = 10_000, 8
#: What a damaged archive raises while it is read.
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


def read_npy(stream: IO[bytes], size_bytes: int, where: str, on_disk_bytes: int | None = None) -> Array:
    """Read one array in ``.npy`` format.

    Parameters
    ----------
    stream
        Positioned at the magic string.
    size_bytes
        Length of the array file, header included.
    where
        Its name, for messages.
    on_disk_bytes
        Size of the archive it is unpacked from, if it is.

    Returns
    -------
    ndarray
        Writable, in C order.

    Raises
    ------
    TraceError
        If it is no array, holds objects, is shorter than it says, or too large.
    """
    shape, fortran, dtype = _header(stream, where)
    wanted = math.prod(shape) * dtype.itemsize
    fault = size_fault(wanted, where, on_disk_bytes=on_disk_bytes)
    if fault is None and wanted > size_bytes:
        fault = Fault(f"is truncated: shape {shape} needs {wanted} bytes, {size_bytes} are there", where)
    if fault:
        raise TraceError(fault)
    array = np.empty(math.prod(shape), dtype)
    view = array.view(np.uint8).data.cast("B") if wanted else memoryview(b"")
    filled = 0
    while filled < wanted and (got := stream.readinto(view[filled:])):  # type: ignore[attr-defined]
        filled += got
    if filled < wanted:
        raise TraceError(Fault(f"is truncated: {filled} of {wanted} bytes are there", where))
    return np.asarray(array.reshape(shape, order="F" if fortran else "C"), order="C")


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and data type from the head of a ``.npy`` file.

    numpy's own function would also repair headers of Python 2 and accept types built from Python expressions.
    """
    damaged = TraceError(Fault("has a damaged .npy header", where))
    magic = stream.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in _LENGTH_BYTES:
        raise damaged
    length = int.from_bytes(stream.read(_LENGTH_BYTES[magic[6:]]), "little")
    content = stream.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        fields = ast.literal_eval(content.decode("latin-1").strip())
        shape, fortran, descr = fields["shape"], fields["fortran_order"], fields["descr"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise damaged from None
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    whole = whole and len(shape) <= _MAX_AXES and math.prod(max(n, 1) for n in shape) < 2**60
    if not whole or not isinstance(fortran, bool):
        raise damaged
    if not isinstance(descr, str) or not _PLAIN.fullmatch(descr):
        objects = isinstance(descr, str) and descr.endswith("O")
        why = (
            "holds Python objects, which only unsafe unpickling could read"
            if objects
            else "is no plain array"
        )
        raise TraceError(Fault(why, where, descr, "an array of whole or real numbers"))
    return shape, fortran, np.dtype(descr)


def read_npz(path: Path, names: Iterable[str]) -> dict[str, Array]:
    """Read the named arrays of an ``.npz`` archive, those it has.

    Raises
    ------
    TraceError
        Naming every array that cannot be read.
    """
    found: dict[str, Array] = {}
    faults: list[Fault] = []
    try:
        on_disk = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            chosen = {n: members[f"{n}.npy"] for n in names if f"{n}.npy" in members}
            whole = size_fault(sum(i.file_size for i in chosen.values()), "", on_disk_bytes=on_disk)
            if whole:
                raise TraceError(whole, path)
            for name, info in chosen.items():
                try:
                    with archive.open(info) as stream:
                        found[name] = read_npy(stream, info.file_size, f"{name}.npy", on_disk)
                except TraceError as error:
                    faults += error.faults
                except BROKEN_ZIP as error:
                    faults.append(Fault(f"is damaged: {_reason(error)}", f"{name}.npy"))
    except TraceError:
        raise
    except PermissionError as error:
        raise unreadable(error, path) from None
    except BROKEN_ZIP as error:
        raise TraceError(Fault(f"is no readable zip archive: {_reason(error)}"), path) from None
    if faults:
        raise TraceError(faults, path)
    return found


def text(array: Array | None) -> str:
    """The text of a 0-d string array; empty for anything else.

    >>> text(np.array("gpt-oss-20b")), text(np.array(3))
    ('gpt-oss-20b', '')
    """
    return str(array) if array is not None and array.ndim == 0 and array.dtype.kind == "U" else ""


def layer_list(array: Array | None, rows: int, path: object) -> tuple[int, ...] | None:
    """The decoder layers of an array `moe_layer_ids`, or None if there is none.

    Raises
    ------
    TraceError
        If they are not `rows` rising layers.
    """
    if array is None:
        return None
    good = array.shape == (rows,) and rows > 0 and array.dtype.kind in "iu"
    if (
        not good
        or int(array.min()) < 0
        or int(array.max()) >= MAX_LAYERS
        or (np.diff(array.astype("i8")) < 1).any()
    ):
        raise TraceError(Fault(f"is no rising list of {rows} layers", "moe_layer_ids"), path)
    return tuple(array.tolist())


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).lower()
