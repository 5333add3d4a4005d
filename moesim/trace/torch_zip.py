"""Read the tensors of a ``torch.save`` file, without torch.

Since torch 1.6 such a file is a zip archive: ``NAME/data.pkl`` is a pickle of the saved object, in which
each tensor is a call of ``torch._utils._rebuild_tensor_v2`` on a storage kept under ``NAME/data/KEY`` as raw
bytes. The pickle is read by `moesim.trace.pickle_data`, the storages by numpy; sizes are checked first.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.trace.arrays import BROKEN_ZIP
from moesim.trace.limits import MAX_BYTES, MAX_PICKLE_BYTES, size_fault
from moesim.trace.pickle_data import PLAIN, Globals, read_pickle

Array = npt.NDArray[Any]
_DTYPES = {
    "Double": "f8",
    "Float": "f4",
    "Half": "f2",
    "BFloat16": "bf16",
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
#: Data types as the newer rebuild function names them.
_NAMES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "bf16",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint8": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "bool": "?",
}


_MAX_AXES = 8


@dataclass(frozen=True, slots=True)
class _Type:
    code: str
    """numpy's code, ``bf16``, or empty for an untyped storage."""


@dataclass(frozen=True, slots=True)
class _Storage:
    data: bytes
    code: str


def torch_names(names: Sequence[str]) -> str | None:
    """Folder inside the archive that holds ``data.pkl``, or None if there is not exactly one.

    >>> torch_names(["archive/data.pkl", "archive/data/0", "archive/version"])
    'archive'
    """
    folders = [n.removesuffix("/data.pkl") for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
    return folders[0] if len(folders) == 1 else None


def read_torch(path: Path) -> Any:  # noqa: ANN401 - whatever was saved
    """The saved object, its tensors as read-only numpy arrays (bfloat16 as float32).

    Raises
    ------
    TraceError
        If the archive is damaged or would unpack to too much, or its pickle asks for anything but tensors
        and plain data, which is named.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            folder = torch_names(archive.namelist())
            if folder is None:
                raise TraceError(Fault("holds no data.pkl, so it is no torch.save file"), path)
            return _read(archive, folder, path)
    except BROKEN_ZIP as error:
        raise TraceError(Fault(f"is no readable torch.save file: {str(error).lower()}"), path) from None


def _read(archive: zipfile.ZipFile, folder: str, path: Path) -> Any:  # noqa: ANN401
    info = archive.getinfo(f"{folder}/data.pkl")
    whole_bytes = sum(member.file_size for member in archive.infolist())
    fault = size_fault(whole_bytes, "the archive", MAX_BYTES, path.stat().st_size)
    fault = fault or size_fault(info.file_size, info.filename, MAX_PICKLE_BYTES)
    if fault:
        raise TraceError(fault, path)
    tensors = _Tensors(archive, folder, 2 * whole_bytes)
    names: Globals = {
        **PLAIN,
        ("torch._utils", "_rebuild_tensor"): tensors.rebuild,
        ("torch._utils", "_rebuild_tensor_v2"): tensors.rebuild,
        ("torch._utils", "_rebuild_tensor_v3"): tensors.rebuild_typed,
        ("torch.storage", "UntypedStorage"): _Type(""),
        ("torch", "Size"): tuple,
        **{("torch", f"{name}Storage"): _Type(code) for name, code in _DTYPES.items()},
        **{("torch", name): _Type(code) for name, code in _NAMES.items()},
    }
    return read_pickle(archive.read(info), path, info.filename, names, tensors.storage)


class _Tensors:
    """Storages and tensors of one archive, within a budget of bytes: a pickle may ask for one often."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, budget_bytes: int) -> None:
        self._archive, self._folder, self._left_bytes = archive, folder, budget_bytes
        self._storages: dict[str, bytes] = {}
        self._order = "<"
        if f"{folder}/byteorder" in archive.namelist():
            with archive.open(f"{folder}/byteorder") as stream:
                self._order = ">" if stream.read(16).strip() == b"big" else "<"

    def storage(self, key: object) -> _Storage:
        """The storage of an id ``("storage", type, key, location, elements)``."""
        if (
            not isinstance(key, tuple)
            or len(key) != 5
            or key[0] != "storage"
            or not isinstance(key[1], _Type)
        ):
            raise ValueError("a storage has a strange id")
        name, code = f"{self._folder}/data/{key[2]}", key[1].code
        if name not in self._storages:
            self._storages[name] = self._archive.read(name)
        data = self._storages[name]
        wanted = _whole(key[4]) * (_item_bytes(code) if code else 1)
        if wanted > len(data):
            raise ValueError(f"{name} holds {len(data)} of {wanted} bytes")
        return _Storage(data, code)

    def rebuild(self, storage: object, offset: object, size: object, stride: object, *_: object) -> Array:
        """A tensor whose storage has a type."""
        if not isinstance(storage, _Storage) or not storage.code:
            raise ValueError("a tensor has no typed storage")
        return self._tensor(storage.data, storage.code, offset, size, stride)

    def rebuild_typed(
        self, storage: object, offset: object, size: object, stride: object, *rest: object
    ) -> Array:
        """A tensor that brings its type: after gradient flag and hooks."""
        if not isinstance(storage, _Storage) or len(rest) < 3 or not isinstance(rest[2], _Type):
            raise ValueError("a tensor has no typed storage")
        return self._tensor(storage.data, rest[2].code, offset, size, stride)

    def _tensor(self, data: bytes, code: str, offset: object, size: object, stride: object) -> Array:
        if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
            raise ValueError("a tensor has a strange shape")
        shape, strides, start = [_whole(n) for n in size], [_whole(n) for n in stride], _whole(offset)
        item_bytes, count = _item_bytes(code), math.prod(shape)
        kind = np.dtype(self._order + ("u2" if code == "bf16" else code))
        if not count:
            return np.zeros(shape, kind)
        last = start + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        # A stride of 0 repeats a value for free here, and costs memory as soon as it is copied.
        if (last + 1) * item_bytes > len(data) or count * item_bytes > len(data) or len(shape) > _MAX_AXES:
            raise ValueError("a tensor reaches beyond its storage")
        self._left_bytes -= count * item_bytes
        if self._left_bytes < 0:
            raise ValueError("the tensors are larger than the storages")
        flat = np.frombuffer(data, kind, count=last + 1 - start, offset=start * item_bytes)
        view = np.lib.stride_tricks.as_strided(
            flat, shape, [s * item_bytes for s in strides], writeable=False
        )
        if code == "bf16":
            # The upper half of a float32.
            return (view.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.ascontiguousarray(view, dtype=kind.newbyteorder("="))


def _item_bytes(code: str) -> int:
    return 2 if code == "bf16" else np.dtype(code).itemsize


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ValueError("a size is no whole number")
    return value
