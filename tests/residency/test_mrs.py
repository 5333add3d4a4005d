"""Decayed scores: the buckets against the definition in whole numbers of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import make_steps

from moesim import load_trace
from moesim.errors import ConfigError
from moesim.policy import Residency, token_steps
from moesim.policy.batchers import Continuous
from moesim.residency import replay
from moesim.residency.first_rows import first_rows
from moesim.trace import RoutingTrace

#: A float16 weight times this is a whole number.
UNIT = 2**24


def exact(steps, slots, *, shared=False, batch=False, reset=False):
    """Hits by layer with alpha = 1/2: scores are whole numbers that double instead of halving."""
    hits = np.zeros(steps.layers, np.int64)
    scores, held, turn = {}, {}, {}
    for step in range(steps.num_steps):
        if reset and step and steps.request[step] != steps.request[step - 1]:
            scores, held, turn = {}, {}, {}
        for layer in range(steps.layers):
            a, b = steps.starts[step * steps.layers + layer : step * steps.layers + layer + 2]
            if a == b:
                continue
            pool = 0 if shared else layer
            last, t = turn.get(pool, (-1, 0))
            if last != step:
                t += 1
            turn[pool] = (step, t)
            cell = [(layer, int(e)) for e in steps.experts[a:b]]
            for x, weight in zip(cell, steps.weights[a:b], strict=True):
                scores[x] = scores.get(x, 0) + (int(float(weight) * UNIT) << t)
            mine = held.setdefault(pool, set())
            if batch:
                hits[layer] += sum(x in mine for x in cell)
                mine |= set(cell)
                while len(mine) > slots:
                    mine.remove(min(mine, key=lambda x: (x in cell, scores[x], x)))
                continue
            for x in cell:
                if x in mine:
                    hits[layer] += 1
                    continue
                if len(mine) == slots:
                    mine.remove(min(mine, key=lambda x: (scores[x], x)))
                mine.add(x)
    return hits.tolist()


@st.composite
def weighted(draw):
    experts, layers = draw(st.sampled_from([(1, 1), (5, 1), (9, 2), (70, 1)])), 0
    experts, layers = experts
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 60))
    few = draw(st.booleans())
    rows = []
    for _ in range(count):
        # Few experts for a while, so that others grow old.
        of = min(experts, 3) if few and rng.random() < 0.9 else experts
        rows.append([rng.permutation(of)[: rng.integers(0, min(of, 6) + 1)].tolist() for _ in range(layers)])
    size = sum(len(c) for row in rows for c in row)
    # Few values, so that scores are equal now and then; 0 among them.
    weights = rng.choice(np.array([0, 2**-24, 0.1, 0.25, 0.5, 1], np.float16), size)
    request = np.sort(rng.integers(0, 3, count))
    return make_steps(rows, experts, request, weights)


@settings(max_examples=150, deadline=None)
@given(
    steps=weighted(),
    slots=st.integers(1, 8),
    shared=st.booleans(),
    batch=st.booleans(),
    reset=st.booleans(),
)
def test_hits_are_those_of_the_definition(steps, slots, shared, batch, reset):
    residency = Residency(
        "mrs",
        "global" if shared else "layer",
        "token_batch" if batch else "sequential",
        reset="request" if reset else "never",
    )
    found = replay(steps, residency, slots)
    assert found.hits.tolist() == exact(steps, slots, shared=shared, batch=batch, reset=reset)


def test_who_was_asked_for_long_ago_keeps_its_place():
    """Thousands of steps: in float64 that decays, all old scores would be 0 and alike."""
    rows = [[[3]], [[1]], [[2]]] + [[[0]]] * 5000 + [[[4]], [[1]], [[2]], [[3]]]
    steps = make_steps(rows, 5, weights=[1, 0.75, 0.625] + [1] * 5004)
    assert replay(steps, Residency("mrs"), 4).hits.tolist() == exact(steps, 4)
    # 4 pushes out 3, the oldest though it weighed most: then 1 and 2 are there, and 3 is not.
    assert replay(steps, Residency("mrs"), 4).hits.sum() == 4999 + 2


def test_scores_in_a_real_trace(shared):
    trace = load_trace(shared("traces/esft-deepseek-v2-lite/intent.npz"))
    ids, weights = trace.topk_ids[:, :3], trace.topk_weights[:, :3]
    rows = [[c.tolist() for c in row] for row in ids]
    steps = make_steps(rows, trace.num_experts, weights=weights.reshape(-1))
    for slots in (8, 16, 48):
        assert replay(steps, Residency("mrs"), slots).hits.tolist() == exact(steps, slots)


@pytest.mark.parametrize(("alpha", "parts"), [(0.2, (5, 4)), (0.9, (10, 1)), (0.01, (100, 99))])
def test_other_parts_of_the_newest_weights(shared, alpha, parts):
    """``1 / (1 - alpha)`` is no power of two: float64 rounds, and fractions do not."""
    trace = load_trace(shared("traces/esft-deepseek-v2-lite/summary.npz"))
    ids, weights = trace.topk_ids[:700, :2], trace.topk_weights[:700, :2]
    rows = [[c.tolist() for c in row] for row in ids]
    steps = make_steps(rows, trace.num_experts, weights=weights.reshape(-1))
    for slots in (6, 16, 48):
        hits = [0, 0]
        for layer in range(2):
            held, scores = set(), [0] * trace.num_experts
            for t, (cell, gained) in enumerate(zip(ids[:, layer].tolist(), weights[:, layer], strict=True)):
                # In units of (q / p)^700: whole numbers again.
                scale = parts[0] ** t * parts[1] ** (700 - t)
                for e, weight in zip(cell, gained, strict=True):
                    scores[e] += int(float(weight) * UNIT) * scale
                for e in cell:
                    if e in held:
                        hits[layer] += 1
                        continue
                    if len(held) == slots:
                        held.remove(min(held, key=lambda x: (scores[x], x)))
                    held.add(e)
        found = replay(steps, Residency("mrs", parameters={"alpha": alpha}), slots)
        assert found.hits.tolist() == hits


def test_without_weights_it_is_told():
    with pytest.raises(ConfigError, match="weights"):
        replay(make_steps([[[0]]], 2), Residency("mrs"), 1)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        replay(make_steps([[[0]]], 2, weights=[1]), Residency("mrs", parameters={"alpha": 1}), 1)


def test_first_token_of_a_step_alone():
    """As released: of eight tokens that decode together only the first one's weights count."""
    rng = np.random.default_rng(1)
    ids = np.argsort(rng.random((64, 2, 10)), axis=-1)[..., :3].astype(np.uint8)
    weights = rng.random(ids.shape).astype(np.float16)
    request = np.repeat(np.arange(8), 8).astype(np.int32)
    position = np.tile(np.arange(8), 8).astype(np.int32)
    trace = RoutingTrace(ids, request, 10, (0, 1), position, np.ones(64, np.int8), weights)
    alone = token_steps(trace)
    assert first_rows(alone, trace).weights.tolist() == alone.weights.tolist()
    steps = Continuous(8).form(trace)
    found = first_rows(steps, trace)
    for step in range(steps.num_steps):
        row = steps.rows[steps.step_tokens[:step].sum()]
        for layer in range(2):
            a, b = steps.starts[2 * step + layer : 2 * step + layer + 2]
            own = dict(zip(ids[row, layer].tolist(), weights[row, layer].tolist(), strict=True))
            assert found.weights[a:b].tolist() == [own.get(e, 0) for e in steps.experts[a:b].tolist()]
    for one in (steps, found):
        residency = Residency("mrs", lookup="token_batch")
        assert replay(one, residency, 6).hits.tolist() == exact(one, 6, batch=True)
