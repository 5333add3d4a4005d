"""Write an array of router scores row by row, as ``.npy``, without knowing beforehand how many rows come."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from moesim.files import atomic_write

#: Room for any row count, so that the header can be rewritten in place when the count is known.
_MOST_ROWS = 10**18


class ScoreWriter:
    """Write float16 ``[tokens, layers, experts]``; the file appears when the ``with`` block ends well.

    Parameters
    ----------
    path
        The file to write.
    shape
        Layers and experts.
    """

    def __init__(self, path: str | os.PathLike[str], shape: tuple[int, int]) -> None:
        self.path, self.rows = path, 0
        self._shape = shape

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._stream = cast(BinaryIO, stack.enter_context(atomic_write(self.path, "wb")))
            self._stream.write(self._header(_MOST_ROWS))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._stream.seek(0)
            self._stream.write(self._header(self.rows))
        self._stack.__exit__(kind, error, trace)

    def append(self, scores: npt.NDArray[np.floating[Any]]) -> None:
        """Add rows ``[tokens, layers, experts]``; what float16 cannot hold becomes its largest number."""
        largest = float(np.finfo(np.float16).max)
        self._stream.write(np.ascontiguousarray(np.clip(scores, -largest, largest), np.float16).tobytes())
        self.rows += len(scores)

    def _header(self, rows: int) -> bytes:
        """A version 1.0 header, as long for every number of rows."""
        start = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, "
        text = f"{start}{self._shape[0]}, {self._shape[1]}), }}".encode().ljust(245) + b"\n"
        return npy.magic(1, 0) + len(text).to_bytes(2, "little") + text
