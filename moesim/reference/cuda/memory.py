"""Memory of either kind of backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import InfeasibleError
from moesim.reference.cuda.backend import Buffer


def rows_and_columns(buffer: Buffer) -> tuple[int, int]:
    """Of a buffer whose axes but the last are rows.

    >>> rows_and_columns(Buffer(0, (4, 16, 64), np.dtype(np.uint16)))
    (64, 64)
    """
    return int(np.prod(buffer.shape[:-1], dtype=np.int64)), buffer.shape[-1]


def out_of_memory(name: str, needed: int, free: int, what: str = "") -> InfeasibleError:
    """Said when something does not fit.

    >>> print(out_of_memory("GPU", 10**9, 10**7, "mixtral"))
    memory of GPU is full: 1 GB more are needed for mixtral, 0.01 GB are free
    """
    wanted = f"{needed / 1e9:.3g} GB more are needed" + (f" for {what}" if what else "")
    return InfeasibleError(
        f"memory of {name} is full: {wanted}, {free / 1e9:.3g} GB are free",
        resource=f"memory of {name}",
        needed=needed,
        available=free,
    )


def address_of(memory: Buffer | npt.NDArray[Any]) -> int:
    """Where it begins, on the device or on the host."""
    return memory.address if isinstance(memory, Buffer) else memory.ctypes.data
