"""What is on the device: pools of slots, their residents, and which of them leaves next."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

#: Numbers of the rules that the timed replay knows, by name.
RULE_OF = {"lru": 0, "fifo": 1, "lifo": 2, "lfu": 3, "belady": 4, "mrs": 5, "p-freq": 6, "static": 7}
_LRU, _FIFO, _LIFO, _LFU, _BELADY, _MRS, _P_FREQ, _STATIC = range(8)

#: Sizes are sums of fractions; room that is short by less is enough.
SLACK = 1e-9


class Rules(NamedTuple):
    """How residents are ordered and counted.

    Parameters
    ----------
    rule
        Number of the rule, as in `RULE_OF`.
    batch
        Whether a cell's experts are looked up together, and protect each other.
    reset
        Whether pools are emptied when the request changes.
    free_cold
        Whether an expert's first access counts as a hit.
    alpha
        Of the moving average of ``mrs``.
    pool
        Pool of each layer, int64 ``[layers]``.
    room
        Room of each pool, in experts of the widest level, ``[pools]``.
    size
        Of an expert of each level, in the same unit, ``[levels]``.
    first
        Where each pool's list of residents begins, int64 ``[pools + 1]``.
    next_use
        Position of the next access to the same expert of the same layer, int64 ``[accesses]``; empty where no
        rule asks.
    share
        Router weight of each access, ``[accesses]``; empty where no rule asks.
    """

    rule: int
    batch: bool
    reset: bool
    free_cold: bool
    alpha: float
    pool: I8
    room: F8
    size: F8
    first: I8
    next_use: I8
    share: npt.NDArray[np.float32]


class State(NamedTuple):
    """Of each expert ``x = layer * num_experts + expert``, and of each pool.

    Parameters
    ----------
    level
        Its level on the device, -1 where it is not, int8.
    ready
        When its weights are there; ``stored``: when they had left storage.
    busy
        Until when it runs.
    key, tie
        Order of victims, smallest first.
    score
        What a rule remembers of it, resident or not.
    guard
        Cell up to which it may not leave.
    fetched
        Whether it was fetched ahead and not used since.
    seen
        Whether it was asked for before.
    place
        Position in its pool's list.
    members
        Residents, pool by pool, at most all experts of the pool's layers.
    held
        Residents of each pool; ``used`` the room that they take.
    scale
        Of the scores of each layer.
    clock
        Events so far.
    """

    level: npt.NDArray[np.int8]
    ready: F8
    stored: F8
    busy: F8
    key: F8
    tie: F8
    score: F8
    guard: I8
    fetched: npt.NDArray[np.bool_]
    seen: npt.NDArray[np.bool_]
    place: I8
    members: I8
    held: I8
    used: F8
    scale: F8
    clock: I8


def new_state(layers: int, num_experts: int, pools: int) -> State:
    """Nothing on the device."""
    every = layers * num_experts
    return State(
        level=np.full(every, -1, np.int8),
        ready=np.zeros(every),
        stored=np.zeros(every),
        busy=np.zeros(every),
        key=np.zeros(every),
        tie=np.zeros(every),
        score=np.zeros(every),
        guard=np.full(every, -1, np.int64),
        fetched=np.zeros(every, np.bool_),
        seen=np.zeros(every, np.bool_),
        place=np.zeros(every, np.int64),
        members=np.zeros(every, np.int64),
        held=np.zeros(pools, np.int64),
        used=np.zeros(pools),
        scale=np.ones(layers),
        clock=np.zeros(1, np.int64),
    )


@compiled
def remove(state: State, rules: Rules, x: int, pool: int) -> None:
    """Take an expert off the device."""
    last = rules.first[pool] + state.held[pool] - 1
    moved = state.members[last]
    state.members[state.place[x]] = moved
    state.place[moved] = state.place[x]
    state.held[pool] -= 1
    state.used[pool] -= rules.size[state.level[x]]
    state.level[x] = -1
    state.fetched[x] = False
    if rules.rule == _P_FREQ:
        state.score[x] = 0.0


@compiled
def put(state: State, rules: Rules, x: int, pool: int, level: int) -> None:
    """Put an expert on the device; there is room."""
    at = rules.first[pool] + state.held[pool]
    state.members[at] = x
    state.place[x] = at
    state.held[pool] += 1
    state.used[pool] += rules.size[level]
    state.level[x] = level
    state.clock[0] += 1
    now = float(state.clock[0])
    state.tie[x] = now
    if rules.rule == _LRU or rules.rule == _FIFO:
        state.key[x] = now
    elif rules.rule == _LIFO:
        state.key[x] = -now
    elif rules.rule == _LFU:
        state.key[x] = 0.0


@compiled
def note_use(state: State, rules: Rules, x: int, access: int) -> None:
    """Tell the rule of an access, whether or not the expert is on the device."""
    state.clock[0] += 1
    now = float(state.clock[0])
    if rules.rule == _LRU:
        state.key[x] = now
    elif rules.rule == _LFU:
        state.key[x] += 1.0
        state.tie[x] = now
    elif rules.rule == _BELADY:
        state.key[x] = -float(rules.next_use[access])


@compiled
def victim(state: State, rules: Rules, pool: int, cell: int, urgent: bool) -> int:
    """Resident that leaves next, -1 if none may.

    What the current cell needs stays; what later cells are guessed to need stays unless the demand is
    `urgent` and nothing else can go.
    """
    first, end = rules.first[pool], rules.first[pool] + state.held[pool]
    for allowed in range(2 if urgent else 1):
        found = -1
        for at in range(first, end):
            x = state.members[at]
            guard = state.guard[x]
            if guard >= cell and (allowed == 0 or guard == cell):
                continue
            if (
                found < 0
                or state.key[x] < state.key[found]
                or (state.key[x] == state.key[found] and state.tie[x] < state.tie[found])
            ):
                found = x
        if found >= 0:
            return found
    return -1


@compiled
def make_room(
    state: State,
    rules: Rules,
    x: int,
    pool: int,
    level: int,
    cell: int,
    urgent: bool,
    gone: I8,
    gone_level: npt.NDArray[np.int8],
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
    need = rules.size[level]
    if rules.rule == _STATIC or need > rules.room[pool] + SLACK:
        return leaving, False
    if state.level[x] >= 0:  # another level of the same expert gives its place up
        gone[leaving], gone_level[leaving] = x, state.level[x]
        leaving += 1
        remove(state, rules, x, pool)
    while state.used[pool] + need > rules.room[pool] + SLACK:
        out = victim(state, rules, pool, cell, urgent)
        if out < 0:
            return leaving, False
        gone[leaving], gone_level[leaving] = out, state.level[out]
        leaving += 1
        remove(state, rules, out, pool)
    return leaving, True


@compiled
def empty(state: State, rules: Rules) -> None:
    """Take everything off the device and forget what was seen, as at the start of a request."""
    for pool in range(len(rules.room)):
        while state.held[pool] > 0:
            remove(state, rules, state.members[rules.first[pool]], pool)
    state.seen[:] = False
    state.score[:] = 0.0
    if rules.rule != _BELADY:
        state.key[:] = 0.0
    state.guard[:] = -1
    state.scale[:] = 1.0
