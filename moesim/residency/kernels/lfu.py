"""Least frequently used.

Experts with one count leave in the order of their last use, so bits mark, as in the kernel of LRU, which
accesses are the last to a resident expert: one row of bits for each count below `ROWS`, the words of the rows
side by side. A victim is the lowest bit of the lowest row that has any. Counts from `ROWS` have no row: where
all of what is held has been used so often, all experts are looked at. Since a newcomer's count is 1, that
takes as many hits in a row on the latest newcomers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled, trailing_zeros
from moesim.residency.kernels.accesses import FULL, HIT, Ids, Outcomes, PoolAccesses
from moesim.residency.kernels.lfu_kept import lfu_kept

#: Words of one cache line.
ROWS = 8


def lfu(accesses: PoolAccesses, out: Outcomes) -> None:
    """Victim: the expert with the fewest accesses, among equals the one whose last is longest ago.

    Counts are forgotten when an expert leaves, as libCacheSim does, unless ``keep``; and when a request ends
    if ``window``. What is there at first has a count of 0.
    """
    a = accesses
    window = bool(a.parameters.get("window", 0))
    if a.parameters.get("keep", 0):
        lfu_kept(a, window, out)
        return
    # What is there at first counts as asked for before all.
    items = np.concatenate((a.start.astype(a.items.dtype), a.items)) if len(a.start) else a.items
    anew = window and not a.reset
    ends = a.requests if anew else a.ends
    if a.batch:
        _in_cells(items, a.cells, ends, a.num_members, a.slots, len(a.start), anew, out)
    else:
        _one_by_one(items, ends, a.num_members, a.slots, len(a.start), anew, out)


@compiled
def _rarest(
    count: npt.NDArray[np.uint32],
    last: npt.NDArray[np.uint32],
    resident: npt.NDArray[np.bool_],
    limit: np.int64,
) -> np.int64:
    """The resident expert with the fewest accesses, of those whose last was before `limit`."""
    found = -1
    for item in range(len(count)):
        if (
            resident[item]
            and last[item] < limit
            and (
                found < 0
                or count[item] < count[found]
                or (count[item] == count[found] and last[item] < last[found])
            )
        ):
            found = item
    return np.int64(found)


@compiled
def _restart(
    items: Ids,
    given: int,
    empty: bool,
    bits: npt.NDArray[np.uint64],
    below: npt.NDArray[np.uint64],
    count: npt.NDArray[np.uint32],
    last: npt.NDArray[np.uint32],
    resident: npt.NDArray[np.bool_],
    never: npt.NDArray[np.uint8],
) -> int:
    """Counts start anew, and what is there too if `empty`; how many are resident."""
    one, three, six, low = np.uint64(1), np.uint64(3), np.uint64(6), np.uint64(63)
    for item in range(len(count)):
        if resident[item] and count[item] < ROWS:
            at = np.uint64(last[item])
            bits[((at >> six) << three) | np.uint64(count[item])] &= ~(one << (at & low))
    if empty:
        never[:] = 1
        resident[:] = False
        for order in range(given):
            last[items[order]] = order
            resident[items[order]] = True
            never[items[order]] = 0
    count[:] = 0
    below[0] = np.uint64((len(items) >> 6) + 1)
    held = 0
    for item in range(len(count)):
        if resident[item]:
            held += 1
            at = np.uint64(last[item])
            bits[(at >> six) << three] |= one << (at & low)
            below[0] = min(below[0], at >> six)
    return held


@compiled
def _one_by_one(
    items: Ids,
    ends: npt.NDArray[np.int64],
    members: int,
    slots: int,
    given: int,
    anew: bool,
    out: Outcomes,
) -> None:
    one, three, six, low = np.uint64(1), np.uint64(3), np.uint64(6), np.uint64(63)
    rows = np.uint64(ROWS)
    bits = np.zeros(((len(items) >> 6) + 2) * ROWS, np.uint64)
    below = np.zeros(ROWS, np.uint64)  # words of each row that are known to be empty
    last, count = np.zeros(members, np.uint32), np.zeros(members, np.uint32)
    resident, never = np.zeros(members, np.bool_), np.ones(members, np.uint8)
    for segment in range(len(ends) - 1):
        held = _restart(items, given, segment == 0 or not anew, bits, below, count, last, resident, never)
        for i in range(given + ends[segment], given + ends[segment + 1]):
            item = items[i]
            now, uses = np.uint64(i), np.uint64(count[item])
            if resident[item]:
                out[i - given] = HIT
                if uses < rows:
                    at = np.uint64(last[item])
                    bits[((at >> six) << three) | uses] &= ~(one << (at & low))
            else:
                out[i - given] = never[item] << 1
                never[item] = 0
                if held < slots:
                    held += 1
                else:
                    out[i - given] |= FULL
                    victim = np.int64(-1)
                    for row in range(ROWS):
                        word = below[row]
                        found = bits[(word << three) | np.uint64(row)]
                        while found == np.uint64(0) and word < now >> six:
                            word += one
                            found = bits[(word << three) | np.uint64(row)]
                        below[row] = word
                        if found != np.uint64(0):
                            bits[(word << three) | np.uint64(row)] = found & (found - one)
                            victim = np.int64(items[(word << six) | trailing_zeros(found)])
                            break
                    if victim < 0:
                        victim = _rarest(count, last, resident, np.int64(i))
                    resident[victim] = False
                    count[victim] = 0
                resident[item] = True
            uses += one
            count[item] = uses
            last[item] = i
            if uses < rows:
                bits[((now >> six) << three) | uses] |= one << (now & low)


@compiled
def _in_cells(
    items: Ids,
    cells: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    members: int,
    slots: int,
    given: int,
    anew: bool,
    out: Outcomes,
) -> None:
    one, three, six, low = np.uint64(1), np.uint64(3), np.uint64(6), np.uint64(63)
    rows = np.uint64(ROWS)
    bits = np.zeros(((len(items) >> 6) + 2) * ROWS, np.uint64)
    below = np.zeros(ROWS, np.uint64)
    last, count = np.zeros(members, np.uint32), np.zeros(members, np.uint32)
    resident, never = np.zeros(members, np.bool_), np.ones(members, np.uint8)
    cell = 0
    for segment in range(len(ends) - 1):
        held = _restart(items, given, segment == 0 or not anew, bits, below, count, last, resident, never)
        while cell < len(cells) - 1 and cells[cell] < ends[segment + 1]:
            lo, hi = cells[cell], cells[cell + 1]
            cell += 1
            others = held  # what the cell does not ask for
            for i in range(lo, hi):
                item = items[given + i]
                out[i] = np.uint8(resident[item]) | (never[item] << 1)
                others -= out[i] & HIT
            for i in range(given + lo, given + hi):
                item = items[i]
                now, uses = np.uint64(i), np.uint64(count[item])
                if resident[item] and uses < rows:
                    at = np.uint64(last[item])
                    bits[((at >> six) << three) | uses] &= ~(one << (at & low))
                never[item] = 0
                resident[item] = True
                uses += one
                count[item] = uses
                last[item] = i
                if uses < rows:
                    bits[((now >> six) << three) | uses] |= one << (now & low)
            for i in range(lo, hi):
                if out[i] & HIT:
                    continue
                if held < slots:
                    held += 1
                    continue
                out[i] |= FULL
                limit = np.uint64(given + (lo if others > 0 else hi))
                others -= 1
                victim = np.int64(-1)
                for row in range(ROWS):
                    word = below[row]
                    found = bits[(word << three) | np.uint64(row)]
                    while found == np.uint64(0) and word < limit >> six:
                        word += one
                        found = bits[(word << three) | np.uint64(row)]
                    below[row] = word
                    at = (word << six) | trailing_zeros(found)
                    if found != np.uint64(0) and at < limit:
                        bits[(word << three) | np.uint64(row)] = found & (found - one)
                        victim = np.int64(items[at])
                        break
                if victim < 0:
                    victim = _rarest(count, last, resident, np.int64(limit))
                resident[victim] = False
                count[victim] = 0
