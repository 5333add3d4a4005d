"""Histograms of the rank that tables time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.calibrate.histograms import rank_tokens


def test_balanced_by_hand():
    assert rank_tokens("balanced", 4, 8, 2, 1).tolist() == [[1.0] * 8]
    assert rank_tokens("balanced", 1, 256, 8, 1).sum() == 8
    assert rank_tokens("balanced", 1024, 256, 8, 64).tolist() == [[32.0] * 4]


@given(
    st.integers(1, 3000),
    st.sampled_from([(8, 2), (32, 4), (128, 8), (256, 8), (16, 1)]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["power_law_1.01", "power_law_1.2"]),
)
def test_power_laws_keep_the_pairs_and_time_the_busiest_rank(tokens, model, ranks, distribution):
    experts, top_k = model
    counts = rank_tokens(distribution, tokens, experts, top_k, ranks)
    assert counts.shape[1] == experts // ranks
    assert ((counts >= 0) & (counts <= tokens)).all()
    pairs = tokens * top_k
    mean = pairs / ranks
    # Rounding of single experts may lose a few pairs, never the busiest rank's share.
    assert (counts.sum(axis=1) >= mean - experts).all()
    if ranks == 1:
        assert counts.sum(axis=1) == pytest.approx(pairs, abs=experts)


def test_the_same_question_has_the_same_draws():
    first = rank_tokens("power_law_1.2", 512, 256, 8, 8)
    rank_tokens.cache_clear()
    assert np.array_equal(first, rank_tokens("power_law_1.2", 512, 256, 8, 8))
