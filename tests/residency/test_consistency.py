"""Local routing consistency against its definitions, written out in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import load_trace
from moesim.errors import ConfigError
from moesim.residency.consistency import best, consistency, interval, samples_of
from moesim.trace import RoutingTrace


@st.composite
def traces(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tokens, layers = draw(st.integers(1, 30)), draw(st.integers(1, 3))
    experts = draw(st.integers(1, 7))
    k = draw(st.integers(1, min(3, experts)))
    ids = np.argsort(rng.random((tokens, layers, experts)), axis=-1)[..., :k].astype(np.uint8)
    if draw(st.booleans()):  # a popular expert, so that routing is not even
        ids[rng.random(tokens) < 0.5] = ids[0]
    request = np.sort(rng.integers(0, draw(st.integers(1, 3)), tokens)).astype(np.int32)
    zeros = np.zeros(tokens, np.int32)
    return RoutingTrace(ids, request, experts, tuple(range(layers)), zeros, np.ones(tokens, np.int8))


def pieces(trace, sample):
    found = []
    for request in dict.fromkeys(trace.request.tolist()):
        rows = trace.topk_ids[trace.request == request]
        found += [rows[i : i + sample].tolist() for i in range(0, len(rows), sample)]
    return found


def f1(windows, m, experts):
    """Best 2 m / (p + a) and its p / a, over thresholds: a window is a list of (layer, token experts)."""
    counts = [[sum(e in token for token in window) for window in windows] for e in experts]
    flat = [c for row in counts for c in row]
    a = sum(flat)
    score, ratio = -1.0, np.nan
    for t in range(m + 1):
        matched, predicted = sum(c for c in flat if c >= t), m * sum(c >= t for c in flat)
        value = 2 * matched / max(predicted + a, 1)
        if value > score:
            score, ratio = value, predicted / a if a else 0.0
    return (score, ratio, flat) if flat else (np.nan, np.nan, flat)


@settings(max_examples=60, deadline=None)
@given(trace=traces(), m=st.integers(1, 6), sample=st.integers(1, 20))
def test_segment_routing_by_the_definition(trace, m, sample):
    found = consistency(trace, lengths=(m,), sample=sample, draws=0, pool_samples=0)
    every, experts = [], range(trace.num_experts)
    for layer in range(len(trace.moe_layer_ids)):
        windows = [
            [token[layer] for token in piece[i : i + m]]
            for piece in pieces(trace, sample)
            for i in range(len(piece) - m + 1)
        ]
        score, ratio, flat = f1(windows, m, experts)
        every += flat
        assert found.srp.layers[layer, 0] == pytest.approx(score, nan_ok=True)
        assert found.cache_ratio.layers[layer, 0] == pytest.approx(ratio, nan_ok=True)
        for e in experts:
            assert found.srp_experts[layer, e, 0] == pytest.approx(f1(windows, m, [e])[0], nan_ok=True)
    values = [2 * sum(c for c in every if c >= t) / max(m * sum(c >= t for c in every) + sum(every), 1)
              for t in range(m + 1)]  # fmt: skip
    assert found.srp.model[0] == pytest.approx(max(values) if every else np.nan, nan_ok=True)


def cache(sample, capacity, name):
    """Hits of one cache on one sample, a list of tokens, each a list of objects."""
    kind, _, m = name.partition("-")
    held, seen, used, times = set(), set(), {}, {}
    flat = [x for token in sample for x in token]
    clock = hits = 0
    for t, token in enumerate(sample):
        for x in token:
            # A first time is a hit while there are free slots.
            hits += x in held or (x not in seen and len(seen) < capacity)
            seen.add(x)
        for x in token:
            if capacity and x not in held:
                if len(held) == capacity:
                    # Still to come in the window: the rest of this token, and tokens up to the m-th.
                    rest = flat[clock : (t + int(m or 0)) * len(token)]

                    def key(y, rest=rest, clock=clock):
                        if kind == "lru":
                            return used[y]
                        if kind == "lfu":
                            return (times[y], used[y])
                        if kind == "sch":
                            return (rest.count(y), used[y])
                        return -flat.index(y, clock) if y in flat[clock:] else -len(flat)

                    held.remove(min(held, key=key))
                held.add(x)
            used[x] = clock
            times[x] = times.get(x, 0) + 1
            clock += 1
    return hits


@settings(max_examples=40, deadline=None)
@given(trace=traces(), m=st.integers(1, 5), sample=st.integers(1, 20))
def test_hit_rates_by_caches_of_one_capacity(trace, m, sample):
    found = consistency(trace, lengths=(m,), sample=sample, draws=0, pool_samples=100)
    layers, experts = len(trace.moe_layer_ids), trace.num_experts
    parts = pieces(trace, sample)
    asked = trace.num_tokens * trace.top_k
    for name, rates in found.hit_rates.items():
        for c in range(experts + 1):
            for layer in range(layers):
                hits = sum(cache([token[layer] for token in piece], c, name) for piece in parts)
                assert rates.layers[layer, c] == pytest.approx(hits / asked), (name, c)
        for c in {0, 1, experts, layers * experts - 1, layers * experts}:
            joined = [[[(i, e) for i, cell in enumerate(t) for e in cell] for t in piece] for piece in parts]
            hits = sum(cache(piece, c, name) for piece in joined)
            assert rates.model[c] == pytest.approx(hits / asked / layers), (name, c)


@settings(max_examples=40, deadline=None)
@given(trace=traces())
def test_order_of_the_rules(trace):
    """More slots never hurt, none lacks anything with room for all, and one by one Belady's rule is best."""
    found = consistency(trace, lengths=(2, 4), sample=16, draws=0)
    for rates in found.hit_rates.values():
        for curve in (*rates.layers, rates.model):
            assert (np.diff(curve) >= -1e-12).all()
            assert curve[-1] == pytest.approx(1)
    if trace.top_k == 1:
        for name in ("sch-2", "sch-4", "lru", "lfu"):
            assert (found.hit_rates[name].layers <= found.hit_rates["belady"].layers + 1e-12).all()


