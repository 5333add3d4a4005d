"""What is on the device: pools of slots, their residents, and which of them leaves next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
I1 = npt.NDArray[np.int8]

#: Numbers of the rules that the timed replay knows, by name.
RULES = (
    "lru",
    "fifo",
    "lifo",
    "lfu",
    "belady",
    "static",
    "mrs",
    "p-freq",
    "hobbit",
    "cost",
    "sch",
    "lru-ahead",
    "eam",
)
RULE_OF = {name: number for number, name in enumerate(RULES)}
LRU, FIFO, LIFO, LFU, BELADY, STATIC, MRS, P_FREQ, HOBBIT, COST, SCH, LRU_AHEAD, EAM = range(len(RULES))
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
    count, fine, chosen
        Lookups that the rule counts, those of them at high precision, those of the request.
    token
        Step of the last lookup, -1 without.
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
    count: float
    fine: float
    chosen: float
    token: int
    guard: int
    place: int
    level: int
    fetched: bool
    seen: bool
    stock: bool
    ahead: int


EXPERT = np.dtype(
    [
        *(
            (name, np.float64)
            for name in ("ready", "stored", "busy", "key", "tie", "count", "fine", "chosen")
        ),
        ("token", np.int64),
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
    """Slots that some layers share.

    Parameters
    ----------
    room, used
        In experts of the widest level.
    first, held
        Where its list of residents begins, and their number.
    floor
        Score of the last that left, of ``cost``.
    visits
        Counts of its residents added up, of ``eam``.
    """

    room: float
    used: float
    first: int
    held: int
    floor: float
    visits: float


POOL = np.dtype(
    [(name, np.float64) for name in ("room", "used", "floor", "visits")]
    + [("first", np.int64), ("held", np.int64)],
    align=True,
)


class Moment(Protocol):
    """Where the replay is.

    Parameters
    ----------
    cell, layer, step
        The present ones.
    begun
        First step of the request.
    layers, num_experts
        Of the model.
    """

    cell: int
    layer: int
    step: int
    begun: int
    layers: int
    num_experts: int


MOMENT = np.dtype(
    [(name, np.int64) for name in ("cell", "layer", "step", "begun", "layers", "num_experts")], align=True
)

Experts = Sequence[Expert]
Pools = Sequence[Pool]


class Rule(NamedTuple):
    """What orders residents.

    Parameters
    ----------
    number
        Place in `RULES`.
    parameters
        As `moesim.offload.scores.PARAMETERS` orders them.
    of_layer
        Lookups of the request in each layer, ``[layers]``.
    size
        Of an expert of each level, in those of the widest, ``[levels]``.
    """

    number: int
    parameters: F8
    of_layer: F8
    size: F8


def new_experts(count: int) -> Experts:
    """Nothing on the device."""
    experts = np.zeros(count, EXPERT)
    experts["level"] = -1
    experts["guard"] = -1
    experts["token"] = -1
    return cast("Experts", experts)


def new_pools(room: F8, layers: int, num_experts: int) -> Pools:
    """Empty pools, each of as many layers."""
    pools = np.zeros(len(room), POOL)
    pools["room"] = room
    pools["first"] = np.arange(len(room)) * (layers // len(room)) * num_experts
    return cast("Pools", pools)


def new_moment(layers: int, num_experts: int) -> Sequence[Moment]:
    """Before the first step; one record."""
    moment = np.zeros(1, MOMENT)
    moment["layers"], moment["num_experts"] = layers, num_experts
    return cast("Sequence[Moment]", moment)


@compiled
def remove(experts: Experts, pools: Pools, members: I8, rule: Rule, x: int, pool: int) -> None:
    """Take an expert off the device."""
    expert, group = experts[x], pools[pool]
    moved = members[group.first + group.held - 1]
    members[expert.place] = moved
    experts[moved].place = expert.place
    group.held -= 1
    group.used -= rule.size[expert.level]
    expert.level = -1
    if rule.number == COST:
        group.floor = max(group.floor, expert.key)
    elif rule.number == EAM:
        group.visits -= expert.count


@compiled
def put(
    experts: Experts,
    pools: Pools,
    members: I8,
    rule: Rule,
    x: int,
    pool: int,
    level: int,
    now: int,
    demanded: bool,
) -> None:
    """Put an expert on the device, where there is room; its lookup has been recorded if it was `demanded`."""
    expert, group = experts[x], pools[pool]
    at = group.first + group.held
    members[at] = x
    expert.place = at
    group.held += 1
    group.used += rule.size[level]
    expert.level = level
    number = rule.number
    if number == LRU:
        if not demanded:
            expert.key = now
    elif number in (FIFO, LIFO):
        expert.key = -now if number == LIFO else now
    elif number == LFU:
        if not demanded:
            expert.tie = now
            if not rule.parameters[0]:
                expert.count = 0.0
        expert.key = expert.count
    elif number == MRS:
        expert.tie = x
    elif number == BELADY:
        expert.tie = now
    elif number == LRU_AHEAD:
        if rule.parameters[1] or not demanded:
            expert.key = now
    elif number > STATIC and not demanded:
        # Fetched ahead: nothing has been asked for yet.
        expert.tie = now
        if number not in (SCH, HOBBIT):
            expert.count = 0.0
            expert.key = 0.0
    elif number == EAM:
        group.visits += expert.count


@compiled
def victim(
    experts: Experts, pools: Pools, members: I8, rule: Rule, moment: Moment, pool: int, urgent: bool
) -> int:
    """Resident that leaves next, -1 if none may.

    What the current cell needs stays; what later cells are guessed to need stays unless the demand is
    `urgent` and nothing else can go.
    """
    group, cell = pools[pool], moment.cell
    moving = rule.number >= HOBBIT and rule.number not in (COST, SCH)
    for attempt in range(2 if urgent else 1):
        found = -1
        key, tie = np.inf, np.inf
        for at in range(group.first, group.first + group.held):
            x = members[at]
            expert = experts[x]
            if expert.guard >= cell and (attempt == 0 or expert.guard == cell):
                continue
            score = _score(experts, pools, rule, moment, pool, x) if moving else expert.key
            if score < key or (score == key and expert.tie < tie) or found < 0:
                found, key, tie = x, score, expert.tie
        if found >= 0:
            return found
    return -1


@compiled
def _score(experts: Experts, pools: Pools, rule: Rule, moment: Moment, pool: int, x: int) -> float:
    """Score of a resident where it changes with the present layer or step."""
    expert, given, layers = experts[x], rule.parameters, moment.layers
    layer = x // moment.num_experts
    if rule.number == LRU_AHEAD:
        near = moment.layer <= layer < moment.layer + given[0]
        return float(expert.key + (1e15 if near else 0.0))
    if rule.number == HOBBIT:
        recent = expert.token - moment.begun + 1 if expert.token >= moment.begun else 0
        steps = moment.step - moment.begun + 1
        score = (given[0] * recent + given[1] * expert.count + given[2] * expert.fine) / steps
        return float(score + given[3] * (1.0 - (layer - moment.layer) % layers / layers))
    # MoE-Infinity's priority: place of the layer, choices of the request, visits since the load.
    half, places = layers // 2, 0.0
    if len(pools) == layers:
        places = place_of(layer, moment.layer, half)
    else:
        for other in range(layers):
            places += place_of(other, moment.layer, half)
    places *= moment.num_experts
    row = rule.of_layer[layer]
    share = expert.chosen / row if row else 1.0 / moment.num_experts
    score = place_of(layer, moment.layer, half) / places + 1e-6
    visits = expert.count / max(pools[pool].visits, 1.0)
    # In the order of `moesim.residency.kernels.scored`, so that what ties there ties here.
    return float(score * ((share / layers + 1e-6) * (visits + 1e-6)))


@compiled
def place_of(other: int, layer: int, half: int) -> float:
    """Place of a layer in MoE-Infinity's priority, seen from the present one."""
    if other < half:
        return 1.0 if layer < half and other <= layer else 1.0 - other / half
    return 1.0 if layer >= half and other <= layer else (other - half) / (half + 1)


