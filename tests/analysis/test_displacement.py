"""Who displaces whom, against a replay that removes requests one by one."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.analysis import displacement
from moesim.analysis.displacing import displace, queued
from moesim.errors import ConfigError
from moesim.trace import load_trace
from moesim.trace.types import RoutingTrace


def _kept(ids, line, capacity, experts, without=()):
    """Selections that find a place, by filling the buffers without some tokens."""
    filled, kept = [0] * experts, set()
    for at in line.tolist():
        token, choice = divmod(at, ids.shape[1])
        if token in without:
            continue
        expert = ids[token, choice]
        if filled[expert] < capacity:
            filled[expert] += 1
            kept.add(at)
    return kept


@given(st.data())
def test_counting_equals_removing_each_request(data):
    experts = data.draw(st.integers(2, 6))
    top_k = data.draw(st.integers(1, min(3, experts)))
    requests, tokens = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 3))
    capacity = data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    many = requests * tokens
    ids = np.stack([rng.choice(experts, top_k, replace=False) for _ in range(many)])
    owner = np.repeat(np.arange(requests), tokens)
    line = rng.permutation(queued(many, top_k, data.draw(st.booleans())))
    hit, hurt = np.zeros((requests, requests), bool), np.zeros(many, bool)
    totals = np.zeros(4, np.int64)
    displace(ids, owner, line, capacity, experts, hit, hurt, totals)

    kept = _kept(ids, line, capacity, experts)
    assert totals[0] == many * top_k - len(kept)
    alone = set()
    for r in range(requests):
        others = set(np.flatnonzero(owner != r).tolist())
        alone |= _kept(ids, line, capacity, experts, others)
    assert totals[1] == many * top_k - len(alone)
    assert {t for t in range(many) if hurt[t]} == {at // top_k for at in alone - kept}
    for s in range(requests):
        back = _kept(ids, line, capacity, experts, set(np.flatnonzero(owner == s).tolist())) - kept
        assert {owner[at // top_k] for at in back} == set(np.flatnonzero(hit[s]).tolist())


def _trace(ids, requests):
    n = len(ids)
    return RoutingTrace(
        ids.astype(np.uint8),
        np.repeat(np.arange(requests), n // requests).astype(np.int32),
        8,
        tuple(range(ids.shape[1])),
        np.tile(np.arange(n // requests), requests).astype(np.int32),
        np.ones(n, np.int8),
    )


def _random_trace(seed=0, requests=12, each=5, layers=3, top_k=2):
    rng = np.random.default_rng(seed)
    ids = np.stack(
        [[rng.choice(8, top_k, replace=False) for _ in range(layers)] for _ in range(requests * each)]
    )
    return _trace(ids, requests)


def test_with_room_for_all_nobody_is_displaced():
    found = displacement(_random_trace(), 8.0, 4)
    assert found.dropped == found.displaced_queries == found.influenced_pairs == 0
    assert found.batches == 3 * 5
    assert found.selections == found.batches * 4 * 3 * 2


def test_more_room_never_drops_more():
    dropped = [displacement(_random_trace(1), f, 6).dropped for f in (0.5, 1.0, 1.5, 2.0, 3.0)]
    assert dropped == sorted(dropped, reverse=True)
    assert dropped[0] > 0


def test_who_stands_last_suffers_and_a_random_order_spreads_it():
    trace = _random_trace(2, requests=40, each=6)
    arrival = displacement(trace, 1.0, 8)
    assert arrival.by_place[0] < arrival.by_place[-1]
    mixed = displacement(trace, 1.0, 8, order="random")
    assert np.ptp(mixed.by_place) < np.ptp(arrival.by_place)
    assert mixed.dropped == arrival.dropped


def test_heavy_selections_come_first():
    ids = np.zeros((4, 1, 1), np.uint8)
    trace = _trace(ids, 4)
    weights = np.array([0.1, 0.4, 0.2, 0.3], np.float16).reshape(4, 1, 1)
    from dataclasses import replace

    found = displacement(replace(trace, topk_weights=weights), 2.0, 4, order="weight")
    assert found.capacity == 1
    assert found.dropped == 3
    # The heaviest alone costs nobody's place but those behind the first: without it, the next is in.
    assert dict(found.by_request.tolist()) == {1: 1, 0: 0, 2: 0, 3: 0}


@pytest.mark.parametrize(
    "wrong", [{"capacity_factor": 0.0}, {"batch": 1}, {"batch": 99}, {"tokens": 0}, {"order": "weight"}]
)
def test_wrong_settings_are_named(wrong):
    settings = {"capacity_factor": 1.0, "batch": 4} | wrong
    with pytest.raises(ConfigError, match="--"):
        displacement(_random_trace(), **settings)


def test_the_command_prints_what_the_function_finds(moesim):
    path = "traces/gpt-oss-20b-synthetic.npz"
    code, out, _ = moesim("trace", "displace", path, "--batch", "4", "--max-batches", "20", "--json")
    assert code == 0
    row = json.loads(out)["rows"][0]
    found = displacement(load_trace(path), 1.0, 4, max_batches=20)
    assert row["displaced_query_fraction"] == found.displaced_fraction > 0
    code, out, _ = moesim("trace", "displace", path, "--batch", "4", "--max-batches", "5")
    assert code == 0
    assert "displaced queries" in out


def test_real_decoding_is_displaced_under_the_usual_capacity(shared):
    trace = load_trace(shared("traces/gpt-oss-20b/decode.npz"))
    tight, wide = (displacement(trace, f, 16, max_batches=30) for f in (1.25, 4.0))
    assert tight.displaced_fraction > 0.9
    assert wide.dropped < tight.dropped / 2
