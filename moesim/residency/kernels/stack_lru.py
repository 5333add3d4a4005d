"""Stack distances of least recently used: hits of every capacity in one pass.

A pool's past is a row of bits, one per lookup, set where an object was last used; how many are set after an
object's own is its depth in the stack (Mattson et al., IBM Systems Journal 9(2), 1970; the bits as in Bennett
and Kruskal, IBM J. Res. Dev. 19(4), 1975, with population counts for their tree). A full row is squeezed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.residency.kernels.bits import ones

#: Lookups that are measured before any is moved; pairs of them are compared, so it stays small.
GROUP = 16
#: Words that are counted one by one; longer rows have a count for every so many.
BLOCK = 16


def words_of(objects: int) -> int:
    """Words of a row: about twice the objects, and always a group more."""
    words = max(2 * objects, objects + GROUP) // 64 + 1
    return words if words <= 2 * BLOCK else -(-words // BLOCK) * BLOCK


@compiled
def squeeze(
    bits: npt.NDArray[np.uint64],
    counts: npt.NDArray[np.int32],
    who: npt.NDArray[np.int32],
    place: npt.NDArray[np.int32],
    pool: int,
    objects: int,
    words: int,
) -> int:
    """Move what is set to the front of a pool's row, in order; its length."""
    one = np.uint64(1)
    row, length = pool * words, 0
    for w in range(words):
        word = bits[row + w]
        while word:
            low = word & (~word + one)
            word ^= low
            x = who[row * 64 + w * 64 + ones(low - one)]
            who[row * 64 + length] = x
            place[pool * objects + x] = length
            length += 1
        bits[row + w] = 0
    for b in range(words // BLOCK):
        counts[row // BLOCK + b] = 0
    for s in range(length):
        bits[row + (s >> 6)] |= one << np.uint64(s & 63)
        if words > 2 * BLOCK:
            counts[row // BLOCK + (s >> 6) // BLOCK] += 1
    return length


@compiled
def lru_depths(
    experts: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int64],
    fresh: npt.NDArray[np.bool_],
    layers: int,
    num_experts: int,
    shared: bool,
    batch: bool,
    words: int,
    depth: npt.NDArray[Any],
    first: npt.NDArray[Any],
) -> None:
    """Lookups of each layer by stack depth.

    Parameters
    ----------
    experts, starts
        As in `moesim.policy.Steps`: an expert occurs once per cell.
    fresh
        Whether pools are emptied before a step, bool ``[steps]``.
    shared
        Whether all layers share a pool, of ``layers * num_experts`` objects.
    batch
        Whether all experts of a cell are looked up before any is moved.
    words
        Of a row, from `words_of`.
    depth
        int64 ``[layers, objects of a pool]``, added to: a cache of more than ``d`` slots has what is at depth
        ``d``.
    first
        First lookups of an object, int64 ``[layers, objects of a pool]``, added to, by how many objects of
        the pool had been looked up before.
    """
    pools = 1 if shared else layers
    objects = num_experts * layers if shared else num_experts
    none, one, full = np.uint64(0), np.uint64(1), ~np.uint64(0)
    place = np.full(pools * objects, -1, np.int32)
    bits = np.zeros(pools * words, np.uint64)
    counts = np.zeros(pools * words // BLOCK + 1, np.int32)
    who = np.zeros(pools * words * 64, np.int32)
    now = np.zeros(pools, np.int64)
    seen = np.zeros(pools, np.int64)
    was = np.empty(max(num_experts, GROUP), np.int64)
    found = np.empty(max(num_experts, GROUP), np.int64)
    long = words > 2 * BLOCK
    for step in range(len(fresh)):
        if fresh[step]:
            place[:] = -1
            bits[:] = 0
            counts[:] = 0
            now[:] = 0
            seen[:] = 0
        for layer in range(layers):
            pool = 0 if shared else layer
            offset = layer * num_experts if shared else 0
            row, base = pool * words, pool * objects
            i, stop = starts[step * layers + layer], starts[step * layers + layer + 1]
            group = stop - i if batch else np.int64(GROUP)
            clock = now[pool]
            while i < stop:
                n = min(group, stop - i)
                if clock + n > words * 64:
                    clock = np.int64(squeeze(bits, counts, who, place, pool, objects, words))
                for j in range(n):
                    at = int(place[base + offset + experts[i + j]])
                    was[j] = at
                    if at < 0:
                        continue
                    # Bits after it: all of its block are counted under a mask, and whole blocks after that.
                    word, d = at >> 6, np.int64(-1)
                    own = full << np.uint64(at & 63)
                    if not long:
                        for w in range(words):
                            mask = full if w > word else (own if w == word else none)
                            d += ones(bits[row + w] & mask)
                    else:
                        block = word // BLOCK
                        for w in range(block * BLOCK, block * BLOCK + BLOCK):
                            mask = full if w > word else (own if w == word else none)
                            d += ones(bits[row + w] & mask)
                        for b in range(block + 1, words // BLOCK):
                            d += counts[row // BLOCK + b]
                    found[j] = d
                for j in range(n):
                    x = offset + experts[i + j]
                    at = was[j]
                    if at >= 0:
                        d = found[j]
                        if not batch:
                            # Those of the group that came first and lay deeper, or nowhere, are above it now.
                            for q in range(j):
                                d += was[q] < at
                        depth[layer, d] += 1
                        bits[row + (at >> 6)] &= ~(one << np.uint64(at & 63))
                        if long:
                            counts[row // BLOCK + (at >> 6) // BLOCK] -= 1
                    else:
                        first[layer, seen[pool]] += 1
                        seen[pool] += 1
                    place[base + x] = clock
                    who[row * 64 + clock] = x
                    bits[row + (clock >> 6)] |= one << np.uint64(clock & 63)
                    if long:
                        counts[row // BLOCK + (clock >> 6) // BLOCK] += 1
                    clock += 1
                i += n
            now[pool] = clock
