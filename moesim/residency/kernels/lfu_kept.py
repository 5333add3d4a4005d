"""Least frequently used, with counts that outlive eviction.

Experts of one count stand in a queue in the order in which they reached it, which is the order of their last
use: an access moves its expert from the queue of its count to the end of the next. Queues are linked lists of
accesses. Nothing is unlinked; an entry that is no longer its expert's last access is skipped when it comes
to the head. The lowest count is not searched for from the start: only a newcomer can lower it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.residency.kernels.accesses import FIRST, FULL, HIT, Ids, Outcomes, PoolAccesses

#: Empty queues that are passed before experts are searched.
STEPS = 16


def lfu_kept(accesses: PoolAccesses, window: bool, out: Outcomes) -> None:
    """As `moesim.residency.kernels.lfu.lfu`; a newcomer goes on from the count it left with."""
    a = accesses
    anew = window and not a.reset
    ends = a.requests if anew else a.ends
    # What is there at first counts as asked for before all.
    items = np.concatenate((a.start.astype(a.items.dtype), a.items)) if len(a.start) else a.items
    # One after the other, every access is a cell.
    cells = a.cells if a.batch else np.arange(len(a.items) + 1)
    _lfu(items, cells, ends, a.num_members, a.slots, len(a.start), anew, out)


@compiled
def _victim(
    items: Ids,
    last: npt.NDArray[np.int32],
    link: npt.NDArray[np.int32],
    tail: npt.NDArray[np.int32],
    count: npt.NDArray[np.int32],
    base: int,
    heads: int,
    lowest: int,
    limit: int,
) -> tuple[Any, int]:
    """The first expert in order whose last access is entry `limit` or earlier, and its queue.

    Takes it and all dead entries that are met out of their queues. Counts that outlive eviction lie far
    apart: after `STEPS` queues in vain all experts are looked at.
    """
    steps = 0
    while True:
        entry = link[heads + lowest]
        while entry != 0 and last[items[entry - 1]] != entry:
            entry = link[entry]
        link[heads + lowest] = entry
        if entry == 0:
            tail[lowest] = 0
        elif entry <= limit:
            link[heads + lowest] = link[entry]
            if link[entry] == 0:
                tail[lowest] = 0
            return items[entry - 1], lowest
        lowest += 1
        steps += 1
        if steps == STEPS:
            least = np.iinfo(np.int32).max
            for item in range(len(count)):
                if 0 < last[item] <= limit:
                    least = min(least, count[item])
            lowest = max(lowest, base + least)


@compiled
def _lfu(
    items: Ids,
    cells: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    members: int,
    slots: int,
    given: int,
    anew: bool,
    out: Outcomes,
) -> None:
    heads = len(items) + 1  # link[heads + queue] is the head of a queue, link[entry] the next; 0 is none
    queues = len(items) + 2 * len(ends) + 2
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
            for entry in range(1, given + 1):
                last[items[entry - 1]] = entry
        count[:] = 0
        # Counts start anew: new queues, and what is resident stands in the first of them.
        resident = np.flatnonzero(last > 0)
        for at in np.argsort(last[resident]):
            entry = last[resident[at]]
            link[tail[base] if tail[base] else heads + base] = entry
            link[entry] = 0
            tail[base] = entry
        lowest = base
        while cell < len(cells) - 1 and cells[cell] < end:
            lo, hi = cells[cell], cells[cell + 1]
            others = held  # what the cell does not ask for
            for i in range(lo, hi):
                item = items[given + i]
                out[i] = HIT if last[item] > 0 else FIRST if last[item] == -2 else 0
                others -= out[i] & HIT
            own = queues  # lowest queue of the cell
            for i in range(given + lo, given + hi):
                item = items[i]
                count[item] += 1
                queue = base + count[item]
                own = min(own, queue)
                last[item] = i + 1
                before = tail[queue]
                link[before if before != 0 else heads + queue] = i + 1
                tail[queue] = i + 1
            for i in range(lo, hi):
                if out[i] & HIT:
                    continue
                if held < slots:
                    held += 1
                    continue
                out[i] |= FULL
                if not others:
                    lowest = min(lowest, own)
                limit = given + (lo if others else hi)
                victim, lowest = _victim(items, last, link, tail, count, base, heads, lowest, limit)
                last[victim] = -1
                others = max(others - 1, 0)
            # Below what was reached there is nothing but the cell.
            lowest = min(lowest, own)
            cell += 1
        base += end - first + 2
