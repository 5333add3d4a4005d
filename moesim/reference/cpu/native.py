"""What compiled code asks of the system: its thread's clock, copies of memory, reads of files.

Compiled code calls these without a step through Python, which would cost as much as a small expert.
"""

# ruff: noqa: ANN401 (numba and ctypes have no types here)

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import binding  # type: ignore[import-untyped]

from moesim.compiled import inside

Words = npt.NDArray[np.uint16]
Int64 = npt.NDArray[np.int64]

_CLOCK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int64))
_READ = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def python_clock(_which: int, out: Any) -> int:
    """Do what ``clock_gettime`` does, where there is none."""
    out[0], out[1] = 0, time.thread_time_ns()
    return 0


def python_read(handle: int, to: int, size: int, begin: int) -> int:
    """Do what ``pread`` does, where there is none."""
    try:
        os.lseek(handle, begin, os.SEEK_SET)
        data = os.read(handle, size)
    except OSError:
        return -1
    ctypes.memmove(to, data, len(data))
    return len(data)


def _named(name: str, function: Any, result: Any, *arguments: Any) -> Callable[..., Any]:
    """Tell the compiler where a function is; what is compiled and kept on disk finds it by its name."""
    name = f"moesim_{name}"
    binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    external: Any = numba.types.ExternalFunction
    found: Callable[..., Any] = external(name, result(*arguments))
    return found


_t = numba.types
_POSIX = os.name == "posix"
_WHICH = time.CLOCK_THREAD_CPUTIME_ID if _POSIX else 0
_libc: Any = ctypes.CDLL(None) if _POSIX else None
#: Kept alive: they are called by address.
_functions = (
    _libc.clock_gettime if _POSIX else _CLOCK(python_clock),
    _libc.pread if _POSIX else _READ(python_read),
)
_clock_gettime = _named("clock_gettime", _functions[0], _t.int32, _t.int32, _t.voidptr)
_pread = _named("pread", _functions[1], _t.int64, _t.int32, _t.voidptr, _t.int64, _t.int64)
_memmove = _named("memmove", ctypes.memmove, _t.voidptr, _t.voidptr, _t.voidptr, _t.int64)


@inside
def thread_time_ns(pair: Int64) -> Any:  # pragma: no cover - compiled
    """CPU time of this thread in nanoseconds, as `time.thread_time_ns`; `pair` is room for two numbers."""
    _clock_gettime(_WHICH, pair.ctypes)
    return pair[0] * 1_000_000_000 + pair[1]


@inside
def copy(source: npt.NDArray[Any], to: npt.NDArray[Any]) -> None:  # pragma: no cover - compiled
    """Copy an array, contiguous as its target is."""
    _memmove(to.ctypes, source.ctypes, to.nbytes)


@inside
def read(handle: int, begin: int, to: Words) -> bool:  # pragma: no cover - compiled
    """Fill `to` from a file, from byte `begin` on; False if it cannot be read."""
    data, done = to.view(np.uint8), 0
    while done < len(data):
        got = _pread(handle, data[done:].ctypes, len(data) - done, begin + done)
        if got <= 0:
            return False
        done += got
    return True
