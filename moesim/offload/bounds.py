"""Limits of a replay that no schedule beats, whatever it fetches ahead and whatever it throws out.

Let a box have pools of C slots and b spare ones, and let a cell ask for at most k experts.

*No stall.* Steps run one after the other, and in each of their cells the GPU has work before the gate, and
behind it ``g = beside + sum of experts`` if it runs them all. Where CPU or near unit may run experts too, a
cell with loads G and N of both takes at least ``max(G, N) >= u G + (1 - u) N >= u beside + sum_i min(u g_i,
(1 - u) n_i)`` for every u in [0, 1]: weak duality of the linear program that assigns them. Deferred experts
run beside the next layer, so there the same holds of the whole replay alone, not of each cell.

*Fewest loads.* Where only the GPU runs experts, all of a cell are on the device while they run. A schedule
that runs them in any order on C + b slots gives one that runs them in the order of accesses on C + b + k - 1
slots with no more loads: it keeps what the cell has used until its end. Fetching early does not save a load,
so M, the misses of Belady's rule on C + b + k - 1 slots (MIN, optimal for a given order: Mattson et al.
1970), is at most the loads of any schedule.

*Link.* M loads of the narrowest width cross one link, so the replay takes at least M times a load.

*Belady.* Without fetching ahead, loads lie between gates and the ends of their cells. So the work before
gates and at the ends of steps comes on top of the longer of all loads and all GPU work behind gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.offload.given import Costs, Demand, Memory, Rules
from moesim.offload.pools import (
    BELADY,
    Experts,
    Moment,
    Pools,
    Rule,
    empty,
    make_room,
    new_experts,
    new_moment,
    new_pools,
    put,
)
from moesim.offload.prepare import next_uses
from moesim.offload.scores import use
from moesim.policy.executors import KINDS

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

#: Weights that the dual bound is tried with.
_WEIGHTS = np.linspace(0.0, 1.0, 34)[1:-1]


def least_loads(demand: Demand, pool: I8, slots: F8, initial: I8, *, reset: bool) -> int:
    """Misses of Belady's rule on pools of some size, over the accesses that are not skipped.

    Parameters
    ----------
    demand
        Accesses.
    pool
        Pool of each layer, ``[layers]``.
    slots
        Of each pool, ``[pools]``.
    initial
        Experts that are there at first.
    reset
        Whether pools go back to that when the request changes.
    """
    following, upcoming = next_uses(demand.experts, demand.starts, demand.layers, demand.num_experts)
    experts = new_experts(demand.layers * demand.num_experts)
    np.asarray(experts)["key"] = -upcoming.astype(np.float64)
    pools = new_pools(slots, demand.layers, demand.num_experts)
    members = np.zeros(demand.layers * demand.num_experts, np.int64)
    rule = Rule(BELADY, np.zeros(1), np.zeros(demand.layers), np.ones(1))
    moment = new_moment(demand.layers, demand.num_experts)
    return int(_misses(demand, following, experts, pools, members, rule, moment, pool, initial, reset))


@compiled
def _misses(
    demand: Demand,
    following: I8,
    experts: Experts,
    pools: Pools,
    members: I8,
    rule: Rule,
    moments: Sequence[Moment],
    pool: I8,
    initial: I8,
    reset: bool,
) -> int:
    gone, levels = np.empty(len(members), np.int64), np.empty(len(members), np.int8)
    misses, now, moment = 0, 0, moments[0]
    for step in range(len(demand.request)):
        if step == 0 or (reset and demand.request[step] != demand.request[step - 1]):
            empty(experts, pools, BELADY)
            for x in initial:
                put(experts, pools, members, rule, x, pool[x // demand.num_experts], 0, now, False)
        for layer in range(demand.layers):
            cell = step * demand.layers + layer
            moment.cell = cell
            for i in range(demand.starts[cell], demand.starts[cell + 1]):
                if demand.wanted[i] < 0:
                    continue
                x = layer * demand.num_experts + demand.experts[i]
                now += 1
                if experts[x].level < 0:
                    misses += 1
                    _, room = make_room(
                        experts, pools, members, rule, moment, x, pool[layer], 0, True, gone, levels, 0
                    )
                    if room:
                        put(experts, pools, members, rule, x, pool[layer], 0, now, True)
                use(experts, BELADY, x, following[i])
    return misses


def gpu_parts(demand: Demand, costs: Costs) -> tuple[F8, F8, F8]:
    """Seconds before each gate, beside experts, and of each access at its fastest width.

    Returns
    -------
    before, beside
        ``[steps, layers]``.
    each
        ``[accesses]``; 0 for those that are skipped.
    """
    each = costs.gpu_s.min(axis=0)[demand.tokens] * (demand.wanted >= 0)
    return costs.before[costs.piece].T, costs.beside[costs.kind].T, each


def per_cell(values: F8, demand: Demand) -> F8:
    """Sum of values of accesses over each cell, ``[steps, layers]``."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    return np.diff(total[demand.starts]).reshape(-1, demand.layers)


