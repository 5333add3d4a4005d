"""Numpy files, read without trusting them: no objects, and sizes checked before anything is allocated."""

from __future__ import annotations

import math
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

Array = npt.NDArray[Any]
_PLAIN = "biufU"
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
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise TraceError(
                Fault(f"is in .npy version {version[0]}.{version[1]}", where, allowed="1.0 or 2.0")
            )
    except (ValueError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise TraceError(Fault("has a damaged .npy header", where)) from None
    if dtype.kind not in _PLAIN or dtype.hasobject:
        why = (
            "holds Python objects, which only an unsafe unpickling could read"
            if dtype.hasobject
            else "is no plain array"
        )
        raise TraceError(Fault(why, where, str(dtype), "an array of whole or real numbers"))
    wanted = math.prod(shape) * dtype.itemsize
    fault = size_fault(wanted, where, on_disk_bytes=on_disk_bytes)
    if fault is None and min(shape, default=0) < 0:
        fault = Fault("has a negative size", where, shape)
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


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).lower()
