"""Compile loops with numba. Only modules that hold such loops import this one: numba is slow to load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile, and keep the compiled code where some folder can be written."""
    try:
        kernel: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable package folder, home or NUMBA_CACHE_DIR
        kernel = numba.njit(nogil=True)(function)
    return cast(F, kernel)
