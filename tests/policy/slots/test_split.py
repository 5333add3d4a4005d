"""What is learnt from is never what is replayed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.policy import overlap, require_disjoint, split
from moesim.trace import load_trace


def rows_of(trace):
    return [(int(r), int(p), ids.tobytes()) for r, p, ids in
            zip(trace.request, trace.position, trace.topk_ids, strict=True)]  # fmt: skip


@given(seed=st.integers(0, 2**32), fraction=st.floats(0.05, 0.95))
@settings(max_examples=25)
def test_a_split_is_a_partition_by_request(seed, fraction, random_trace):
    trace = random_trace(seed, tokens=120, requests=10)
    first, rest = split(trace, fraction, seed=seed % 7)
    assert sorted(rows_of(first) + rows_of(rest)) == sorted(rows_of(trace))
    assert not set(first.request.tolist()) & set(rest.request.tolist())
    assert first.num_tokens
    assert rest.num_tokens
    assert overlap(first, rest).leaked == ()
    assert first.metadata["part"] != rest.metadata["part"]
    again = split(trace, fraction, seed=seed % 7)
    assert rows_of(again[0]) == rows_of(first)


def test_another_seed_is_another_split(random_trace):
    trace = random_trace(0, tokens=120, requests=10)
    assert len({tuple(np.unique(split(trace, 0.5, s)[0].request)) for s in range(5)}) > 1


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25)
def test_the_same_requests_are_found_whatever_their_numbers(seed, random_trace):
    trace = random_trace(seed, tokens=120, requests=6)
    renamed = replace(trace, request=trace.request + 1000, source="another file")
    found = overlap(renamed, trace)
    assert len(found.leaked) == found.requests == len(np.unique(trace.request))
    assert found.shared == 1.0
    with pytest.raises(ConfigError, match="would know the answers"):
        require_disjoint(renamed, trace)


def test_one_leaked_request_among_many_is_found(random_trace):
    first, rest = split(random_trace(1, tokens=200, requests=8), 0.5)
    guilty = np.unique(rest.request)[1]
    rows = rest.request == guilty
    leaky = replace(
        first,
        topk_ids=np.concatenate([first.topk_ids, rest.topk_ids[rows]]),
        request=np.r_[first.request, rest.request[rows] * 0 + 500].astype(np.int32),
        position=np.r_[first.position, rest.position[rows]].astype(np.int32),
        phase=np.ones(first.num_tokens + int(rows.sum()), np.int8),
        topk_weights=None,
    )
    assert overlap(leaky, rest).leaked == (guilty,)
    with pytest.raises(ConfigError, match=rf"1 of the .* replayed \({guilty}\)"):
        require_disjoint(leaky, rest)


def test_a_request_cut_short_is_still_the_request(random_trace):
    trace = random_trace(2, tokens=100, requests=1)
    names = ("topk_ids", "request", "position", "phase")
    cut = replace(trace, **{n: getattr(trace, n)[20:90] for n in names}, topk_weights=None)
    assert overlap(trace, cut).leaked == (0,)


def test_a_shared_prompt_is_no_leak(random_trace):
    # Two requests of 60 tokens start with the same 20.
    one, two = random_trace(3, tokens=60, requests=1), random_trace(4, tokens=60, requests=1)
    ids = two.topk_ids.copy()
    ids[:20] = one.topk_ids[:20]
    found = overlap(one, replace(two, topk_ids=ids))
    assert found.leaked == ()
    assert found.shared == pytest.approx(13 / 53)  # runs of 8 that lie within the prompt


def with_prompt(random_trace, requests, prompt=100, own=12):
    """Requests that are a long common prompt and a short question each."""
    start = random_trace(50, tokens=prompt, requests=1).topk_ids
    parts = [np.concatenate([start, random_trace(60 + r, tokens=own, requests=1).topk_ids]) for r in requests]
    length = prompt + own
    return replace(
        random_trace(50, tokens=length * len(parts)),
        topk_ids=np.concatenate(parts),
        request=np.repeat(np.arange(len(parts), dtype=np.int32), length),
        position=np.tile(np.arange(length, dtype=np.int32), len(parts)),
        topk_weights=None,
    )


def test_a_prompt_of_nearly_all_the_request_is_no_leak_either(random_trace):
    trace = with_prompt(random_trace, range(10))
    first, rest = split(trace, 0.5)
    found = require_disjoint(first, rest)
    assert found.leaked == ()
    assert found.shared > 0.8
    assert len(overlap(trace, rest).leaked) == found.requests
    # One that is asked for again is found among those that share its prompt.
    assert overlap(first, with_prompt(random_trace, [first.request[0], 11])).leaked == (0,)


def test_a_request_that_is_there_twice_is_still_found(random_trace):
    trace = random_trace(8, tokens=60, requests=2)
    names = ("topk_ids", "request", "position", "phase")
    twice = {n: np.concatenate([getattr(trace, n), getattr(trace, n)]) for n in names}
    twice["request"][60:] += 10
    doubled = replace(trace, **twice, topk_weights=None)
    assert overlap(doubled, trace).leaked == (0, 1)
    assert len(overlap(trace, doubled).leaked) == 4


def test_the_order_of_slots_hides_nothing(random_trace):
    trace = random_trace(5, top_k=3)
    assert overlap(replace(trace, topk_ids=trace.topk_ids[..., ::-1]), trace).shared == 1.0


def test_interleaved_requests_are_followed_one_by_one(random_trace):
    trace = random_trace(6, tokens=80, requests=2)
    order = np.random.default_rng(0).permutation(80)
    order = np.sort(order.reshape(2, 40), axis=0).T.ravel()  # mixes rows, then puts each request in order
    order = order[np.argsort(trace.position[order], kind="stable")]
    mixed = replace(trace, **{n: getattr(trace, n)[order] for n in
                              ("topk_ids", "request", "position", "phase", "topk_weights")})  # fmt: skip
    assert overlap(mixed, trace).shared == 1.0


def test_repeated_requests_fall_into_one_part(random_trace):
    trace = random_trace(7, tokens=120, requests=6)
    twice = replace(
        trace,
        topk_ids=np.tile(trace.topk_ids, (2, 1, 1)),
        request=np.r_[trace.request, trace.request + 6].astype(np.int32),
        position=np.tile(trace.position, 2),
        phase=np.tile(trace.phase, 2),
        topk_weights=np.tile(trace.topk_weights, (2, 1, 1)),
    )
    for seed in range(5):
        require_disjoint(*split(twice, 0.5, seed))


def test_another_model_is_refused(random_trace):
    with pytest.raises(ConfigError, match="of another model"):
        require_disjoint(random_trace(0, layers=3), random_trace(1))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_bad_fractions_are_refused(fraction, random_trace):
    with pytest.raises(ConfigError):
        split(random_trace(0), fraction)


def test_a_single_request_cannot_be_split(random_trace):
    with pytest.raises(ConfigError, match="single request"):
        split(random_trace(0, requests=1))


@pytest.mark.parametrize("name", ["gpt-oss-20b/decode.npz", "esft-deepseek-v2-lite/intent.npz"])
@pytest.mark.filterwarnings("ignore")
def test_real_traces_split_without_a_leak(name, shared):
    trace = load_trace(shared(f"traces/{name}"))
    first, rest = split(trace, 0.5, 0)
    assert require_disjoint(first, rest).shared < 0.01
    assert len(overlap(trace, rest).leaked) == len(np.unique(rest.request))
