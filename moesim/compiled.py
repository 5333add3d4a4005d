"""Compile loops with numba. Only modules that hold such loops import this one: numba is slow to load."""

# ruff: noqa: ANN401 (numba has no types)

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core import cgutils, event
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


class _Compiling(event.Listener):
    """Log once that loops are compiled: it takes a minute or two, and must not look like a hang."""

    said = False

    def on_start(self, _: Any) -> None:
        """When a function is compiled, and not when it is read from where it was kept."""
        if not self.said:
            self.said = True
            logging.getLogger("moesim").info("compiling loops: once per installation, up to two minutes ...")

    def on_end(self, _: Any) -> None:
        """When it has been."""


cast(Any, event).register("numba:compile", _Compiling())


def compiled(function: F) -> F:
    """Compile, and keep the compiled code where some folder can be written."""
    # Said outright: else a function is compiled as the first one that calls it.
    return _compile(function, _nrt=True)


def inside(function: F) -> F:
    """Compile a function that only compiled ones call: a door for Python takes long to build.

    It makes no arrays, and counts no references to those it is given: whoever calls from Python holds them.
    Counting took more than half of the time of a simulation.
    """
    return _compile(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)


def making(function: F) -> F:
    """As `inside`, but it may make arrays."""
    return _compile(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=True)


def _compile(function: F, **options: bool) -> F:
    jit: Any = numba.njit
    try:
        kernel = jit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # no writable package folder, home or NUMBA_CACHE_DIR
        kernel = jit(nogil=True, **options)(function)
    return cast(F, kernel)


def _lowest(_typing: Any, word: Any) -> Any:
    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.false_bit)

    return numba.types.uint64(word), build


def _highest(_typing: Any, word: Any) -> Any:
    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], cgutils.false_bit)

    return numba.types.uint64(word), build


#: Zero bits below the lowest set bit of a uint64, as uint64; 64 of zero. Inside compiled code only.
trailing_zeros: Callable[[Any], Any] = cast(Any, intrinsic(_lowest))

#: Zero bits above the highest set bit of a uint64, as uint64; 64 of zero. Inside compiled code only.
leading_zeros: Callable[[Any], Any] = cast(Any, intrinsic(_highest))
