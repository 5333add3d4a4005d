"""Random numbers inside kernels: xorshift64*, whose state is one integer that is never 0."""

from __future__ import annotations

import numpy as np

from moesim.compiled import compiled


def _advance(state: np.uint64) -> np.uint64:
    state ^= state >> np.uint64(12)
    state ^= state << np.uint64(25)
    state ^= state >> np.uint64(27)
    return state


def _pick(state: np.uint64, which: int, below: int) -> int:
    """Whole number below a limit of at most 2**16, from one of four quarters of the output."""
    draw = state * np.uint64(2685821657736338717)
    quarter = (draw >> np.uint64(16 * which)) & np.uint64(0xFFFF)
    # Signed, so that indices computed from it are.
    return int(np.int64((quarter * np.uint64(below)) >> np.uint64(16)))


def _unit(state: np.uint64) -> float:
    """Number in [0, 1)."""
    return float((state * np.uint64(2685821657736338717)) >> np.uint64(11)) * 2.0**-53


advance, pick, unit = compiled(_advance), compiled(_pick), compiled(_unit)
