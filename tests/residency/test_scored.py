"""Scored rules against their definitions in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import make_steps

from moesim.errors import ConfigError
from moesim.policy import Residency
from moesim.residency import curve, replay

RULES = {
    "p-freq": [{}, {"keep": 1}, {"truncate": 1}],
    "hobbit": [
        {},
        {"lru": 1, "lfu": 0, "lhu": 0, "fld": 0},
        {"lru": 0.1, "lfu": 0.2, "lhu": 0.3, "fld": 0.4},
    ],
    "cost": [{}, {"frequency": 0}],
    "sch": [{"window": 1}, {"window": 3}, {"window": 100}],
    "eam": [{}],
    "lru-ahead": [{}, {"layers": 1}, {"loaded": 1}],
}


class Pool:
    """What one pool holds, with what is known of everything it was asked for."""

    def __init__(self, steps, residency, slots, cells):
        self.steps, self.r, self.slots, self.cells = steps, residency, slots, cells
        self.p = {
            "keep": 0,
            "truncate": 0,
            "high": 0.6,
            "window": 16,
            "layers": 3,
            "loaded": 0,
            "frequency": 1,
        }
        self.p |= dict.fromkeys(("lru", "lfu", "lhu", "fld"), 0.25) | dict(residency.parameters)
        self.held, self.floor, self.clock = {}, 0.0, 0
        self.used, self.weight, self.visits, self.h = {}, {}, {}, {}
        self.request()

    def request(self):
        self.chosen, self.hobbit, self.first = {}, {}, None

    def key(self, x, at):
        step, layer = self.cells[at][:2]
        p, rule = self.p, self.r.rule
        if rule == "p-freq":
            score = np.float32(self.weight[x]) * float(self.visits[x])
            return np.floor(score) if p["truncate"] else score
        if rule == "hobbit":
            t = step - self.first + 1
            last, count, fine = self.hobbit.get(x, (self.first - 1, 0, 0))
            d = (x[0] - layer) % self.steps.layers
            terms = p["lru"] * (last - self.first + 1) + p["lfu"] * count + p["lhu"] * fine
            return terms / t + p["fld"] * (1 - d / self.steps.layers)
        if rule == "cost":
            return self.h[x]
        if rule == "sch":
            # From the present access on, to the end of the window.
            return sum(y == x for s, y in self.future if step <= s < step + p["window"])
        if rule == "lru-ahead":
            return (layer <= x[0] < layer + p["layers"], self.held[x] if p["loaded"] else self.used[x])
        half, layers = self.steps.layers // 2, self.steps.layers

        def place(i):
            if i < half:
                return 1.0 if layer < half and i <= layer else 1 - i / half
            return 1.0 if layer >= half and i <= layer else (i - half) / (half + 1)

        experts = self.steps.num_experts
        mine = range(layers) if self.r.pool == "global" else [x[0]]
        places = sum(place(i) * experts for i in mine)
        row = sum(n for y, n in self.chosen.items() if y[0] == x[0])
        share = self.chosen.get(x, 0) / row if row else 1 / experts
        visits = sum(self.visits[y] for y in self.held)
        return (
            (place(x[0]) / places + 1e-6) * (share / layers + 1e-6) * (self.visits[x] / max(visits, 1) + 1e-6)
        )

    def record(self, i, x, step, high):
        here = x in self.held
        self.clock += 1
        self.used[x] = self.clock
        if self.steps.weights is not None:
            self.weight[x] = self.steps.weights[i]
        self.visits[x] = self.visits.get(x, 0) + 1 if here or self.p["keep"] else 1
        self.h[x] = self.floor + (self.visits[x] if self.p["frequency"] else 1)
        self.chosen[x] = self.chosen.get(x, 0) + 1
        _, count, fine = self.hobbit.get(x, (0, 0, 0))
        self.hobbit[x] = (step, count + 1, fine + high)
        self.future.remove((step, x))

    def run(self, hits):
        self.future = [(s, x) for s, _, cell in self.cells for _, x in cell]
        last = None
        for at, (step, layer, cell) in enumerate(self.cells):
            if last is not None and self.steps.request[step] != last:
                self.request()
            last = self.steps.request[step]
            if self.first is None:
                self.first = step
            high = self.high(cell)
            parts = [cell] if self.r.lookup == "token_batch" else [[a] for a in cell]
            for part in parts:
                there = [x for _, x in part if x in self.held]
                hits[layer] += len(there)
                for i, x in part:
                    self.record(i, x, step, high[i])
                for _, x in part:
                    if x not in there:
                        self.held[x] = self.clock
                # Others make room first; then what was loaded gets its score; then the cell itself must give.
                ask = {x for _, x in part}
                for own in (False, True):
                    while len(self.held) > self.slots and any((x in ask) == own for x in self.held):
                        victims = [x for x in self.held if (x in ask) == own]
                        victim = min(victims, key=lambda x: (self.key(x, at), self.used[x]))
                        self.floor = max(self.floor, self.h[victim])
                        del self.held[victim]
                    if not own:
                        self.load(ask - set(there))

    def load(self, loaded):
        """GreedyDual's score, once room is made."""
        for x in loaded:
            self.h[x] = self.floor + (self.visits[x] if self.p["frequency"] else 1)

    def high(self, cell):
        """Whether what weighs more than an access adds up to at most 0.6."""
        if self.steps.weights is None:
            return {i: False for i, _ in cell}
        order = sorted(cell, key=lambda a: (-self.steps.weights[a[0]], a[0]))
        total = sum(float(self.steps.weights[i]) for i, _ in cell)
        found, above = {}, 0.0
        for i, _ in order:
            found[i] = above <= self.p["high"] * total
            above += float(self.steps.weights[i])
        return found


