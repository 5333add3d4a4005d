"""What is on the device: pools of slots, their residents, and which of them leaves next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
I1 = npt.NDArray[np.int8]

#: Numbers of the rules that the timed replay knows, by name.
RULE_OF = {"lru": 0, "fifo": 1, "lifo": 2, "lfu": 3, "belady": 4, "static": 5}
LRU, FIFO, LIFO, LFU, BELADY, STATIC = range(6)
#: Sizes are sums of fractions; room that is short by less is enough.
SLACK = 1e-9


class Expert(Protocol):
    """One expert of one layer, number ``layer * num_experts + expert``; a record of compiled code.

    Parameters
    ----------
    ready, stored
        When its weights are on the device, and when they had left storage.
    busy
        Until when it runs.
    key, tie
        Order of victims, smallest first.
    guard
        Cell up to which it may not leave.
    place
        Position in its pool's list.
    level
        In which it is on the device, -1 where it is not.
    fetched
        Whether it was fetched ahead and not used since.
    seen
        Whether it was asked for before.
    stock
        Whether it comes from storage.
    ahead
        Level in which it is fetched ahead.
    """

    ready: float
    stored: float
    busy: float
    key: float
    tie: float
    guard: int
    place: int
    level: int
    fetched: bool
    seen: bool
    stock: bool
    ahead: int


EXPERT = np.dtype(
    [
        *((name, np.float64) for name in ("ready", "stored", "busy", "key", "tie")),
        ("guard", np.int64),
        ("place", np.int32),
        ("level", np.int8),
        ("fetched", np.bool_),
        ("seen", np.bool_),
        ("stock", np.bool_),
        ("ahead", np.int8),
    ],
    align=True,
)


class Pool(Protocol):
    """Slots that some layers share: room and use in experts of the widest level; where its list begins."""

    room: float
    used: float
    first: int
    held: int


POOL = np.dtype(
    [("room", np.float64), ("used", np.float64), ("first", np.int64), ("held", np.int64)], align=True
)

Experts = Sequence[Expert]
Pools = Sequence[Pool]


def new_experts(count: int) -> Experts:
    """Nothing on the device."""
    experts = np.zeros(count, EXPERT)
    experts["level"] = -1
    experts["guard"] = -1
    return cast("Experts", experts)


def new_pools(room: F8, layers: int, num_experts: int) -> Pools:
    """Empty pools, each of as many layers."""
    pools = np.zeros(len(room), POOL)
    pools["room"] = room
    pools["first"] = np.arange(len(room)) * (layers // len(room)) * num_experts
    return cast("Pools", pools)


@compiled
def remove(experts: Experts, pools: Pools, members: I8, size: F8, x: int, pool: int) -> None:
    """Take an expert off the device."""
    expert, group = experts[x], pools[pool]
    moved = members[group.first + group.held - 1]
    members[expert.place] = moved
    experts[moved].place = expert.place
    group.held -= 1
    group.used -= size[expert.level]
    expert.level = -1


@compiled
def put(
    experts: Experts, pools: Pools, members: I8, size: F8, rule: int, x: int, pool: int, level: int, now: int
) -> None:
    """Put an expert on the device, where there is room."""
    expert, group = experts[x], pools[pool]
    at = group.first + group.held
    members[at] = x
    expert.place = at
    group.held += 1
    group.used += size[level]
    expert.level = level
    expert.tie = now
    if rule in (LRU, FIFO):
        expert.key = now
    elif rule == LIFO:
        expert.key = -now
    elif rule == LFU:
        expert.key = 0.0


@compiled
def note_use(experts: Experts, rule: int, x: int, next_use: int, now: int) -> None:
    """Tell the rule of an access, whether or not the expert is on the device."""
    expert = experts[x]
    if rule == LRU:
        expert.key = now
    elif rule == LFU:
        expert.key += 1.0
        expert.tie = now
    elif rule == BELADY:
        expert.key = -next_use


@compiled
def victim(experts: Experts, pools: Pools, members: I8, pool: int, cell: int, urgent: bool) -> int:
    """Resident that leaves next, -1 if none may.

    What the current cell needs stays; what later cells are guessed to need stays unless the demand is
    `urgent` and nothing else can go.
    """
    group = pools[pool]
    for attempt in range(2 if urgent else 1):
        found = -1
        key, tie = np.inf, np.inf
        for at in range(group.first, group.first + group.held):
            x = members[at]
            expert = experts[x]
            if expert.guard >= cell and (attempt == 0 or expert.guard == cell):
                continue
            if expert.key < key or (expert.key == key and expert.tie < tie) or found < 0:
                found, key, tie = x, expert.key, expert.tie
        if found >= 0:
            return found
    return -1


@compiled
def make_room(
    experts: Experts,
    pools: Pools,
    members: I8,
    size: F8,
    rule: int,
    x: int,
    pool: int,
    level: int,
    cell: int,
    urgent: bool,
    gone: I8,
    gone_level: I1,
    leaving: int,
) -> tuple[int, bool]:
    """Choose who leaves for an expert; victims and their levels are appended to `gone` and `gone_level`.

    Returns
    -------
    int
        Entries of `gone` now.
    bool
        Whether there is room.
    """
    need, group = size[level], pools[pool]
    if need > group.room + SLACK:
        return leaving, False
    if experts[x].level >= 0:  # another level of the same expert gives its place up
        gone[leaving], gone_level[leaving] = x, experts[x].level
        leaving += 1
        remove(experts, pools, members, size, x, pool)
    while group.used + need > group.room + SLACK:
        if rule == STATIC:
            return leaving, False
        out = victim(experts, pools, members, pool, cell, urgent)
        if out < 0:
            return leaving, False
        gone[leaving], gone_level[leaving] = out, experts[out].level
        leaving += 1
        remove(experts, pools, members, size, out, pool)
    return leaving, True


@compiled
def empty(experts: Experts, pools: Pools, rule: int) -> None:
    """Take everything off the device and forget what was seen, as at the start of a request."""
    for pool in range(len(pools)):
        pools[pool].held = 0
        pools[pool].used = 0.0
    for x in range(len(experts)):
        expert = experts[x]
        expert.level = -1
        expert.seen = False
        expert.fetched = False
        expert.guard = -1
        expert.tie = 0.0
        if rule != BELADY:
            expert.key = 0.0
