"""Batchers: every row once, in order within its request; unions and counts against plain loops."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moesim as ms
from moesim.errors import ConfigError
from moesim.policy import MIXED, token_steps
from moesim.policy.batchers import (
    Batches,
    Continuous,
    ExpertQueues,
    ModuleBatches,
    TokenByToken,
    UnionMinimising,
    ZigZag,
    gather,
)


def trace_of(lengths, *, prompts=None, layers=2, num_experts=6, top_k=2, seed=0, weights=True, mix=False):
    """Requests of given lengths with random routes; `mix` interleaves their rows."""
    rng = np.random.default_rng(seed)
    tokens = sum(lengths)
    ids = np.array(
        [[rng.permutation(num_experts)[:top_k] for _ in range(layers)] for _ in range(tokens)], np.uint8
    ).reshape(tokens, layers, top_k)
    request = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(n) for n in lengths]) if lengths else np.zeros(0)
    prompts = prompts or [0] * len(lengths)
    phase = np.concatenate([np.arange(n) >= p for n, p in zip(lengths, prompts, strict=True)])
    order = np.argsort(rng.random(tokens)) if mix else np.arange(tokens)
    # Rows of a request stay in order.
    place = np.empty(tokens, int)
    for r in range(len(lengths)):
        place[np.sort(np.flatnonzero(request[order] == r))] = np.flatnonzero(request == r)
    return ms.RoutingTrace(
        ids[place],
        request[place].astype(np.int32),
        num_experts,
        tuple(range(layers)),
        position[place].astype(np.int32),
        phase[place].astype(np.int8),
        rng.random(ids.shape).astype(np.float16) if weights else None,
    )


BATCHERS = (
    TokenByToken(),
    Batches(1),
    Batches(3),
    Batches(3, 2),
    ZigZag(2, 3),
    ModuleBatches(4, 2, 8),
    Continuous(1),
    Continuous(3),
    Continuous(3, 3),
    Continuous(3, 5),
    ExpertQueues(4),
    ExpertQueues(3, 2, 1),
    UnionMinimising(1),
    UnionMinimising(3),
    UnionMinimising(3, "swap"),
    UnionMinimising(2, "stored"),
)


@st.composite
def traces(draw):
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    prompts = [draw(st.integers(0, n)) for n in lengths]
    return trace_of(lengths, prompts=prompts, seed=draw(st.integers(0, 99)), mix=draw(st.booleans()))


def order_within(trace, rows):
    """Rows of each request, in the order in which they are taken."""
    taken = {}
    for row in rows:
        taken.setdefault(int(trace.request[row]), []).append(int(trace.position[row]))
    return taken


@pytest.mark.parametrize("batcher", BATCHERS, ids=lambda slot: type(slot).__name__)
@settings(max_examples=40)
@given(trace=traces(), gated=st.booleans())
def test_every_row_is_taken_once_and_every_selection_counted(batcher, trace, gated):
    kept = None
    if gated:
        kept = np.random.default_rng(1).random(trace.topk_ids.shape) < 0.6
    steps = batcher.form(trace, kept)
    assert sorted(steps.rows) == list(range(trace.num_tokens))
    assert steps.step_tokens.sum() == trace.num_tokens
    assert (steps.step_tokens > 0).all()
    assert len(steps.starts) == steps.num_steps * steps.layers + 1
    assert all(places == sorted(places) for places in order_within(trace, steps.rows).values())
    bounds = np.concatenate(([0], np.cumsum(steps.step_tokens)))
    for step in range(steps.num_steps):
        rows = steps.rows[bounds[step] : bounds[step + 1]]
        requests = set(trace.request[rows].tolist())
        assert steps.request[step] == (requests.pop() if len(requests) == 1 else MIXED)
        assert steps.phase[step] == trace.phase[rows].min()
        assert steps.context[step] == pytest.approx(trace.position[rows].mean() + 1)
        # A decoded token is not there before the one before it is through.
        decoded = Counter(trace.request[rows][trace.phase[rows] == 1].tolist())
        assert not decoded or max(decoded.values()) == 1
        for layer in range(steps.layers):
            cell = slice(*steps.starts[step * steps.layers + layer :][:2])
            wanted, summed = Counter(), Counter()
            for row, j in itertools.product(rows, range(trace.top_k)):
                if kept is None or kept[row, layer, j]:
                    wanted[int(trace.topk_ids[row, layer, j])] += 1
                    summed[int(trace.topk_ids[row, layer, j])] += float(trace.topk_weights[row, layer, j])
            experts = steps.experts[cell].tolist()
            assert len(set(experts)) == len(experts)
            assert dict(zip(experts, steps.tokens[cell].tolist(), strict=True)) == wanted
            for expert, weight in zip(experts, steps.weights[cell], strict=True):
                assert weight == pytest.approx(summed[expert], rel=1e-5)


@given(trace=traces())
def test_steps_of_one_row_are_those_of_one_token(trace):
    ours = gather(trace, np.arange(trace.num_tokens), np.arange(trace.num_tokens + 1))
    theirs = token_steps(trace)
    for name in (
        "experts",
        "tokens",
        "weights",
        "starts",
        "request",
        "phase",
        "step_tokens",
        "context",
        "rows",
    ):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


def test_a_trace_without_rows_has_no_steps():
    trace = trace_of([3])
    empty = ms.RoutingTrace(
        trace.topk_ids[:0], trace.request[:0], 6, (0, 1), trace.position[:0], trace.phase[:0]
    )
    for batcher in BATCHERS:
        steps = batcher.form(empty)
        assert steps.num_steps == steps.accesses == 0
        assert steps.starts.tolist() == [0]


def sizes(batcher, trace):
    return batcher.form(trace).step_tokens.tolist()


def test_batches_prefill_in_chunks_then_decode_in_lock_step():
    trace = trace_of([5, 3, 4], prompts=[3, 1, 4])
    assert sizes(Batches(1), trace) == [3, 1, 1, 1, 1, 1, 4]
    assert sizes(Batches(3), trace) == [3, 1, 4, 2, 2]
    assert sizes(Batches(3, 2), trace) == [2, 1, 1, 2, 2, 2, 2]
    assert sizes(ZigZag(1, 3), trace) == sizes(Batches(3), trace)
    assert sizes(ModuleBatches(3, 1), trace) == sizes(Batches(3), trace)
    assert ModuleBatches(7, 2).attention_batches == 4


def test_continuous_batching_fills_places_and_the_budget():
    trace = trace_of([5, 3, 4], prompts=[3, 1, 0])
    # Two at once: 3+1 prompt tokens, then 2 decode; request 1 ends after two, and request 2 takes its place.
    assert sizes(Continuous(2), trace) == [4, 2, 2, 1, 1, 1, 1]
    # Three tokens per step: the prompt of request 0 first, that of request 1 beside its decoding.
    assert sizes(Continuous(2, 3), trace) == [3, 2, 2, 2, 1, 1, 1]


def test_a_batch_loads_less_than_its_tokens_one_by_one():
    trace = trace_of([40] * 8, layers=3, num_experts=8)
    assert Batches(8).form(trace).accesses < Batches(2).form(trace).accesses < trace.topk_ids.size


def test_queues_bring_tokens_of_one_expert_together():
    ids = np.array([0, 1, 0, 2, 1, 0], np.uint8).reshape(6, 1, 1)
    zeros = np.zeros(6, np.int32)
    trace = ms.RoutingTrace(ids, np.arange(6, dtype=np.int32), 3, (0,), zeros, np.ones(6, np.int8))
    steps = ExpertQueues(3).form(trace)
    assert steps.rows.tolist() == [0, 2, 5, 1, 4, 3]
    assert steps.experts.tolist() == [0, 1, 2]
    stored = Batches(3).form(trace)
    assert steps.accesses < stored.accesses


def unions(trace, rows):
    return sum(
        len({int(e) for row in rows for e in trace.topk_ids[row, layer]})
        for layer in range(trace.topk_ids.shape[1])
    )


@given(seed=st.integers(0, 200))
@settings(max_examples=60)
def test_exchanges_come_close_to_the_least_sum_of_unions(seed):
    trace = trace_of([1] * 8, layers=3, seed=seed)
    least = min(
        unions(trace, half) + unions(trace, [t for t in range(8) if t not in half])
        for half in itertools.combinations(range(8), 4)
    )
    found = {m: UnionMinimising(4, m).form(trace).accesses for m in ("stored", "k-means", "swap")}
    assert least <= found["swap"] <= min(found["stored"], found["k-means"])
    assert found["swap"] <= least + 3


def test_two_kinds_of_tokens_are_told_apart():
    near = np.array([0, 1], np.uint8)
    ids = np.stack([near + 2 * (t % 2) for t in range(10)])[:, None, :]
    zeros = np.zeros(10, np.int32)
    trace = ms.RoutingTrace(ids, np.arange(10, dtype=np.int32), 4, (0,), zeros, np.ones(10, np.int8))
    assert UnionMinimising(5, "stored").form(trace).accesses == 8
    for method in ("k-means", "swap"):
        assert UnionMinimising(5, method).form(trace).accesses == 4


def test_numbers_out_of_range_are_told_together():
    with pytest.raises(ConfigError) as caught:
        ModuleBatches(0, 0, -1, -1)
    assert len(caught.value.faults) == 4
    for wrong in (
        lambda: Batches(0),
        lambda: ZigZag(1, 0),
        lambda: Continuous(4, 3),
        lambda: ExpertQueues(0),
        lambda: UnionMinimising(0),
        lambda: UnionMinimising(1, "means"),
        lambda: ExpertQueues(1, 0, 7).form(trace_of([2])),
    ):
        with pytest.raises(ConfigError):
            wrong()
