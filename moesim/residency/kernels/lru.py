"""Least recently used.

One bit per access says whether it is the latest access to its expert and that expert is resident. An access
hits if its expert's latest bit is still set; a victim is the lowest set bit. Nothing is searched and no list
is relinked, and the processor has next to nothing to guess wrong.

A pool of eight slots or fewer is one word instead, a byte for each expert, the latest lowest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled, trailing_zeros
from moesim.residency.kernels.accesses import FULL, HIT, Ids, Outcomes, PoolAccesses

#: Member of a slot that is free, in a pool that is one word.
NOBODY = 255


def lru(accesses: PoolAccesses, out: Outcomes) -> None:
    """Victim: the expert whose last access is longest ago; in a cell, experts count in stored order."""
    a = accesses
    if a.slots <= 8 and a.num_members < NOBODY and not a.batch:
        _in_a_word(a.items, a.ends, a.num_members, a.slots, a.start, out)
        return
    _lru(a.items, a.cells, a.ends, a.num_members, a.slots, a.start, a.batch, out)


@compiled
def _lru(
    items: Ids,
    cells: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    members: int,
    slots: int,
    start: npt.NDArray[np.int32],
    batch: bool,
    out: Outcomes,
) -> None:
    one, six, low = np.uint64(1), np.uint64(6), np.uint64(63)
    # Of one start: words of what is there, one word that stays zero, then accesses.
    room = (len(start) + 63) // 64 * 64
    longest = (ends[1:] - ends[:-1]).max() if len(ends) > 1 else 0
    bits = np.zeros((room + 64 + longest) // 64 + 2, np.uint64)
    never = np.uint64(room)
    last = np.empty(members, np.uint64)
    cell = 0
    for segment in range(len(ends) - 1):
        i, end = ends[segment], ends[segment + 1]
        bits[: (room + 64 + end - i) // 64 + 2] = 0
        last[:] = never
        for order in range(len(start)):
            bits[order >> 6] |= one << np.uint64(order & 63)
            last[start[order]] = order
        held = len(start)
        lowest = np.uint64(0)
        now = never + np.uint64(64)
        while not batch and i < end and held < slots:
            item = items[i]
            before = last[item]
            hit = (bits[before >> six] >> (before & low)) & one
            bits[before >> six] &= ~(one << (before & low))
            bits[now >> six] |= one << (now & low)
            last[item] = now
            now += one
            held += 0 if hit else 1
            out[i] = hit | (np.uint64(before == never) << one)
            i += 1
        for full in range(i, i if batch else end):
            item = items[full]
            before = last[item]
            word = bits[before >> six]
            hit = (word >> (before & low)) & one
            bits[before >> six] = word & ~(one << (before & low))
            bits[now >> six] |= one << (now & low)
            last[item] = now
            now += one
            word = bits[lowest]
            while word == np.uint64(0):
                lowest += one
                word = bits[lowest]
            bits[lowest] = word if hit else word & (word - one)
            out[full] = hit | (np.uint64(before == never) << one) | ((hit ^ one) << np.uint64(2))
        while batch and cell < len(cells) - 1 and cells[cell] < end:
            for i in range(cells[cell], cells[cell + 1]):
                item = items[i]
                before = last[item]
                word = bits[before >> six]
                out[i] = ((word >> (before & low)) & one) | (np.uint64(before == never) << one)
                bits[before >> six] = word & ~(one << (before & low))
                bits[now >> six] |= one << (now & low)
                last[item] = now
                now += one
            # The cell's own bits are the highest: others leave first.
            for i in range(cells[cell], cells[cell + 1]):
                if out[i] & HIT:
                    continue
                if held < slots:
                    held += 1
                    continue
                while bits[lowest] == np.uint64(0):
                    lowest += one
                bits[lowest] &= bits[lowest] - one
                out[i] |= FULL
            cell += 1


@compiled
def _in_a_word(
    items: Ids,
    ends: npt.NDArray[np.int64],
    members: int,
    slots: int,
    start: npt.NDArray[np.int32],
    out: Outcomes,
) -> None:
    one, eight, byte = np.uint64(1), np.uint64(8), np.uint64(255)
    ones, tops = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
    oldest = np.uint64(8 * (slots - 1))
    never = np.empty(members, np.uint8)
    for segment in range(len(ends) - 1):
        never[:] = 2
        order = ~np.uint64(0)
        for item in start:
            never[item] = 0
            order = (order << eight) | np.uint64(item)
        for i in range(ends[segment], ends[segment + 1]):
            item = np.uint64(items[i])
            # The lowest byte that is zero is where the expert stands; none gives 64, and beyond the slots
            # are experts that have left.
            other = order ^ (item * ones)
            place = trailing_zeros((other - ones) & ~other & tops) & np.uint64(0x78)
            hit = place <= oldest
            place = place if hit else oldest
            left = (order >> place) & byte
            below = (one << place) - one
            order = (order & ~((below << eight) | byte)) | ((order & below) << eight) | item
            full = np.uint8((not hit) & (left != byte)) << 2
            out[i] = np.uint8(hit) | never[items[i]] | full
            never[items[i]] = 0
