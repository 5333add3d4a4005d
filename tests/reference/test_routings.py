"""Laws of routing: closed forms, and invariants of every draw."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.reference.layer import Case, LayerShape
from moesim.reference.routings import Recorded, route


def case(routing, tokens=64, experts=16, top_k=4, **more):
    return Case(LayerShape("x", experts, top_k, 64, 64), tokens, routing, **more)


@given(
    st.sampled_from(["uniform", "zipf:0.8", "zipf:3", "one-hot", "ragged"]),
    st.integers(1, 40),
    st.integers(0, 60),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_rows_are_distinct_experts(routing, tokens, more, top_k, seed):
    experts = top_k + more
    ids = route(case(routing, tokens, experts, top_k, seed=seed))
    assert ids.shape == (tokens, top_k)
    assert ids.dtype == np.int32
    assert ids.min() >= 0
    assert ids.max() < experts
    assert all(len(set(row)) == top_k for row in ids.tolist())
    assert np.array_equal(ids, route(case(routing, tokens, experts, top_k, seed=seed, dtype="bf16")))


def test_uniform_is_even():
    counts = np.bincount(route(case("uniform", 40_000)).ravel(), minlength=16)
    # Binomial with p = 1/4: five standard deviations.
    assert np.all(np.abs(counts - 10_000) < 5 * np.sqrt(40_000 * 0.25 * 0.75))


def test_zipf_first_choice_follows_the_law():
    tokens, experts, exponent = 60_000, 8, 1.5
    first = np.bincount(route(case(f"zipf:{exponent}", tokens, experts, 2))[:, 0], minlength=experts)
    law = np.arange(1, experts + 1) ** -exponent
    expected = tokens * law / law.sum()
    assert np.all(np.abs(np.sort(first)[::-1] - expected) < 5 * np.sqrt(expected))


def test_zipf_second_choice_is_without_replacement():
    tokens, exponent = 60_000, 1.0
    ids = route(case(f"zipf:{exponent}", tokens, 4, 2))
    p = np.arange(1, 5) ** -exponent
    p /= p.sum()
    order = np.argsort(-np.bincount(ids[:, 0], minlength=4))
    seen = np.zeros((4, 4))
    np.add.at(seen, (ids[:, 0], ids[:, 1]), 1)
    seen = seen[np.ix_(order, order)]
    expected = tokens * p[:, None] * p[None, :] / (1 - p[:, None])
    np.fill_diagonal(expected, 0)
    assert np.all(np.abs(seen - expected) <= 5 * np.sqrt(expected))


def test_ragged_leaves_experts_idle_and_one_hot_all_but_k():
    counts = np.bincount(route(case("ragged", 5_000, 64, 4)).ravel(), minlength=64)
    assert (counts == 0).sum() >= 16
    assert counts.max() > 8 * np.median(counts[counts > 0])
    assert np.count_nonzero(np.bincount(route(case("one-hot", 50)).ravel())) == 4


def test_draws_differ_and_share_what_is_popular():
    one, other = (route(case("zipf:1.5", 2_000), draw=draw) for draw in (0, 1))
    assert not np.array_equal(one, other)
    assert np.bincount(one.ravel()).argmax() == np.bincount(other.ravel()).argmax()
    assert route(case("zipf:1.5"), tokens=7, draw=1).shape == (7, 4)


def recorded(tokens=100, layers=3, experts=16, top_k=4):
    # Every value says which row and layer it comes from.
    ids = (np.arange(tokens)[:, None, None] + 5 * np.arange(layers)[:, None] + np.arange(top_k)) % experts
    return {"m": Recorded("m", ids.astype(np.uint8), experts, "made here", False)}


def test_trace_gives_consecutive_rows_and_those_before():
    made = recorded()
    ids = route(case("trace:m", 20), made)
    assert np.all(np.diff(ids[:, 0]) % 16 == 1)
    before = route(case("trace:m", 20), made, tokens=6, draw=1)
    assert (before[-1] + 1).tolist()[0] % 16 == ids[0, 0]
    # More tokens than were recorded: round the end.
    assert route(case("trace:m", 250), made).shape == (250, 4)


@pytest.mark.parametrize("routing", ["", "zipf", "zipf:-1", "zipf:nan", "uniform:2", "unifrom"])
def test_unknown_laws_are_refused(routing):
    with pytest.raises(ConfigError, match="is no routing"):
        route(case(routing))


def test_recordings_must_fit():
    with pytest.raises(ConfigError, match="no recording"):
        route(case("trace:m"))
    with pytest.raises(ConfigError) as caught:
        route(case("trace:m", experts=8, top_k=2), recorded())
    assert len(caught.value.faults) == 2
