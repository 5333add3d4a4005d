"""Replay a trace through a composition on a box, with time."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.offload.bounds import Limits, limits
from moesim.offload.box import Box
from moesim.offload.clocks import PATHS, RESOURCES, WAITS, new_clock
from moesim.offload.given import COUNTS, Demand, Memory, Rules
from moesim.offload.kernel import replay_timed
from moesim.offload.latency import latency_of
from moesim.offload.pools import RULE_OF, Rule, new_moment, new_pools
from moesim.offload.prepare import (
    ahead_of,
    costs_of,
    next_uses,
    prompts_of,
    quota_of,
    start_experts,
    start_of,
)
from moesim.offload.scores import important, parameters_of
from moesim.offload.timed import Timed
from moesim.policy import Composition, Guesses, Steps
from moesim.policy.executors.deferral import deferrable
from moesim.policy.precision import Levels
from moesim.residency.kernels.table import rule_of
from moesim.trace import RoutingTrace

I8 = npt.NDArray[np.int64]

#: Slots beside the pools that a copy is written to while its victim's experts still run.
SPARES = 1
#: Executors that never leave an expert to the CPU or a near unit.
_GPU_ONLY = ("gpu",)


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
        If trace, model, composition and box do not fit together, with every fault.
    """
    if train is not None:
        composition = composition.fit(train, trace)
    steps = composition.steps(trace)
    _check(composition, box, steps, train, spares)
    levels = Levels(np.array([1.0]), np.zeros(steps.accesses, np.int8))
    if composition.precision is not None:
        levels = composition.precision.levels(steps)
        box = box.with_bits(levels.bits.tolist())
    if slots is None:
        slots = max(box.slots - spares, 0)
    quota = quota_of(composition, slots, box, steps, train)
    start = start_of(composition, quota, steps, train, seed)
    residency, transfer, executor = composition.residency, composition.transfer, composition.executor
    batch = residency.lookup == "token_batch" or executor.kind not in _GPU_ONLY
    layers, num_experts = steps.layers, steps.num_experts
    following, upcoming = np.zeros(0, np.int64), np.zeros(layers * num_experts, np.int64)
    if residency.rule == "belady":
        following, upcoming = next_uses(steps.experts, steps.starts, layers, num_experts)
    given, _ = parameters_of(residency.rule, residency.parameters)
    high = np.zeros(0, np.bool_)
    if residency.rule == "hobbit" and steps.weights is not None:
        high = important(steps.weights, steps.starts, given[4])
    demand = Demand(
        steps.experts,
        steps.tokens,
        steps.starts,
        steps.request,
        layers,
        num_experts,
        levels.wanted,
        following,
        np.zeros(0, np.float32) if steps.weights is None else steps.weights,
        high,
    )
    guesses = Guesses.none(steps.num_steps * layers)
    if composition.predictor is not None and transfer.width > 0:
        guesses = composition.predictor.guess(steps)
    waiting = np.zeros(max(steps.accesses, 1), np.bool_)
    if executor.kind == "defer":
        selected = composition.gate.select(trace)
        count = int(executor.parameters.get("deferred", 2))
        waiting = deferrable(selected.trace, steps, count, selected.kept)
    rules = Rules(
        rule=Rule(RULE_OF[residency.rule], given, np.zeros(layers), levels.bits / levels.bits[0]),
        batch=batch,
        reset=residency.reset == "request",
        free_cold=residency.cold == "free",
        misses_only=levels.misses_only,
        nested=levels.nested,
        preemptible=transfer.preemptible,
        write_back=transfer.write_back,
        executor=executor.code,
        parameters=executor.vector(top_k=trace.top_k),
    )
    costs = costs_of(box, steps, levels, prompts_of(steps, trace))
    experts = start_experts(box, steps, levels, upcoming, train)
    initial = np.zeros(0, np.int64)
    if start is not None:  # what is not kept in any precision is not there
        initial = np.flatnonzero(start.ravel() & (np.asarray(experts)["ahead"] >= 0))
    memory = Memory(
        experts=experts,
        pools=new_pools(quota.astype(np.float64), layers, num_experts),
        members=np.zeros(layers * num_experts, np.int64),
        pool=np.arange(layers) if len(quota) == layers else np.zeros(layers, np.int64),
        initial=initial,
        clock=new_clock(),
        moment=new_moment(layers, num_experts),
        channel=np.zeros(transfer.channels),
        spare=np.zeros(spares),
    )
    ahead = ahead_of(guesses, transfer, steps, waiting)
    began = time.process_time()
    ends, counted = replay_timed(demand, ahead, rules, costs, memory)
    wall = time.process_time() - began
    latency = latency_of(ends, steps, trace)
    clock = np.asarray(memory.clock)[0]
    found = limits(
        demand,
        rules,
        costs,
        memory,
        quota.astype(np.float64),
        ahead=bool(len(ahead.target)),
        all_stored=bool(np.asarray(memory.experts)["stock"].all()),
    )
    return Timed(
        ttft_s=latency.ttft_s,
        tpot_s=latency.tpot_s,
        tpot_p50_s=latency.tpot_p50_s,
        tpot_p99_s=latency.tpot_p99_s,
        output_throughput=latency.output_throughput,
        seconds=float(ends[-1]),
        slots=quota,
        counts=dict(zip(COUNTS, counted, strict=True)),
        bytes_moved={name: float(clock[f"bytes_{name}"]) for name in PATHS},
        busy={name: float(clock[f"busy_{name}"]) for name in RESOURCES},
        stalls={name: float(clock[f"wait_{name}"]) for name in WAITS},
        bounds=_bounds(found, demand, steps, trace, defers=executor.kind == "defer"),
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
    if composition.placement is not None and train is None:
        faults.append(Fault("needs a disjoint trace to learn from", "placement", allowed="train"))
    rule = composition.residency.rule
    if rule not in RULE_OF:
        faults.append(Fault("is not replayed with time", "residency.rule", rule, ", ".join(RULE_OF)))
    else:
        parameters = composition.residency.parameters
        faults += parameters_of(rule, parameters)[1]
        if rule_of(rule).weights and steps.weights is None and parameters.get("lhu", 1.0):
            faults.append(
                Fault("needs router weights, which the trace does not have", "residency.rule", rule)
            )
    if faults:
        raise ConfigError(faults)


def _bounds(
    found: Limits, demand: Demand, steps: Steps, trace: RoutingTrace, *, defers: bool
) -> dict[str, float | None]:
    """Limits by name: of the replay in seconds, of latencies, and of the hit ratio without fetching ahead."""
    # Deferred work may run beside the next layer: then no step has a limit of its own.
    free = latency_of(np.cumsum(found.steps), steps, trace)
    ratio = None
    if found.belady is not None and found.loads is not None:
        ratio = 1.0 - found.loads / max(int((demand.wanted >= 0).sum()), 1)
    return {
        "no_stall": found.no_stall,
        "link": found.link,
        "belady": found.belady,
        "ttft_s": None if defers else free.ttft_s,
        "tpot_s": None if defers else free.tpot_s,
        "hit_ratio": ratio,
    }


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
