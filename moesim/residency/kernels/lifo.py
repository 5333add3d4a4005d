"""Last in, first out, and the rule that never lets go."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.residency.kernels.accesses import FIRST, FULL, HIT, Ids, Outcomes, PoolAccesses


def lifo(accesses: PoolAccesses, out: Outcomes) -> None:
    """Victim: the expert that was loaded last.

    Looked up cell by cell this is the rule of Huang et al., "Towards MoE Deployment" (2023), section on
    expert buffering: experts that the batch does not use leave first, the latest fetched first among equals.
    """
    a = accesses
    _stack(a.items, a.cells, a.ends, a.num_members, a.slots, a.start, a.batch, out)


def static(accesses: PoolAccesses, out: Outcomes) -> None:
    """No victim: what is there stays, and once the pool is full nothing is taken in."""
    a = accesses
    _kept(a.items, a.ends, a.num_members, a.slots, a.start, out)


@compiled
def _stack(
    items: Ids,
    cells: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    members: int,
    slots: int,
    start: npt.NDArray[np.int32],
    batch: bool,
    out: Outcomes,
) -> None:
    stack = np.empty(slots, np.int32)
    where = np.empty(members, np.int32)  # in the stack; -1 not now, -2 never
    asked = np.empty(members, np.int64)  # cell that asked last
    asked[:] = -1
    cell = 0
    for segment in range(len(ends) - 1):
        where[:] = -2
        for order in range(len(start)):
            stack[order] = start[order]
            where[start[order]] = order
        held = len(start)
        if not batch:
            for i in range(ends[segment], ends[segment + 1]):
                item = items[i]
                if where[item] >= 0:
                    out[i] = HIT
                    continue
                out[i] = FIRST if where[item] == -2 else 0
                if held == slots:
                    out[i] |= FULL
                    where[stack[slots - 1]] = -1
                    held -= 1
                stack[held] = item
                where[item] = held
                held += 1
            continue
        while cell < len(cells) - 1 and cells[cell] < ends[segment + 1]:
            for i in range(cells[cell], cells[cell + 1]):
                asked[items[i]] = cell
                out[i] = HIT if where[items[i]] >= 0 else FIRST if where[items[i]] == -2 else 0
            top = held - 1
            for i in range(cells[cell], cells[cell + 1]):
                if out[i] & HIT:
                    continue
                item = items[i]
                if held == slots:
                    out[i] |= FULL
                    # What lies above `top` is the cell's.
                    while top >= 0 and asked[stack[top]] == cell:
                        top -= 1
                    if top < 0:  # the cell holds every slot: the latest passes through
                        where[item] = -1
                        continue
                    where[stack[top]] = -1
                    for above in range(top, held - 1):
                        stack[above] = stack[above + 1]
                        where[stack[above]] = above
                    held -= 1
                    top -= 1
                stack[held] = item
                where[item] = held
                held += 1
            cell += 1


@compiled
def _kept(
    items: Ids,
    ends: npt.NDArray[np.int64],
    members: int,
    slots: int,
    start: npt.NDArray[np.int32],
    out: Outcomes,
) -> None:
    known = np.empty(members, np.uint8)  # HIT there, FIRST never asked for, 0 asked for and turned away
    for segment in range(len(ends) - 1):
        known[:] = FIRST
        for order in range(len(start)):
            known[start[order]] = HIT
        held = len(start)
        for i in range(ends[segment], ends[segment + 1]):
            item = items[i]
            found = known[item]
            if found & HIT:
                out[i] = HIT
            elif held < slots:
                out[i] = found
                known[item] = HIT
                held += 1
            else:
                out[i] = found | FULL
                known[item] = 0
