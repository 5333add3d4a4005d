"""From a composition to what the timed kernel decides by, whatever things cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault
from moesim.offload.clocks import new_clock
from moesim.offload.given import LOGGED, SPANS, Ahead, Demand, Memory, Rules
from moesim.offload.pools import RULE_OF, Rule, new_experts, new_moment, new_pools
from moesim.offload.prepare import ahead_of, next_uses, start_of
from moesim.offload.scores import important, parameters_of
from moesim.policy import Composition, Guesses, Steps
from moesim.policy.precision import Levels
from moesim.residency.kernels.table import rule_of
from moesim.trace import RoutingTrace

I8 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Executors that never leave an expert to the CPU or a near unit.
GPU_ONLY = ("gpu",)


class Decisions(NamedTuple):
    """What is asked for and fetched ahead, the rules, and what is on the device before the first step."""

    demand: Demand
    ahead: Ahead
    rules: Rules
    memory: Memory


def decisions_of(
    composition: Composition,
    steps: Steps,
    levels: Levels,
    quota: I8,
    train: RoutingTrace | None = None,
    *,
    stored: Flags | None = None,
    deferrable: Flags | None = None,
    top_k: int = 1,
    seed: int = 0,
    spares: int = 1,
    logged: bool = False,
    spans: int = 0,
) -> Decisions:
    """Arrays that the timed kernel takes, but for seconds and bytes.

    Parameters
    ----------
    composition
        Fitted.
    steps, levels
        What is asked for, and in which precision.
    quota
        Slots of each pool, int64 ``[pools]``.
    train
        A disjoint trace, for what is resident at first.
    stored
        Experts that come from storage, bool ``[layers * experts]``; None is none.
    deferrable
        Accesses that may wait for a layer, bool ``[accesses]``; None is none.
    top_k
        Experts of a token, for the executor.
    seed
        Of what starts at random.
    spares
        Slots beside the pools.
    logged
        Whether loads are logged.
    spans
        Of resources that are written down, the first ones.
    """
    residency, transfer, executor = composition.residency, composition.transfer, composition.executor
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
    waiting = np.zeros(max(steps.accesses, 1), np.bool_) if deferrable is None else deferrable
    rules = Rules(
        rule=Rule(RULE_OF[residency.rule], given, np.zeros(layers), levels.bits / levels.bits[0]),
        batch=residency.lookup == "token_batch" or executor.kind not in GPU_ONLY,
        reset=residency.reset == "request",
        free_cold=residency.cold == "free",
        misses_only=levels.misses_only,
        nested=levels.nested,
        preemptible=transfer.preemptible,
        write_back=transfer.write_back,
        executor=executor.code,
        parameters=executor.vector(top_k=top_k),
    )
    ahead = ahead_of(guesses, transfer, steps, waiting)
    experts = new_experts(layers * num_experts)
    table = np.asarray(experts)
    table["key"] = -upcoming.astype(np.float64)
    table["ahead"] = levels.prefetch_level if levels.static is None else levels.static.reshape(-1)
    if stored is not None:
        table["stock"] = stored
    start = start_of(composition, quota, steps, train, seed)
    initial = np.zeros(0, np.int64)
    if start is not None:  # what is not kept in any precision is not there
        initial = np.flatnonzero(start.ravel() & (table["ahead"] >= 0))
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
        log=np.zeros((logged * (steps.accesses + len(ahead.target)), len(LOGGED)), np.int64),
        spans=np.zeros((spans, len(SPANS))),
    )
    return Decisions(demand, ahead, rules, memory)


def faults_of(composition: Composition, steps: Steps, train: RoutingTrace | None, spares: int) -> list[Fault]:
    """What the timed kernel cannot replay."""
    faults = []
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
            message = "needs router weights, which the trace does not have"
            faults.append(Fault(message, "residency.rule", rule))
    return faults