def no_stall_steps(demand: Demand, costs: Costs, *, cpu: bool, near: bool, defers: bool) -> F8:
    """Least seconds of each step, ``[steps]``: work before gates, and experts shared out at their best."""
    before, beside, each = gpu_parts(demand, costs)
    rest = before.sum(axis=1) + costs.tail
    alone = (beside + per_cell(each, demand)).sum(axis=1)
    others = [
        part.min(axis=0)[demand.tokens] * np.where(demand.wanted >= 0, 1.0, 0.0)
        for part, used in ((costs.cpu_s, cpu), (costs.near_s, near))
        if used and np.isfinite(part).all()
    ]
    if not others:
        return np.asarray(rest + alone)
    # With both, their joint load is bounded by half of each one's.
    other = others[0] if len(others) == 1 else 0.5 * np.minimum(others[0], others[1])
    if defers:
        totals = [
            w * float((rest + beside.sum(axis=1)).sum()) + float(np.minimum(w * each, (1 - w) * other).sum())
            for w in _WEIGHTS
        ]
        u = _WEIGHTS[int(np.argmax(totals))]
        cells = per_cell(np.minimum(u * each, (1 - u) * other), demand)
        return np.asarray(u * (rest + beside.sum(axis=1)) + cells.sum(axis=1))
    best = np.zeros_like(beside)
    for w in _WEIGHTS:
        best = np.maximum(best, w * beside + per_cell(np.minimum(w * each, (1 - w) * other), demand))
    return np.asarray(rest + np.maximum(best, beside).sum(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Seconds of a whole replay that no schedule of its kind beats; None where there is no such proof.

    Parameters
    ----------
    steps
        Least seconds of each step, ``[steps]``; with an executor that defers, of all of them only together.
    no_stall, link, belady
        As described in this module.
    loads
        Fewest loads; None where others than the GPU run experts.
    """

    steps: F8
    no_stall: float
    link: float | None = None
    belady: float | None = None
    loads: int | None = None


def limits(
    demand: Demand, rules: Rules, costs: Costs, memory: Memory, slots: F8, *, ahead: bool, all_stored: bool
) -> Limits:
    """Limits of a replay with these arguments.

    Parameters
    ----------
    slots
        Room of each pool, in experts of the widest level.
    ahead
        Whether anything may be fetched before its gate has run.
    all_stored
        Whether every load comes from storage.
    """
    kind = KINDS[rules.executor]
    alone = kind == "gpu"
    per_step = no_stall_steps(
        demand,
        costs,
        cpu=not alone and kind not in ("split", "prefix"),
        near=kind in ("split", "prefix", "balanced", "optimum"),
        defers=kind == "defer",
    )
    whole = float(per_step.sum())
    if not alone:
        return Limits(per_step, whole)
    most = int(np.diff(demand.starts).max(initial=1))
    spares = len(memory.spare)
    room = np.floor(slots / float(rules.rule.size.min()) + 1e-9) + spares + most - 1.0
    loads = least_loads(demand, memory.pool, room, memory.initial, reset=rules.reset)
    each = float(costs.link_s[0].min()) + (costs.latency_s if len(memory.channel) == 1 else 0.0)
    if all_stored:
        each = max(each, float(costs.store_s[0].min()))
    belady = None
    if not ahead:
        before, beside, gpu = gpu_parts(demand, costs)
        behind = float(beside.sum() + gpu.sum())
        belady = float(before.sum() + costs.tail.sum()) + max(behind, loads * each)
    return Limits(per_step, whole, max(whole, loads * each), belady, loads)
