"""How an expert's weights lie in GPU memory: gate and up rows interleaved in groups of eight.

One thread of a tensor-core instruction holds eight neighbouring rows of its product (or two columns out of
each eight). With rows ``16i .. 16i+7`` of the product the gate's features ``8i .. 8i+7``, and the next
eight rows the same features of up, that thread holds both halves of SwiGLU, whichever operand the weights are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault

#: Rows of gate, then rows of up.
GROUP = 8
#: Hidden sizes and widths are multiples of this: 128 bytes of bf16, a row of a swizzled tile.
MULTIPLE = 64


def interleave(gate_up: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From all gate rows, then all up rows, to groups of eight of each.

    Parameters
    ----------
    gate_up
        ``[..., 2F, H]``: rows 0 to F-1 gate, the others up, as checkpoints hold them.

    Returns
    -------
    ndarray
        ``w13 [..., 2F, H]``, contiguous.

    >>> interleave(np.arange(32)[:, None])[:, 0].reshape(4, 8)[:, 0]
    array([ 0, 16,  8, 24])
    """
    *front, rows, hidden = gate_up.shape
    halves = gate_up.reshape(*front, 2, rows // (2 * GROUP), GROUP, hidden)
    return np.ascontiguousarray(np.moveaxis(halves, -4, -3)).reshape(gate_up.shape)


def deinterleave(w13: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The inverse of `interleave`.

    >>> rows = np.arange(64).reshape(32, 2)
    >>> bool((deinterleave(interleave(rows)) == rows).all())
    True
    """
    *front, rows, hidden = w13.shape
    groups = w13.reshape(*front, rows // (2 * GROUP), 2, GROUP, hidden)
    return np.ascontiguousarray(np.moveaxis(groups, -3, -4)).reshape(w13.shape)


def size_faults(hidden: int, width: int) -> list[Fault]:
    """What is wrong with a layer's sizes.

    >>> [str(fault) for fault in size_faults(96, 64)]
    ['hidden: is no multiple of 64 (got 96); allowed: 64, 128, ...']
    """
    return [
        Fault(f"is no multiple of {MULTIPLE}", name, size, f"{MULTIPLE}, {2 * MULTIPLE}, ...")
        for name, size in (("hidden", hidden), ("width", width))
        if size <= 0 or size % MULTIPLE
    ]