@compiled
def make_room(
    experts: Experts,
    pools: Pools,
    members: I8,
    rule: Rule,
    moment: Moment,
    x: int,
    pool: int,
    level: int,
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
    need, group = rule.size[level], pools[pool]
    if need > group.room + SLACK:
        return leaving, False
    if experts[x].level >= 0:  # another level of the same expert gives its place up
        gone[leaving], gone_level[leaving] = x, experts[x].level
        leaving += 1
        remove(experts, pools, members, rule, x, pool)
    # Visits are those of what is held and of what is being loaded, as `moesim.residency.kernels` counts them.
    coming = experts[x].count if rule.number == EAM and urgent else 0.0
    group.visits += coming
    while rule.number != STATIC and group.used + need > group.room + SLACK:
        out = victim(experts, pools, members, rule, moment, pool, urgent)
        if out < 0:
            break
        gone[leaving], gone_level[leaving] = out, experts[out].level
        leaving += 1
        remove(experts, pools, members, rule, out, pool)
    group.visits -= coming
    return leaving, group.used + need <= group.room + SLACK


@compiled
def empty(experts: Experts, pools: Pools, rule: int) -> None:
    """Take everything off the device and forget what was seen, as at the start of a request."""
    for pool in range(len(pools)):
        group = pools[pool]
        group.held = 0
        group.used = 0.0
        group.floor = 0.0
        group.visits = 0.0
    for x in range(len(experts)):
        expert = experts[x]
        expert.level = -1
        expert.seen = False
        expert.fetched = False
        expert.guard = -1
        expert.tie = 0.0
        expert.count = 0.0
        expert.fine = 0.0
        expert.token = -1
        if rule not in (BELADY, SCH):
            expert.key = 0.0
