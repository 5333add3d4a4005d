"""Resampling by session: what is kept, what is shared, what is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.requests import (
    load_requests,
    request_trace,
    resample_sessions,
    sessions_of,
    shifted,
    summarise_requests,
)


def conversations(many: int, seed: int = 0):
    """Requests of conversations whose prompts grow, behind a system prompt of one block; and who is whose."""
    rng = np.random.default_rng(seed)
    rows, name = [], 1
    for talk in range(many):
        now, tokens, blocks = float(rng.uniform(0, 1000)), 512 + int(rng.integers(600, 2000)), [0]
        for _ in range(int(rng.integers(1, 5))):
            answer = int(rng.integers(50, 600))
            full, whole = tokens // 512, -(-tokens // 512)
            while len(blocks) < full:
                blocks.append(name)
                name += 1
            # The last block is not full: its name is of this prompt alone.
            mine = blocks + ([name] if whole > full else [])
            name += whole > full
            rows.append((now, tokens, answer, talk, mine))
            tokens += answer + int(rng.integers(50, 900))
            now += float(rng.uniform(5, 100))
    rows.sort()
    ptr = np.r_[0, np.cumsum([len(r[4]) for r in rows])]
    trace = request_trace(
        [r[0] for r in rows],
        [r[1] for r in rows],
        [r[2] for r in rows],
        prefix_hashes=np.concatenate([r[4] for r in rows]),
        prefix_ptr=ptr,
        prefix_block_tokens=512,
    )
    return trace, np.array([r[3] for r in rows])


def test_sessions_are_found_from_prompts():
    trace, talk = conversations(200)
    found = sessions_of(trace)
    # The same partition under other numbers.
    pairs = np.unique(np.stack([found, talk]), axis=1).shape[1]
    assert pairs == len(np.unique(talk)) == len(np.unique(found))


def test_without_prompts_every_request_is_a_session():
    trace = request_trace([0.0, 1.0, 2.0], [5, 5, 5], [1, 1, 1])
    assert sessions_of(trace).tolist() == [0, 1, 2]


@given(st.integers(1, 700), st.integers(0, 5))
def test_copies_share_what_sessions_shared(requests, seed):
    trace, talk = conversations(40, seed=1)
    found = resample_sessions(trace, requests, seed=seed)
    assert len(found) == requests
    assert (np.diff(found.arrival_s) >= 0).all()
    known = {tuple(trace.hashes_of(i).tolist()): i for i in range(len(trace))}
    owners: dict[int, set[int]] = {}
    for i in range(requests):
        for name in found.hashes_of(i).tolist():
            owners.setdefault(name, set()).add(int(found.session[i]))
    shared = [name for name, who in owners.items() if len(who) > 1]
    # Only the system prompt is of several copies.
    assert len(shared) <= 1
    assert len(known) == len(trace)
    # Lengths and numbers of blocks come in the trace's own combinations.
    rows = {
        (int(a), int(b), len(trace.hashes_of(i)))
        for i, (a, b) in enumerate(zip(trace.input_tokens, trace.output_tokens, strict=True))
    }
    assert all(
        (int(found.input_tokens[i]), int(found.output_tokens[i]), len(found.hashes_of(i))) in rows
        for i in range(requests)
    )
    assert talk is not None


def test_reuse_within_a_copy_is_that_of_the_trace():
    trace, _ = conversations(300)
    found = resample_sessions(trace, 20_000, seed=2)
    before, after = (summarise_requests(t).prefix_reuse for t in (trace, found))
    assert after == pytest.approx(before, abs=0.02)


def test_sessions_keep_their_gaps():
    trace, talk = conversations(30)
    found = resample_sessions(trace, 500, seed=1)
    gaps = {round(float(g), 6) for one in np.unique(talk) for g in np.diff(trace.arrival_s[talk == one])}
    for copy in np.unique(found.session):
        for gap in np.diff(found.arrival_s[found.session == copy]):
            assert any(abs(gap - g) < 1e-5 for g in gaps)


@pytest.mark.parametrize("rate", [0.5, 3.0, 400.0])
def test_the_rate_is_the_one_asked_for(rate):
    trace = request_trace(np.sort(np.random.default_rng(0).uniform(0, 500, 400)), [9] * 400, [3] * 400)
    found = resample_sessions(trace, 8000, seed=0, rate_per_s=rate)
    assert len(found) / found.arrival_s[-1] == pytest.approx(rate, rel=0.02)


def test_seeds():
    trace, _ = conversations(50)
    a, b, c = (resample_sessions(trace, 300, seed=s) for s in (1, 1, 2))
    assert (a.arrival_s == b.arrival_s).all()
    assert (a.prefix_hashes == b.prefix_hashes).all()
    assert not np.array_equal(a.arrival_s, c.arrival_s)


def test_shifting_keeps_every_request():
    trace, _ = conversations(50)
    found = shifted(trace, seed=3)
    assert sorted(found.input_tokens) == sorted(trace.input_tokens)
    assert (np.diff(found.arrival_s) >= 0).all()
    assert found.arrival_s[0] == 0


@pytest.mark.parametrize(("requests", "rate"), [(0, 1.0), (5, 0.0), (5, float("nan")), (10**9, 1.0)])
def test_what_cannot_be_drawn_is_refused(requests, rate):
    trace = request_trace([0.0], [5], [1])
    with pytest.raises(ConfigError):
        resample_sessions(trace, requests, rate_per_s=rate)


def test_a_queue_stays_a_queue():
    trace = request_trace([0.0, 0.0], [5, 6], [1, 2], concurrency=2)
    found = resample_sessions(trace, 100)
    assert (found.arrival_s == 0).all()
    assert found.concurrency == 2


def test_mooncakes_reuse_survives(shared):
    trace = load_requests(shared("arrivals/mooncake/conversation_trace.jsonl"))
    found = resample_sessions(trace, 24_000, seed=1, rate_per_s=10.0)
    before, after = (summarise_requests(t).prefix_reuse for t in (trace, found))
    assert after == pytest.approx(before, abs=0.05)
