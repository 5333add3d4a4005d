"""First in, first out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled, trailing_zeros
from moesim.residency.kernels.accesses import FULL, HIT, Ids, Outcomes, PoolAccesses


def fifo(accesses: PoolAccesses, out: Outcomes) -> None:
    """Victim: the expert that was loaded longest ago, however often it was used since."""
    a = accesses
    if a.batch:
        _in_cells(a.items, a.cells, a.ends, a.num_members, a.slots, a.start, out)
    else:
        _one_by_one(a.items, a.ends, a.num_members, a.slots, a.start, out)


@compiled
def _one_by_one(
    items: Ids,
    ends: npt.NDArray[np.int64],
    members: int,
    slots: int,
    start: npt.NDArray[np.int32],
    out: Outcomes,
) -> None:
    # Arrivals are numbered; resident is who came among the last `slots`. Free slots came before all.
    came = np.empty(members, np.int64)
    for segment in range(len(ends) - 1):
        came[:] = -1
        for order in range(len(start)):
            came[start[order]] = slots - len(start) + order
        arrivals = slots
        free = slots + slots - len(start)
        for i in range(ends[segment], ends[segment + 1]):
            item = items[i]
            at = came[item]
            missed = (at < 0) | (at < arrivals - slots)
            full = missed & (arrivals >= free)
            came[item] = arrivals if missed else at
            arrivals += missed
            out[i] = (1 - missed) | (np.uint8(at < 0) << 1) | (np.uint8(full) << 2)


@compiled
def _in_cells(
    items: Ids,
    cells: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    members: int,
    slots: int,
    start: npt.NDArray[np.int32],
    out: Outcomes,
) -> None:
    # One bit per arrival, as in the kernel of LRU; a hit does not renew it.
    one, six, low = np.uint64(1), np.uint64(6), np.uint64(63)
    room = (slots + 63) // 64 * 64
    longest = (ends[1:] - ends[:-1]).max() if len(ends) > 1 else 0
    bits = np.zeros((room + 64 + longest) // 64 + 2, np.uint64)
    never = np.uint64(room)
    real = np.uint64(slots - len(start))
    came = np.empty(members, np.uint64)
    cell = 0
    for segment in range(len(ends) - 1):
        first, end = ends[segment], ends[segment + 1]
        bits[: (room + 64 + end - first) // 64 + 2] = 0
        came[:] = never
        for slot in range(slots):
            bits[slot >> 6] |= one << np.uint64(slot & 63)
        for order in range(len(start)):
            came[start[order]] = real + np.uint64(order)
        lowest = np.uint64(0)
        now = never + np.uint64(64)
        while cell < len(cells) - 1 and cells[cell] < end:
            hits = 0
            for i in range(cells[cell], cells[cell + 1]):
                at = came[items[i]]
                hit = (bits[at >> six] >> (at & low)) & one
                bits[at >> six] &= ~(one << (at & low))
                hits += hit
                out[i] = hit | (np.uint64(at == never) << one)
            # Others leave while there are any, for as many misses as there are.
            others = slots - hits
            waiting = 0
            for i in range(cells[cell], cells[cell + 1]):
                if not out[i] & HIT:
                    if others == 0:
                        waiting += 1
                        out[i] |= FULL
                        continue
                    others -= 1
                    while bits[lowest] == np.uint64(0):
                        lowest += one
                    word = bits[lowest]
                    out[i] |= np.uint64((lowest << six) + trailing_zeros(word) >= real) << np.uint64(2)
                    bits[lowest] = word & (word - one)
            for i in range(cells[cell], cells[cell + 1]):
                item = items[i]
                if out[i] & HIT:
                    at = came[item]
                    lowest = min(lowest, at >> six)
                else:
                    at = now
                    came[item] = now
                    now += one
                bits[at >> six] |= one << (at & low)
            for _ in range(waiting):
                while bits[lowest] == np.uint64(0):
                    lowest += one
                bits[lowest] &= bits[lowest] - one
            cell += 1
