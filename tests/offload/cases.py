"""Small cases for the timed kernel, with costs given outright."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moesim.offload.bounds import Limits, limits
from moesim.offload.clocks import PATHS, RESOURCES, WAITS, new_clock
from moesim.offload.given import COUNTS, Ahead, Costs, Demand, Memory, Rules
from moesim.offload.kernel import replay_timed
from moesim.offload.pools import RULE_OF, Rule, new_experts, new_moment, new_pools
from moesim.offload.prepare import next_uses
from moesim.offload.scores import important, parameters_of
from moesim.policy.executor import Executor


@dataclass
class Case:
    """`asked[step][layer]` is a list of experts; `guessed[step][layer]` of (target cell, expert)."""

    asked: list
    num_experts: int
    slots: list
    tokens: list | None = None
    guessed: list | None = None
    request: list | None = None
    rule: str = "lru"
    batch: bool = False
    reset: bool = False
    preemptible: bool = False
    write_back: bool = False
    executor: str = "gpu"
    before: list = field(default_factory=lambda: [1.0])
    beside: float = 0.0
    tail: float = 0.0
    gpu: float = 1.0
    cpu: float = 1.0
    near: float = float("inf")
    load: float = 3.0
    latency: float = 0.0
    store: float = 0.0
    out: float = 3.0
    hop: float = 0.0
    channels: int = 1
    spares: int = 1
    stocked: tuple = ()
    initial: tuple = ()
    weights: list | None = None
    parameters: dict = field(default_factory=dict)

    @property
    def layers(self) -> int:
        return len(self.asked[0])

    @property
    def pooled(self) -> bool:
        return len(self.slots) == 1 and self.layers > 1


@dataclass
class Outcome:
    ends: np.ndarray
    counts: dict
    busy: dict
    waits: dict
    moved: dict
    experts: np.ndarray

    @property
    def seconds(self) -> float:
        return float(self.ends[-1])


def demand_of(case: Case) -> Demand:
    cells = [cell for step in case.asked for cell in step]
    starts = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int64)
    experts = np.array([e for cell in cells for e in cell], np.int32)
    tokens = np.ones(len(experts), np.int32)
    if case.tokens is not None:
        tokens = np.array([t for step in case.tokens for cell in step for t in cell], np.int32)
    request = (
        np.zeros(len(case.asked), np.int32) if case.request is None else np.array(case.request, np.int32)
    )
    following, _ = next_uses(experts, starts, case.layers, case.num_experts)
    wanted = np.zeros(len(experts), np.int8)
    weights, high = np.zeros(0, np.float32), np.zeros(0, np.bool_)
    if case.weights is not None:
        weights = np.array(case.weights, np.float32)
        high = important(weights, starts, case.parameters.get("high", 0.6))
    return Demand(
        experts, tokens, starts, request, case.layers, case.num_experts, wanted, following, weights, high
    )


def costs_of(case: Case, most: int) -> Costs:
    steps, layers = len(case.asked), case.layers
    n = np.arange(most + 1.0)

    def per_token(each: float) -> np.ndarray:
        # Weights are read once, tokens cost a little more each.
        return np.where(n > 0, each * (1.0 + 0.1 * (n - 1.0)), 0.0)[None]

    before = np.resize(np.array(case.before, float), layers)
    return Costs(
        gpu_s=per_token(case.gpu),
        cpu_s=per_token(case.cpu),
        near_s=per_token(case.near) if np.isfinite(case.near) else np.full((1, most + 1), np.inf),
        link_s=np.full((2, 1), case.load),
        store_s=np.full((2, 1), case.store),
        size=np.full((2, 1), 100.0),
        out_s=np.array([case.out]),
        latency_s=case.latency,
        before=np.repeat(before[:, None], steps, axis=1),
        piece=np.arange(layers),
        beside=np.full((1, steps), case.beside),
        kind=np.zeros(layers, np.int64),
        tail=np.full(steps, case.tail),
        hop_s=np.full(steps, case.hop),
    )


def ahead_of(case: Case, accesses: int) -> Ahead:
    steps, layers = len(case.asked), case.layers
    guessed = case.guessed or [[[] for _ in range(layers)] for _ in range(steps)]
    cells = [cell for step in guessed for cell in step]
    starts = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int64)
    flat = [g for cell in cells for g in cell]
    return Ahead(
        starts,
        np.array([g[0] for g in flat], np.int64),
        np.array([g[1] for g in flat], np.int32),
        np.zeros(max(accesses, 1), np.bool_),
    )


def memory_of(case: Case, demand: Demand) -> Memory:
    layers, every = case.layers, case.layers * case.num_experts
    experts = new_experts(every)
    table = np.asarray(experts)
    _, upcoming = next_uses(demand.experts, demand.starts, layers, case.num_experts)
    if case.rule == "belady":
        table["key"] = -upcoming.astype(float)
    table["stock"][list(case.stocked)] = True
    return Memory(
        experts,
        new_pools(np.array(case.slots, float), layers, case.num_experts),
        np.zeros(every, np.int64),
        np.zeros(layers, np.int64) if case.pooled or layers == 1 else np.arange(layers),
        np.array(case.initial, np.int64),
        new_clock(),
        new_moment(layers, case.num_experts),
        np.zeros(case.channels),
        np.zeros(case.spares),
    )


def rules_of(case: Case) -> Rules:
    executor = Executor(case.executor)
    given, _ = parameters_of(case.rule, case.parameters)
    return Rules(
        rule=Rule(RULE_OF[case.rule], given, np.zeros(case.layers), np.ones(1)),
        batch=case.batch or case.executor != "gpu",
        reset=case.reset,
        free_cold=False,
        misses_only=False,
        nested=False,
        preemptible=case.preemptible,
        write_back=case.write_back,
        executor=executor.code,
        parameters=executor.vector(top_k=2),
    )


def limits_of(case: Case) -> Limits:
    demand = demand_of(case)
    memory = memory_of(case, demand)
    costs = costs_of(case, int(demand.tokens.max(initial=1)))
    every = case.layers * case.num_experts
    return limits(
        demand,
        rules_of(case),
        costs,
        memory,
        np.array(case.slots, float),
        ahead=case.guessed is not None,
        all_stored=len(case.stocked) == every,
    )


def timed(case: Case) -> Outcome:
    demand = demand_of(case)
    memory = memory_of(case, demand)
    costs = costs_of(case, int(demand.tokens.max(initial=1)))
    ends, counts = replay_timed(demand, ahead_of(case, len(demand.experts)), rules_of(case), costs, memory)
    clock = np.asarray(memory.clock)[0]
    return Outcome(
        ends,
        {name: int(row.sum()) for name, row in zip(COUNTS, counts, strict=True)},
        {name: float(clock[f"busy_{name}"]) for name in RESOURCES},
        {name: float(clock[f"wait_{name}"]) for name in WAITS},
        {name: float(clock[f"bytes_{name}"]) for name in PATHS},
        np.asarray(memory.experts),
    )
