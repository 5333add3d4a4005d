"""What rules write down at lookups, so that an eviction finds an order.

The same definitions as in `moesim.residency.kernels`, where their sources are; here lookups, loads and copies
ahead come as the timed replay brings them. What was fetched ahead and not asked for yet has no record.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import Fault
from moesim.offload.pools import (
    BELADY,
    COST,
    EAM,
    HOBBIT,
    LFU,
    LRU,
    LRU_AHEAD,
    MRS,
    P_FREQ,
    SCH,
    Experts,
    Moment,
    Pools,
    Rule,
)
from moesim.residency.kernels.table import parameter_faults, rule_of

F8 = npt.NDArray[np.float64]
F4 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int64]
I4 = npt.NDArray[np.int32]

#: Size of undecayed scores at which all are scaled back.
_LARGE = 2.0**400


def parameters_of(rule: str, given: Mapping[str, float]) -> tuple[F8, list[Fault]]:
    """Parameters as compiled code takes them, and what is wrong with those given."""
    known = rule_of(rule).parameters
    faults = parameter_faults(rule, given)
    values = {**known, **given}
    faults += [
        Fault("is not a number from 0", f"residency.{name}", value)
        for name, value in values.items()
        if not 0 <= value < np.inf
    ]
    faults += [
        Fault("is not replayed with time", f"residency.{name}", given[name], "0")
        for name in ("bypass", "window")
        if rule != "sch" and given.get(name)
    ]
    if rule == "mrs" and not 0 < values["alpha"] < 1:
        faults.append(Fault("is not between 0 and 1", "residency.alpha", values["alpha"]))
    return np.array([*(values[name] for name in known), 0.0, 0.0], np.float64), faults


@compiled
def important(weights: F4, starts: I8, most: float) -> npt.NDArray[np.bool_]:
    """Accesses of a cell before which, by weight, at most `most` of its weight comes, bool ``[accesses]``."""
    high = np.zeros(len(weights), np.bool_)
    for cell in range(len(starts) - 1):
        total = np.float64(0)
        for i in range(starts[cell], starts[cell + 1]):
            total += weights[i]
        for i in range(starts[cell], starts[cell + 1]):
            above = np.float64(0)
            for j in range(starts[cell], starts[cell + 1]):
                if weights[j] > weights[i] or (weights[j] == weights[i] and j < i):
                    above += weights[j]
            high[i] = above <= most * total
    return high


@compiled
def begin_request(experts: Experts, rule: Rule) -> None:
    """Forget what rules keep for one request alone."""
    rule.of_layer[:] = 0.0
    for x in range(len(experts)):
        experts[x].chosen = 0.0
        if rule.number == HOBBIT:
            experts[x].count = 0.0
            experts[x].fine = 0.0
            experts[x].token = -1


@compiled
def look_ahead(experts: Experts, asked: I4, starts: I8, moment: Moment, first: int, last: int) -> None:
    """Count lookups of cells that come into the window of ``sch``."""
    for cell in range(first, last):
        base = cell % moment.layers * moment.num_experts
        for i in range(starts[cell], starts[cell + 1]):
            experts[base + asked[i]].key += 1.0


@compiled
def speak(
    experts: Experts, asked: I4, weights: F4, starts: I8, moment: Moment, rule: Rule, grown: float
) -> None:
    """Raise the scores of ``mrs`` by what the gate of a cell has said; `grown` undoes their decay."""
    base = moment.layer * moment.num_experts
    for i in range(starts[moment.cell], starts[moment.cell + 1]):
        experts[base + asked[i]].key += rule.parameters[0] * weights[i] * grown


@compiled
def shrink(experts: Experts, grown: float) -> bool:
    """Scale all scores back before they overflow; whether that was done."""
    if grown < _LARGE:
        return False
    for x in range(len(experts)):
        experts[x].key /= grown
    return True


@compiled
def record(
    experts: Experts,
    pools: Pools,
    rule: Rule,
    moment: Moment,
    pool: int,
    x: int,
    hit: bool,
    weight: float,
    high: bool,
    now: int,
) -> None:
    """Write a lookup down, before what is missing is loaded."""
    expert, number, given = experts[x], rule.number, rule.parameters
    if number == LRU:
        expert.key = now
        return
    if number == LFU:
        expert.tie = now
        if not hit and not given[0]:
            expert.count = 0.0
        return
    if number == MRS:
        return
    expert.tie = now
    expert.token = moment.step
    if number == P_FREQ:
        expert.count = expert.count + 1.0 if hit or given[0] else 1.0
        expert.key = weight * expert.count
        if given[1]:
            expert.key = np.floor(expert.key)
    elif number == HOBBIT:
        expert.count += 1.0
        expert.fine += 1.0 if high else 0.0
    elif number == COST:
        expert.count = expert.count + 1.0 if hit else 1.0
        if hit:
            reprice(experts, pools, rule, pool, x)
    elif number == SCH:
        expert.key -= 1.0
    elif number == LRU_AHEAD:
        if not given[1]:
            expert.key = now
    elif number == EAM:
        expert.chosen += 1.0
        rule.of_layer[moment.layer] += 1.0
        expert.count = expert.count + 1.0 if hit else 1.0
        if hit:
            pools[pool].visits += 1.0


@compiled
def reprice(experts: Experts, pools: Pools, rule: Rule, pool: int, x: int) -> None:
    """Score a resident by ``cost``, above what left last; one that was loaded when room had been made."""
    expert = experts[x]
    many = expert.count if rule.parameters[0] else 1.0
    expert.key = pools[pool].floor + many / rule.size[max(expert.level, 0)]


@compiled
def use(experts: Experts, number: int, x: int, next_use: int) -> None:
    """Move an expert in the order of the rules that go by use; misses when they have been loaded."""
    expert = experts[x]
    if number == LFU:
        expert.count += 1.0
        expert.key = expert.count
    elif number == BELADY:
        expert.key = -next_use
