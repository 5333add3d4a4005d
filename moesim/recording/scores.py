"""Write router scores row by row, a ``.npy`` per layer, without knowing beforehand how many rows come."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write

#: A header of version 1.0 of this length has room for any number of rows, and can be rewritten in place.
_HEADER = 128


class ScoreWriter:
    """Write ``layer_003.npy``, float16 ``[tokens, experts]``, for every layer.

    The files appear when the ``with`` block ends well, and not otherwise. `moesim.trace.load_trace` reads the
    folder as router logits.

    Parameters
    ----------
    folder
        Where to; made if it does not exist.
    layers
        Decoder indices.
    num_experts
        Experts per layer.

    Raises
    ------
    ConfigError
        If the folder cannot be made or written.
    """

    def __init__(self, folder: str | os.PathLike[str], layers: Sequence[int], num_experts: int) -> None:
        self.folder, self.rows = Path(folder), 0
        self._layers, self._experts = tuple(layers), num_experts

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if not self.folder.is_dir():
                try:
                    self.folder.mkdir()
                except OSError as error:
                    reason = (error.strerror or str(error)).lower()
                    raise ConfigError(Fault(f"cannot be made: {reason}"), self.folder) from None
                stack.callback(self._remove_if_empty)
            names = [self.folder / f"layer_{layer:03d}.npy" for layer in self._layers]
            self._streams = [cast(BinaryIO, stack.enter_context(atomic_write(n, "wb"))) for n in names]
            for stream in self._streams:
                stream.write(self._header())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            for stream in self._streams:
                stream.seek(0)
                stream.write(self._header())
        self._stack.__exit__(kind, error, trace)

    def append(self, scores: npt.NDArray[np.floating[Any]]) -> None:
        """Add rows ``[tokens, layers, experts]``; what float16 cannot hold becomes its largest number."""
        largest = float(np.finfo(np.float16).max)
        small = np.clip(scores, -largest, largest).astype("<f2")
        for i, stream in enumerate(self._streams):
            stream.write(small[:, i].tobytes())
        self.rows += len(scores)

    def _header(self) -> bytes:
        shape = f"({self.rows}, {self._experts})"
        text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}"
        padded = text.ljust(_HEADER - 11) + "\n"
        return npy.magic(1, 0) + len(padded).to_bytes(2, "little") + padded.encode()

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.folder.rmdir()
