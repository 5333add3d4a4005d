"""Replay a trace through a composition on a box, with time."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.offload.bounds import Limits, limits
from moesim.offload.box import Box
from moesim.offload.clocks import PATHS, RESOURCES, WAITS
from moesim.offload.decisions import decisions_of, faults_of
from moesim.offload.given import COUNTS, Demand
from moesim.offload.kernel import replay_timed
from moesim.offload.latency import latency_of
from moesim.offload.prepare import costs_of, prompts_of, quota_of, stored_of
from moesim.offload.timed import Timed
from moesim.policy import Composition, Steps
from moesim.policy.executors.deferral import deferrable
from moesim.policy.precision import Levels
from moesim.trace import RoutingTrace

I8 = npt.NDArray[np.int64]

#: Slots beside the pools that a copy is written to while its victim's experts still run.
SPARES = 1


def run(
    composition: Composition,
    trace: RoutingTrace,
    box: Box,
    *,
    train: RoutingTrace | None = None,
    slots: int | npt.NDArray[np.int64] | None = None,
    seed: int = 0,
    spares: int = SPARES,
    spans: int = 0,
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
    spans
        How much of what each resource does is kept for a timeline: the first so many tasks.

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
    quota = quota_of(composition, slots, steps, train)
    waiting = None
    if composition.executor.kind == "defer":
        selected = composition.gate.select(trace)
        count = int(composition.executor.parameters.get("deferred", 2))
        waiting = deferrable(selected.trace, steps, count, selected.kept)
    demand, ahead, rules, memory = decisions_of(
        composition,
        steps,
        levels,
        quota,
        train,
        stored=stored_of(box, steps, train),
        deferrable=waiting,
        top_k=trace.top_k,
        seed=seed,
        spares=spares,
        spans=spans,
    )
    costs = costs_of(box, steps, levels, prompts_of(steps, trace))
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
        bounds=_bounds(found, demand, steps, trace, defers=composition.executor.kind == "defer"),
        assumptions=_assumptions(composition, box, rules.batch),
        ends=ends,
        spans=memory.spans[: min(int(clock["noted"]), spans)],
        experts_per_layer=steps.num_experts,
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
    faults += faults_of(composition, steps, train, spares)
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