def expected(steps, residency, slots):
    hits = np.zeros(steps.layers, np.int64)
    pools = {}
    epoch = 0
    for step in range(steps.num_steps):
        if residency.reset == "request" and step and steps.request[step] != steps.request[step - 1]:
            epoch += 1
        for layer in range(steps.layers):
            a, b = steps.starts[step * steps.layers + layer : step * steps.layers + layer + 2]
            cell = [(i, (layer, int(steps.experts[i]))) for i in range(a, b)]
            if cell:
                pools.setdefault((epoch, layer if residency.pool == "layer" else 0), []).append(
                    (step, layer, cell)
                )
    for cells in pools.values():
        Pool(steps, residency, slots, cells).run(hits)
    return hits.tolist()


@st.composite
def weighted(draw):
    experts, layers = draw(st.integers(2, 8)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 25))
    rows = [
        [rng.permutation(experts)[: rng.integers(0, min(experts, 4) + 1)].tolist() for _ in range(layers)]
        for _ in range(count)
    ]
    size = sum(len(c) for row in rows for c in row)
    return make_steps(rows, experts, np.sort(rng.integers(0, 3, count)), rng.integers(1, 64, size) / 64)


@pytest.mark.parametrize(("rule", "parameters"), [(r, p) for r, every in RULES.items() for p in every])
@settings(max_examples=25, deadline=None)
@given(
    steps=weighted(),
    slots=st.integers(1, 9),
    pool=st.sampled_from(("layer", "global")),
    lookup=st.sampled_from(("sequential", "token_batch")),
    reset=st.sampled_from(("never", "request")),
)
def test_hits_are_those_of_the_definition(rule, parameters, steps, slots, pool, lookup, reset):
    residency = Residency(rule, pool, lookup, reset=reset, parameters=parameters)
    found = replay(steps, residency, slots)
    assert found.hits.tolist() == expected(steps, residency, slots)
    assert (found.hits + found.misses == found.accesses).all()


