"""Replay a trace through a composition on a box, with time."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.offload.bounds import gpu_parts, least_loads, no_stall_steps
from moesim.offload.box import Box
from moesim.offload.kernel import BUSY, COUNTS, PATHS, WAITS, Costs, Demand, Hands, new_clocks, replay_timed
from moesim.offload.latency import latency_of
from moesim.offload.pools import RULE_OF, Rules
from moesim.offload.prepare import (
    ahead_of,
    costs_of,
    next_uses,
    prompts_of,
    quota_of,
    rules_of,
    start_of,
    start_state,
)
from moesim.offload.timed import Timed
from moesim.policy import Composition, Guesses, Steps
from moesim.policy.precision import Levels
from moesim.trace import RoutingTrace

#: Slots beside the pools that a copy is written to while its victim's experts still run.
SPARES = 1
#: Executors that never leave an expert to the CPU or the near unit, and those that use the latter.
_GPU_ONLY = ("gpu",)
_NEAR = ("split", "prefix", "balanced", "optimum")


def run(
    composition: Composition,
    trace: RoutingTrace,
    box: Box,
    *,
    train: RoutingTrace | None = None,
    slots: int | npt.NDArray[np.int64] | None = None,
    seed: int = 0,
    spares: int = SPARES,
) -> Timed:
    """Replay a trace through a composition on a box.

    Parameters
    ----------
    composition
        What decides.
    trace
        Routing; requests one after the other unless the batcher forms other steps.
    box
        What things cost.
    train
        A disjoint trace that tables are learnt from: predictor, placement, precision, popular experts.
    slots
        Experts of the widest level that the device holds: in all, or of each pool; by default what the box
        has memory for, spare ones left out.
    seed
        Of what starts at random.
    spares
        Slots beside those, at least 1: a copy fills one while its victim may still run.

    Raises
    ------
    ConfigError
        If trace, model, composition and box do not fit together, with every fault; if requests of `trace`
        stand in `train` too.
    """
    if train is not None:
        composition = composition.fit(train, trace)
    steps = composition.steps(trace)
    _check(composition, box, steps, train, spares)
    precision = composition.precision
    if precision is None:
        levels = Levels(np.array([1.0]), np.zeros(steps.accesses, np.int8))
    else:
        levels = precision.levels(steps)
        box = box.with_bits(levels.bits.tolist())
    if slots is None:
        slots = max(box.slots - spares, 0)
    quota = quota_of(composition, slots, box, steps, train)
    executor = composition.executor
    batch = composition.residency.lookup == "token_batch" or executor.kind not in _GPU_ONLY
    every = steps.layers * steps.num_experts
    level = np.full(every, levels.prefetch_level, np.int8)
    if levels.static is not None:
        level = levels.static.reshape(-1).astype(np.int8)
    rules, upcoming = rules_of(steps, composition.residency, quota.astype(np.float64), levels, batch=batch)
    start = start_of(composition, quota, steps, train, seed)
    demand = Demand(
        steps.experts,
        steps.tokens,
        steps.starts,
        steps.request,
        steps.layers,
        steps.num_experts,
        levels.wanted,
        levels.misses_only,
    )
    costs = costs_of(box, steps, levels, prompts_of(steps, trace), _stored(box, every, train, steps))
    predictor = composition.predictor
    if predictor is not None and composition.transfer.width > 0:
        guesses = predictor.guess(steps)
    else:
        guesses = Guesses.none(steps.num_steps * steps.layers)
    ahead = ahead_of(guesses, composition.transfer, steps, level)
    hands = Hands(
        executor.code, executor.vector(top_k=trace.top_k), np.zeros(max(steps.accesses, 1), np.bool_)
    )
    clocks = new_clocks(composition.transfer.channels, spares)
    state = start_state(rules, upcoming, start, level)
    began = time.perf_counter()
    ends, counted = replay_timed(demand, ahead, hands, costs, rules, state, clocks)
    wall = time.perf_counter() - began
    latency = latency_of(ends, steps, trace)
    limits = _bounds(composition, demand, costs, rules, quota, start, level, steps, trace, spares)
    return Timed(
        ttft_s=latency.ttft_s,
        tpot_s=latency.tpot_s,
        tpot_p50_s=latency.tpot_p50_s,
        tpot_p99_s=latency.tpot_p99_s,
        output_throughput=latency.output_throughput,
        seconds=float(ends[-1]) if len(ends) else 0.0,
        slots=quota,
        counts=dict(zip(COUNTS, counted, strict=True)),
        bytes_moved=dict(zip(PATHS, clocks.bytes.tolist(), strict=True)),
        busy=dict(zip(BUSY, clocks.busy.tolist(), strict=True)),
        stalls=dict(zip(WAITS, clocks.wait.tolist(), strict=True)),
        bounds=limits,
        assumptions=_assumptions(composition, box, batch),
        ends=ends,
        wall_s=wall,
    )


def _check(
    composition: Composition,
    box: Box,
    steps: Steps,
    train: RoutingTrace | None,
    spares: int,
) -> None:
    faults = []
    layers = len(box.model.moe_layer_ids)
    if steps.layers != layers:
        faults.append(Fault(f"has {layers} MoE layers, the trace {steps.layers}", "--model", box.model.name))
    if steps.num_experts != box.moe.num_experts:
        known = f"has {box.moe.num_experts} experts, the trace {steps.num_experts}"
        faults.append(Fault(known, "--model", box.model.name))
    if not steps.num_steps:
        faults.append(Fault("has no tokens", "TRACE"))
    if spares < 1:
        faults.append(Fault("is too few", "spares", spares, "at least 1"))
    transfer = composition.transfer
    if transfer.channels < 1:
        faults.append(Fault("is too few", "transfer.channels", transfer.channels, "at least 1"))
    if transfer.preemptible and transfer.channels != 1:
        faults.append(Fault("needs one channel", "transfer.preemptible", True, "channels=1"))
    if train is not None and (train.num_experts, train.topk_ids.shape[1]) != (
        steps.num_experts,
        steps.layers,
    ):
        faults.append(Fault("is of another model", "--train", train.model))
    rule = composition.residency.rule
    if rule not in RULE_OF:
        faults.append(Fault("is not replayed with time", "residency.rule", rule, ", ".join(RULE_OF)))
    if faults:
        raise ConfigError(faults)


def _stored(box: Box, every: int, train: RoutingTrace | None, steps: Steps) -> npt.NDArray[np.bool_]:
    """Which experts come from storage: all but the most popular that host memory holds."""
    stored = np.zeros(every, np.bool_)
    if box.host_experts is None:
        return stored
    rank = (
        np.arange(every).reshape(steps.layers, -1).T.ravel()
    )  # without a train trace: the first of each layer
    if train is not None:
        rank = np.argsort(-train.load_counts().totals.ravel(), kind="stable")
    stored[rank[box.host_experts :]] = True
    return stored


def _bounds(
    composition: Composition,
    demand: Demand,
    costs: Costs,
    rules: Rules,
    quota: npt.NDArray[np.int64],
    start: npt.NDArray[np.bool_] | None,
    level: npt.NDArray[np.int8],
    steps: Steps,
    trace: RoutingTrace,
    spares: int,
) -> dict[str, float | None]:
    kind = composition.executor.kind
    alone = kind in _GPU_ONLY
    per_step = no_stall_steps(
        demand,
        costs,
        cpu=not alone and kind not in ("split", "prefix"),
        near=kind in _NEAR,
        defers=kind == "defer",
    )
    free = latency_of(np.cumsum(per_step), steps, trace)
    found: dict[str, float | None] = {
        "no_stall": float(per_step.sum()),
        "link": None,
        "belady": None,
        "ttft_s": free.ttft_s if kind != "defer" else None,
        "tpot_s": free.tpot_s if kind != "defer" else None,
        "hit_ratio": None,
    }
    if not alone:
        return found
    most = int(np.diff(demand.starts).max(initial=1))
    following, upcoming = next_uses(demand.experts, demand.starts, demand.layers, demand.num_experts)
    wide = rules._replace(
        rule=RULE_OF["belady"],
        batch=False,
        room=np.floor(quota / rules.size.min() + 1e-9) + spares + most - 1.0,
        size=np.ones(1),
        next_use=following,
    )
    misses = least_loads(demand, wide, start_state(wide, upcoming, start, np.zeros_like(level)))
    each = float(costs.link_s[0].min()) + (costs.latency_s if composition.transfer.channels == 1 else 0.0)
    if costs.stored.all():
        each = max(each, float(costs.store_s[0].min()))
    before, beside, gpu = gpu_parts(demand, costs)
    behind = float(beside.sum() + gpu.sum())
    found["link"] = max(found["no_stall"] or 0.0, misses * each)
    if composition.transfer.width == 0 or composition.predictor is None:
        found["belady"] = float(before.sum() + costs.tail.sum()) + max(behind, misses * each)
        found["hit_ratio"] = 1.0 - misses / max(int((demand.wanted >= 0).sum()), 1)
    return found


def _assumptions(composition: Composition, box: Box, batch: bool) -> tuple[str, ...]:
    found = [
        "a request's first step begins when the step before it ends: no queue, no arrival times",
        "copies go first come, first served; a copy reads neither CPU nor GPU bandwidth away",
    ]
    if batch and composition.residency.lookup == "sequential":
        found.append("the executor sees a whole cell, so its experts are looked up together")
    if box.launch_s == 0:
        found.append("kernels are started at no cost (CUDA graphs)")
    return tuple(found)
