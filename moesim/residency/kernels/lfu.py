"""Least frequently used.

Experts of one count stand in a queue in the order in which they reached it, which is the order of their last
use: an access moves its expert from the queue of its count to the end of the next. Queues are linked lists of
accesses. Nothing is unlinked; an entry that is no longer its expert's last access is skipped when it comes
to the head. The lowest count never has to be searched for from the start: only a newcomer can lower it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.residency.kernels.accesses import FIRST, FULL, HIT, Ids, Outcomes, PoolAccesses


def lfu(accesses: PoolAccesses, out: Outcomes) -> None:
    """Victim: the expert with the fewest accesses, among equals the one whose last is longest ago.

    Counts are forgotten when an expert leaves, as libCacheSim does, unless ``keep``; and when a request ends
    if ``window``. What is there at first has a count of 0.
    """
    a = accesses
    keep, window = bool(a.parameters.get("keep", 0)), bool(a.parameters.get("window", 0))
    anew = window and not a.reset
    ends = a.requests if anew else a.ends
    _lfu(a.items, a.cells, ends, a.num_members, a.slots, a.start, a.batch, keep, anew, out)


@compiled
def _victim(
    items: Ids,
    start: npt.NDArray[np.int32],
    last: npt.NDArray[np.int32],
    link: npt.NDArray[np.int32],
    tail: npt.NDArray[np.int32],
    heads: int,
    lowest: int,
    limit: int,
) -> tuple[Any, int]:
    """The first expert in order whose last access is entry `limit` or earlier, and its queue.

    Takes it and all dead entries that are met out of their queues.
    """
    while True:
        entry = link[heads + lowest]
        while entry != 0:
            item = start[entry - 1] if entry <= len(start) else np.int32(items[entry - 1 - len(start)])
            if last[item] == entry:
                break
            entry = link[entry]
        if entry == 0:
            tail[lowest] = 0
        link[heads + lowest] = entry
        if entry != 0 and entry <= limit:
            link[heads + lowest] = link[entry]
            if link[entry] == 0:
                tail[lowest] = 0
            return item, lowest
        lowest += 1


@compiled
def _lfu(
    items: Ids,
    cells: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    members: int,
    slots: int,
    start: npt.NDArray[np.int32],
    batch: bool,
    keep: bool,
    anew: bool,
    out: Outcomes,
) -> None:
    n, given = len(items), len(start)
    heads = n + given + 1  # link[heads + queue] is the head of a queue, link[entry] the next; 0 is none
    queues = n + 2 * len(ends) + 2
    link = np.zeros(heads + queues, np.int32)
    tail = np.zeros(queues, np.int32)
    last = np.empty(members, np.int32)  # entry of the last access; -1 not resident, -2 never
    count = np.zeros(members, np.int32)
    last[:] = -2
    held = 0
    base = 0  # queue of count 0
    cell = 0
    for segment in range(len(ends) - 1):
        first, end = ends[segment], ends[segment + 1]
        if segment == 0 or not anew:
            last[:] = -2
            held = given
            for order in range(given):
                last[start[order]] = order + 1
        count[:] = 0
        # Counts start anew: new queues, and what is resident stands in the first of them.
        resident = np.flatnonzero(last > 0)
        for at in np.argsort(last[resident]):
            entry = last[resident[at]]
            link[tail[base] if tail[base] else heads + base] = entry
            link[entry] = 0
            tail[base] = entry
        lowest = base
        if not batch:
            for i in range(first, end):
                item = items[i]
                entry = i + given + 1
                if last[item] > 0:
                    out[i] = HIT
                else:
                    out[i] = FIRST if last[item] == -2 else 0
                    if held < slots:
                        held += 1
                    else:
                        victim, lowest = _victim(items, start, last, link, tail, heads, lowest, entry)
                        last[victim] = -1
                        if not keep:
                            count[victim] = 0
                        out[i] |= FULL
                    lowest = min(lowest, base + count[item] + 1)
                count[item] += 1
                queue = base + count[item]
                last[item] = entry
                before = tail[queue]
                link[before if before != 0 else heads + queue] = entry
                tail[queue] = entry
        while batch and cell < len(cells) - 1 and cells[cell] < end:
            lo, hi = cells[cell], cells[cell + 1]
            others = held  # what the cell does not ask for
            for i in range(lo, hi):
                out[i] = HIT if last[items[i]] > 0 else FIRST if last[items[i]] == -2 else 0
                others -= out[i] & HIT
            for i in range(lo, hi):
                item = items[i]
                entry = i + given + 1
                count[item] += 1
                queue = base + count[item]
                lowest = min(lowest, queue)
                last[item] = entry
                before = tail[queue]
                link[before if before != 0 else heads + queue] = entry
                tail[queue] = entry
            for i in range(lo, hi):
                if out[i] & HIT:
                    continue
                if held < slots:
                    held += 1
                    continue
                out[i] |= FULL
                if others:
                    others -= 1
                    victim, _ = _victim(items, start, last, link, tail, heads, lowest, lo + given)
                else:
                    victim, lowest = _victim(items, start, last, link, tail, heads, lowest, hi + given)
                last[victim] = -1
                if not keep:
                    count[victim] = 0
            cell += 1
        base += end - first + 2