@settings(max_examples=40, deadline=None)
@given(
    steps=weighted(), pool=st.sampled_from(("layer", "global")), reset=st.sampled_from(("never", "request"))
)
def test_no_score_beats_belady(steps, pool, reset):
    best = curve(steps, Residency("belady", pool, reset=reset)).hits.sum(axis=0)
    for rule, every in {**RULES, "mrs": [{}]}.items():
        for parameters in every:
            for slots in (1, 2, 4):
                found = replay(steps, Residency(rule, pool, reset=reset, parameters=parameters), slots)
                assert found.hits.sum() <= best[min(slots, len(best) - 1)]


@settings(max_examples=25, deadline=None)
@given(steps=weighted(), slots=st.integers(1, 6))
def test_ends_of_the_family(steps, slots):
    """Recency alone is least recently used; and so is equal cost without frequency."""
    lru = replay(steps, Residency("lru", reset="request"), slots).hits.tolist()
    only = {"lru": 1, "lfu": 0, "lhu": 0, "fld": 0}
    assert replay(steps, Residency("hobbit", reset="request", parameters=only), slots).hits.tolist() == lru
    # With nothing of other layers in the pool, nothing is ahead.
    assert replay(steps, Residency("lru-ahead", reset="request"), slots).hits.tolist() == lru


def greedy_dual(steps, slots, sizes, costs):
    """Hits of GreedyDual-Size-Frequency in a pool of all layers, experts of different sizes and costs."""
    held, visits, floor, clock, hits, space = {}, {}, 0.0, 0, 0, float(slots)
    for cell in range(len(steps.starts) - 1):
        for i in range(steps.starts[cell], steps.starts[cell + 1]):
            x = (cell % steps.layers, int(steps.experts[i]))
            clock += 1
            hits += x in held
            visits[x] = visits[x] + 1 if x in held else 1
            if x not in held:
                while space < sizes[x]:
                    victim = min(held, key=held.get)
                    floor = held.pop(victim)[0]
                    space += sizes[victim]
                space -= sizes[x]
            held[x] = (floor + visits[x] * costs[x] / sizes[x], clock)
    return hits


@settings(max_examples=60, deadline=None)
@given(steps=weighted(), slots=st.integers(2, 9), seed=st.integers(0, 2**32))
def test_experts_of_different_sizes_and_costs(steps, slots, seed):
    rng = np.random.default_rng(seed)
    shape = (steps.layers, steps.num_experts)
    sizes, costs = rng.choice([0.25, 0.5, 1, 2], shape), rng.choice([0.5, 1, 2, 8], shape)
    found = replay(steps, Residency("cost", "global"), slots, sizes=sizes, costs=costs)
    assert found.hits.sum() == greedy_dual(steps, slots, sizes, costs)


def test_costs_save_what_is_dear():
    """Two experts take turns in the one slot beside a third; the dear one stays."""
    steps = make_steps([[[0]], [[1]], [[2]]] * 50, 3)
    costs = np.array([[9.0, 1.0, 1.0]])
    assert replay(steps, Residency("cost", parameters={"frequency": 0}), 2, costs=costs).hits.sum() >= 40
    assert replay(steps, Residency("lru"), 2).hits.sum() == 0


def test_sizes_and_costs_that_do_not_fit_are_told():
    steps = make_steps([[[0]]], 2)
    with pytest.raises(ConfigError) as failed:
        replay(steps, Residency("lru"), 1, sizes=[1.0], costs=[[0.0, 1.0]], expert_bytes=5)
    assert len(failed.value.faults) == 5
    with pytest.raises(ConfigError, match="larger than a pool"):
        replay(steps, Residency("cost"), 1, sizes=[[2.0, 1.0]])


def test_what_is_missing_or_wrong_is_told():
    steps = make_steps([[[0]]], 2)
    for rule in ("p-freq", "hobbit"):
        with pytest.raises(ConfigError, match="router weights"):
            replay(steps, Residency(rule), 1)
    with pytest.raises(ConfigError, match="number from 0"):
        replay(steps, Residency("cost", parameters={"frequency": -1}), 1)
