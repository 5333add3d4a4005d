"""On real routing every predictor knows more than chance, and what sees more of the path knows more."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.policy import split, taken, token_steps
from moesim.policy.predictors import (
    ActivationMatrices,
    ExpertMaps,
    Markov,
    NextToken,
    Popular,
    RecentScores,
    quality,
)
from moesim.trace import load_trace


@pytest.fixture(scope="module")
def recalls(shared):
    """Recall of the best top-k guesses, the next layer's but for the next token's, on held-out requests."""
    trace = load_trace(shared("traces/gpt-oss-20b/decode.npz"))
    train, rest = split(trace, 0.5, 0)
    train = taken(train, slice(20_000))
    numbers = np.random.default_rng(0).permutation(np.unique(rest.request))[:6]
    steps = token_steps(taken(rest, np.isin(rest.request, numbers)))
    k = trace.top_k
    predictors = {
        "popular": Popular(k),
        "markov": Markov(k),
        "two layers": Markov(k, order=2),
        "next token": NextToken(k),
        "matrices, paper": ActivationMatrices(k, variant="paper"),
        "matrices, code": ActivationMatrices(k, variant="code"),
        "maps": ExpertMaps(trace.num_experts),
        "recent": RecentScores(k),
    }
    return {name: quality(p.fit(train).guess(steps), steps, k)[0].recall for name, p in predictors.items()}


@pytest.mark.filterwarnings("ignore")
def test_all_know_more_than_chance(recalls):
    chance = 4 / 32
    assert min(recalls.values()) > 1.3 * chance
    assert max(recalls.values()) < 0.9


@pytest.mark.filterwarnings("ignore")
def test_who_sees_more_knows_more(recalls):
    assert recalls["two layers"] > recalls["markov"] > recalls["popular"]
    assert recalls["maps"] > recalls["matrices, paper"]
    # This step's own layers say more about the next than what the request counted before.
    assert recalls["matrices, paper"] > recalls["matrices, code"] > recalls["popular"]
    assert recalls["next token"] > recalls["popular"]
    assert recalls["recent"] > recalls["popular"]
