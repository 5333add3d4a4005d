"""Belady's rule: what is needed last, or never again, leaves.

One bit per access yet to come says whether its expert will be there. An access hits if its own bit is set; a
victim is the highest set bit, which a second row of bits, one per word of the first, finds. Experts that are
never needed again have bits of their own beyond the last access, and free slots beyond those.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled, leading_zeros
from moesim.residency.kernels.accesses import FIRST, FULL, HIT, Ids, Outcomes, PoolAccesses


def belady(accesses: PoolAccesses, out: Outcomes) -> None:
    """Victim: the expert whose next access is farthest away.

    With ``bypass`` an expert that is needed later than all that is held is used and not kept: the most hits
    that any rule can have. Without, each load takes a slot, as in caches that must load what they use, and in
    libCacheSim; that is the most hits among rules that do the same.
    """
    a = accesses
    longest = int(np.diff(a.ends).max(initial=0))
    following = np.empty(longest, np.uint32)
    bypass = bool(a.parameters.get("bypass", 0))
    soonest = np.empty(a.num_members, np.uint32)
    # One after the other, every access is a cell.
    cells = a.cells if a.batch else np.arange(len(a.items) + 1 if bypass else 1)
    in_cells = a.batch or bypass
    _belady(a.items, cells, a.ends, following, soonest, a.slots, a.start, in_cells, bypass, out)


@compiled
def next_uses(items: Ids, following: npt.NDArray[np.uint32], soonest: npt.NDArray[np.uint32]) -> None:
    """When the expert of each access is needed again.

    Parameters
    ----------
    items
        Members, ``[accesses]``.
    following
        Takes the next access to the same expert, uint32 ``[accesses]``; of an expert that is not needed again
        the number of accesses plus its own.
    soonest
        Takes the first access to each, uint32 ``[members]``, likewise.
    """
    n = len(items)
    for item in range(len(soonest)):
        soonest[item] = n + item
    for back in range(n):
        i = n - 1 - back
        item = items[i]
        following[i] = soonest[item]
        soonest[item] = i


@compiled
def _take_last(
    bits: npt.NDArray[np.uint64], rows: npt.NDArray[np.uint64], top: np.uint64
) -> tuple[np.uint64, np.uint64]:
    """Clear the highest bit; where it was, and the highest row that may hold one."""
    one, six, low = np.uint64(1), np.uint64(6), np.uint64(63)
    row = rows[top]
    while row == np.uint64(0):
        top -= one
        row = rows[top]
    word = (top << six) | (low - leading_zeros(row))
    at = low - leading_zeros(bits[word])
    rest = bits[word] ^ (one << at)
    bits[word] = rest
    rows[top] = row ^ (np.uint64(rest == np.uint64(0)) << (word & low))
    return (word << six) | at, top


@compiled
def _set(bits: npt.NDArray[np.uint64], rows: npt.NDArray[np.uint64], place: np.uint64) -> None:
    """Set a bit, and that of its word."""
    one, six, low = np.uint64(1), np.uint64(6), np.uint64(63)
    bits[place >> six] |= one << (place & low)
    rows[place >> np.uint64(12)] |= one << ((place >> six) & low)


@compiled
def _one_by_one(
    following: npt.NDArray[np.uint32],
    bits: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.uint64],
    top: np.uint64,
    empty: np.uint64,
    out: Outcomes,
) -> None:
    """Accesses of one start, each of which takes a slot; free ones are bits from `empty` on."""
    one, two, six, low, twelve = np.uint64(1), np.uint64(2), np.uint64(6), np.uint64(63), np.uint64(12)
    now = np.uint64(0)
    for j in range(len(following)):
        hit = (bits[now >> six] >> (now & low)) & one
        now += one
        code = one
        if not hit:
            # As `_take_last`, which is not called here: it costs a fifth more.
            row = rows[top]
            while row == np.uint64(0):
                top -= one
                row = rows[top]
            word = (top << six) | (low - leading_zeros(row))
            at = low - leading_zeros(bits[word])
            rest = bits[word] ^ (one << at)
            bits[word] = rest
            rows[top] = row ^ (np.uint64(rest == np.uint64(0)) << (word & low))
            code = np.uint64(((word << six) | at) < empty) << two
        out[j] = code
        again = np.uint64(following[j])
        bits[again >> six] |= one << (again & low)
        rows[again >> twelve] |= one << ((again >> six) & low)
        top = max(top, again >> twelve)


@compiled
def _belady(
    items: Ids,
    cells: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    following: npt.NDArray[np.uint32],
    soonest: npt.NDArray[np.uint32],
    slots: int,
    start: npt.NDArray[np.int32],
    batch: bool,
    bypass: bool,
    out: Outcomes,
) -> None:
    one, two, six, low, twelve = np.uint64(1), np.uint64(2), np.uint64(6), np.uint64(63), np.uint64(12)
    places = len(following) + len(soonest) + slots
    bits = np.zeros((places >> 6) + 1, np.uint64)
    rows = np.zeros((places >> 12) + 1, np.uint64)
    cell = 0
    for segment in range(len(ends) - 1):
        begin, n = ends[segment], ends[segment + 1] - ends[segment]
        free = n + len(soonest)
        bits[: ((free + slots) >> 6) + 1] = 0
        rows[: ((free + slots) >> 12) + 1] = 0
        next_uses(items[begin : begin + n], following, soonest)
        for slot in range(slots - len(start)):
            _set(bits, rows, np.uint64(free + slot))
        for item in start:
            _set(bits, rows, np.uint64(soonest[item]))
        top = np.uint64((free + slots) >> 12)
        empty = np.uint64(free)
        if not batch:
            _one_by_one(following[:n], bits, rows, top, empty, out[begin : begin + n])
        while batch and cell < len(cells) - 1 and cells[cell] < begin + n:
            lo, hi = cells[cell], cells[cell + 1]
            # Others: all that is held and not asked for here; they are needed later than this cell.
            others = slots
            for i in range(lo, hi):
                now = np.uint64(i - begin)
                out[i] = (bits[now >> six] >> (now & low)) & one
                others -= out[i]
            for i in range(lo, hi):
                if not out[i] and not bypass and others > 0:
                    others -= 1
                    place, top = _take_last(bits, rows, top)
                    out[i] = two | (np.uint64(place < empty) << two)
            for i in range(lo, hi):
                again = np.uint64(following[i - begin])
                _set(bits, rows, again)
                top = max(top, again >> twelve)
            # With more in the cell than in the pool, or where what is needed last is not kept.
            for i in range(lo, hi):
                if not out[i]:
                    place, top = _take_last(bits, rows, top)
                    out[i] = np.uint64(place < empty) << two
                out[i] &= HIT | FULL
            cell += 1
        # What was there at first is not new.
        for item in start:
            soonest[item] = n
        for item in range(len(soonest)):
            if soonest[item] < n:
                out[begin + np.int64(soonest[item])] |= FIRST
