"""Statistics against plain numpy, on small random traces, on constructed ones, and on recorded ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import stats_oracle as oracle
from stats_traces import make, random_trace

from moesim.analysis import statistics
from moesim.analysis.sampled import look_ahead
from moesim.trace import load_trace

NEAR = pytest.approx


def close(value, expected):
    if expected is None:
        assert value is None
    else:
        assert value == NEAR(expected, rel=0, abs=1e-9)


def check(trace, found, layers, slow_layers=()):
    """Compare the rows of some layers with the oracle."""
    k, e, request = trace.top_k, trace.num_experts, trace.request
    for i in layers:
        x, row = trace.topk_ids[:, i], found.layers[i]
        who = oracle.chosen(x, e)
        load = who.sum(0)
        for name, value in oracle.load_statistics(load).items():
            close(row[name], value)
        q = load / len(x)
        close(row["random_pair_overlap"], (q**2).sum() / k)
        close(row["consecutive_overlap"], oracle.lag_overlap(who, request, 1, k))
        for lag in (2, 4, 16, 64):
            close(row["lag_overlap"][str(lag)], oracle.lag_overlap(who, request, lag, k))
        for size in (8, 32, 128):
            close(row["distinct_fraction_request"][str(size)], oracle.distinct(who, request, size))
            close(row["distinct_fraction"][str(size)], oracle.distinct(who, np.zeros_like(request), size))
            close(row["distinct_fraction_mixed"][str(size)], (1 - (1 - q) ** size).mean())
            close(row["distinct_fraction_uniform"][str(size)], 1 - (1 - k / e) ** size)
        close(row["next_token_cover"], oracle.cover(oracle.next_token(who, request)))
        close(row["top10_pair_share"], oracle.pair_share(who))
        for m in (4, 16, 64, 256):
            counts = oracle.windows(who, request, m)
            score, size = oracle.srp(counts, m)
            close(row["srp"][str(m)], score)
            close(row["srp_cache_ratio"][str(m)], size)
            close(row["segment_cover_k"][str(m)], oracle.segment_cover(counts, k))
            close(row["segment_cover_2k"][str(m)], oracle.segment_cover(counts, 2 * k))
        if i + 1 < len(found.layers):
            after = oracle.chosen(trace.topk_ids[:, i + 1], e)
            entropy, mutual, cover = oracle.next_layer(who, after)
            close(row["next_layer_entropy"], entropy)
            close(row["next_layer_information_bits"], mutual)
            close(row["next_layer_cover"], cover)
            if (request % 2).sum() <= 16384:
                for take, name in ((k, "recall_k"), (2 * k, "recall_2k")):
                    hit, popular = oracle.recall(who, after, request, k, take)
                    close(row[name], hit)
                    close(row["popularity_recall_k"], popular)
    for i in slow_layers:
        for fraction, text in ((0.25, "0.25"), (0.5, "0.5")):
            size = max(1, round(fraction * e))
            close(found.layers[i]["lru_hit_ratio"][text], oracle.lru(trace.topk_ids[:, i], size))


@pytest.mark.parametrize(("experts", "k", "lengths"), [(8, 2, (40, 3, 1, 300)), (13, 3, (70, 30, 5, 9, 9))])
def test_random_traces(experts, k, lengths):
    trace = random_trace(3, layers=3, experts=experts, k=k, lengths=lengths)
    check(trace, statistics(trace), range(3), range(3))


@pytest.mark.parametrize("name", ["intent", "summary"])
def test_esft(shared, name):
    trace = some_layers(load_trace(shared(f"traces/esft-deepseek-v2-lite/{name}.npz")), (0, 1, 12, 25))
    check(trace, statistics(trace), range(4), (0, 3))


def test_gpt_oss(shared):
    trace = some_layers(load_trace(shared("traces/gpt-oss-20b/decode.npz")), (11, 12))
    check(trace, statistics(trace), (0,), (0,))


def some_layers(trace, layers):
    return replace(trace, topk_ids=trace.topk_ids[:, layers], moe_layer_ids=tuple(range(len(layers))))


@pytest.mark.parametrize("m", [1, 3, 8])
def test_segment_cache_of_every_size(m):
    rng = np.random.default_rng(m)
    experts, tokens, k = 7, 40, 2
    x = rng.random((tokens, experts)).argsort(1)[:, :k].astype(np.int32)
    x[10:20] = x[10]
    hits = np.zeros(experts, np.int64)
    look_ahead(x, experts, m, hits)
    assert hits.cumsum().tolist() == [oracle.segment_cache(x, m, size) for size in range(1, experts + 1)]


def test_segment_caches_of_a_trace():
    trace = random_trace(5, layers=2, experts=9, k=2, lengths=(30, 25, 8))
    found = statistics(trace, families=("sample", "coupling"))
    begins = (0, 30, 55, 63)
    for layer in range(2):
        for m in (4, 16, 64, 256):
            hits = sum(oracle.segment_cache(trace.topk_ids[a:b, layer], m, 4) for a, b in pairwise(begins))
            close(found.layers[layer]["sch_2k"][str(m)], hits / (63 * 2))
    pooled = np.concatenate([trace.topk_ids[:, 0].astype(int), trace.topk_ids[:, 1] + 9], 1)
    hits = sum(oracle.segment_cache(pooled[a:b], 4, 8) for a, b in pairwise(begins))
    close(found.overall["sch_2k_pool"]["4"], hits / (63 * 4))


def test_one_expert_always():
    row = statistics(make(np.zeros((50, 2, 1), int), np.zeros(50), 8)).layers[0]
    assert row["max_over_mean"] == NEAR(8)
    assert row["entropy_normalised"] == NEAR(0)
    assert row["gini"] == NEAR(1 - 1 / 8)
    assert row["consecutive_overlap"] == row["random_pair_overlap"] == NEAR(1)
    assert row["distinct_fraction"]["8"] == NEAR(1 / 8)
    assert row["srp"]["4"] == NEAR(1)
    assert row["lru_hit_ratio"]["0.25"] == NEAR(49 / 50)
    assert row["next_layer_information_bits"] == NEAR(0)


def test_experts_in_turn():
    """Token t takes expert t mod E: uniform load, no repeats within E, and a next layer that is certain."""
    e, n = 16, 160
    turn = np.arange(n) % e
    trace = make(np.stack([turn, (turn + 5) % e], 1)[..., None], np.zeros(n), e)
    overall, row = statistics(trace, ep=(4,)).overall, statistics(trace, ep=(4,)).layers[0]
    assert row["max_over_mean"] == row["entropy_normalised"] == row["rank_max_over_mean"]["4"] == NEAR(1)
    assert row["gini"] == row["sigma_log_load"] == NEAR(0)
    assert row["consecutive_overlap"] == 0
    assert row["lag_overlap"] == {"2": 0.0, "4": 0.0, "16": 1.0, "64": 1.0}
    assert row["distinct_fraction"] == {"8": 0.5, "32": 1.0, "128": 1.0}
    assert row["next_layer_information_bits"] == NEAR(np.log2(e))
    assert row["next_layer_entropy"] == NEAR(0)
    assert row["next_layer_cover"] == row["next_token_cover"] == NEAR(1)
    assert overall["lru_hit_ratio"] == {"0.25": 0.0, "0.5": 0.0}


def test_uniform_independent_choices():
    """Against expectations for uniform, independent tokens, within a few standard errors."""
    trace = random_trace(0, layers=2, experts=32, k=4, lengths=(4000, 4000))
    overall = statistics(trace).overall
    assert overall["consecutive_overlap"] == NEAR(4 / 32, abs=0.004)
    assert overall["lag_overlap"]["64"] == NEAR(4 / 32, abs=0.004)
    assert overall["max_over_mean"] < 1.15
    assert overall["next_layer_entropy"] == NEAR(1, abs=0.002)
    assert overall["distinct_fraction"]["32"] == NEAR(1 - (1 - 4 / 32) ** 32, abs=0.003)
    # The j-th expert of a token is none of the j before it, which head the cache.
    assert overall["lru_hit_ratio"]["0.5"] == NEAR(
        np.mean([(16 - j) / (32 - j) for j in range(4)]), abs=0.005
    )
    assert overall["recall_k"] == NEAR(4 / 32, abs=0.01)
    assert overall["drift"] == NEAR(overall["drift_noise"], rel=0.15)