def test_segment_cache_lies_between(shared):
    """On a real trace Belady's rule hits most at every size, and looking ahead more than looking back."""
    trace = load_trace(shared("traces/esft-deepseek-v2-lite/intent.npz"))
    found = consistency(trace, draws=0, pool_samples=0).hit_rates
    for name in ("lru", "lfu", *(f"sch-{m}" for m in (4, 16, 64, 256))):
        # Experts of a token are moved one after the other, which costs Belady's rule a hit now and then.
        assert (found[name].layers[:, 6:] <= found["belady"].layers[:, 6:] + 1e-4).all()
    # From twice the experts of a token on, as in the paper.
    for m in (4, 16, 64):
        assert (found[f"sch-{m}"].layers[:, 12:-1] >= found["lru"].layers[:, 12:-1]).all()


def test_sample_cuts_and_intervals():
    begin, end = samples_of(np.array([5, 5, 5, 5, 5, 2, 2], np.int32), 2)
    assert list(zip(begin.tolist(), end.tolist(), strict=True)) == [(0, 2), (2, 4), (4, 5), (5, 7)]
    drawn = np.arange(1000.0)[:, None] / 1000
    # 2 v - (the 975th and the 25th of 1000, from 0), as the published code takes them.
    assert interval(np.array([0.5]), drawn, 0.95)[:, 0].tolist() == pytest.approx([1 - 0.975, 1 - 0.025])
    assert np.isnan(best(np.zeros(3), 2)[0])


def test_intervals_hold_the_value_and_shrink_with_samples():
    rng = np.random.default_rng(0)

    def width(requests):
        tokens = requests * 40
        ids = np.argsort(rng.random((tokens, 1, 8)), axis=-1)[..., :2].astype(np.uint8)
        request = np.repeat(np.arange(requests), 40).astype(np.int32)
        zeros = np.zeros(tokens, np.int32)
        trace = RoutingTrace(ids, request, 8, (0,), zeros, np.ones(tokens, np.int8))
        found = consistency(trace, lengths=(4,), draws=300)
        low, high = found.srp.model_interval[:, 0]
        assert low < found.srp.model[0] < high
        low, high = found.hit_rates["lru"].layers_interval[:, 0, 4]
        assert low < found.hit_rates["lru"].layers[0, 4] < high
        return high - low

    # Sixteen times the samples: a quarter of the width.
    assert 2.5 < width(20) / width(320) < 6


def test_same_as_trace_statistics(shared):
    """`moesim.analysis` computes SRP of the model with loops of its own, over whole requests."""
    from moesim.analysis import statistics

    trace = load_trace(shared("traces/esft-deepseek-v2-lite/intent.npz"))
    own = consistency(trace, sample=10**6, draws=0, pool_samples=0)
    other = statistics(trace, families=("segments",)).to_dict()["overall"]
    for i, m in enumerate(own.lengths):
        if other["srp_model"][str(m)] is not None:
            assert own.srp.model[i] == pytest.approx(other["srp_model"][str(m)], rel=1e-12)
            assert own.srp.layers[:, i].mean() == pytest.approx(other["srp"][str(m)], rel=1e-12)


def test_bad_questions_are_told():
    trace = RoutingTrace(
        np.zeros((0, 1, 1), np.uint8),
        np.zeros(0, np.int32),
        2,
        (0,),
        np.zeros(0, np.int32),
        np.zeros(0, np.int8),
    )
    with pytest.raises(ConfigError) as failed:
        consistency(trace, lengths=(0, 4), sample=0, level=1)
    assert len(failed.value.faults) == 4
