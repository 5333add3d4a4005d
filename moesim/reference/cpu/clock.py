"""The clock of `time.thread_time_ns` for compiled code: CPU time of this thread, blind to what others run."""

# ruff: noqa: ANN401 (numba and ctypes have no types here)

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import binding  # type: ignore[import-untyped]

from moesim.compiled import inside

_NAME = "moesim_clock_gettime"


def _register() -> Any:
    """Tell the compiler where ``clock_gettime(which, timespec)`` is; returns what must stay alive."""
    function: Any
    if os.name == "posix":
        function = ctypes.CDLL(None).clock_gettime
        which = time.CLOCK_THREAD_CPUTIME_ID
    else:
        which = 0

        def read(_which: int, out: Any) -> int:
            out[0], out[1] = 0, time.thread_time_ns()
            return 0

        function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int64))(read)
    binding.add_symbol(_NAME, ctypes.cast(function, ctypes.c_void_p).value)
    return which, function


_WHICH, _FUNCTION = _register()
_clock_gettime: Any = numba.types.ExternalFunction(
    _NAME, numba.types.int32(numba.types.int32, numba.types.voidptr)
)


@inside
def thread_time_ns(pair: npt.NDArray[np.int64]) -> Any:  # pragma: no cover - compiled
    """CPU time of this thread in nanoseconds; `pair` is room for two numbers."""
    _clock_gettime(_WHICH, pair.ctypes)
    return pair[0] * 1_000_000_000 + pair[1]
