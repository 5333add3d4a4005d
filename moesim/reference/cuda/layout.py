"""How an expert's weights lie in GPU memory: gate and up rows interleaved in groups of eight.

A thread that holds an element of a tensor core's product also holds the one eight rows (or columns) further.
With the gate's features ``8i .. 8i+7`` in rows ``16i .. 16i+7``, and the same of up in the next eight, it
holds both halves of SwiGLU, whichever operand the weights are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Rows of gate, then rows of up.
GROUP = 8


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
