"""Without copies ahead, the timed replay hits what the cache replay hits: each rule written twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.offload.pools import RULES
from moesim.policy import Residency
from moesim.residency import replay
from tests.offload.cases import Case, timed
from tests.residency.oracles import make_steps

PARAMETERS = {
    "lfu": [{}, {"keep": 1.0}],
    # A decay by a power of two: any other is rounded, and breaks ties, in the order it is computed in.
    "mrs": [{}, {"alpha": 0.75}],
    "p-freq": [{}, {"keep": 1.0}, {"truncate": 1.0}],
    "hobbit": [{}, {"lru": 0.7, "lfu": 0.1, "lhu": 0.1, "fld": 0.1}],
    "cost": [{}, {"frequency": 0.0}],
    "sch": [{"window": 2.0}, {"window": 4.0}],
    "lru-ahead": [{}, {"layers": 2.0}, {"loaded": 1.0}],
}


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
def test_hits_are_those_of_the_cache_replay(rule, data):
    layers, experts, steps = (
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(2, 6)),
        data.draw(st.integers(1, 12)),
    )
    cell = st.lists(st.integers(0, experts - 1), min_size=1, max_size=min(3, experts), unique=True)
    asked = [[data.draw(cell) for _ in range(layers)] for _ in range(steps)]
    pool = data.draw(st.sampled_from(("layer", "global")))
    batch = data.draw(st.booleans())
    pooled = pool == "global" and layers > 1
    # With a cell that does not fit, the timed replay stages what the cache lets through.
    least = 3 if batch else 1
    most = experts * (layers if pooled else 1)
    slots = data.draw(st.integers(min(least, most), most))
    request = sorted(data.draw(st.lists(st.integers(0, 2), min_size=steps, max_size=steps)))
    accesses = sum(len(c) for step in asked for c in step)
    # Sixteenths, so that sums of weights are exact and ties are ties on both sides.
    weights = data.draw(st.lists(st.integers(1, 16), min_size=accesses, max_size=accesses))
    weights = [w / 16 for w in weights]
    parameters = data.draw(st.sampled_from(PARAMETERS.get(rule, [{}])))
    reset = data.draw(st.booleans())
    case = Case(
        asked,
        experts,
        [slots] if pooled else [slots] * layers,
        request=request,
        rule=rule,
        batch=batch,
        reset=reset,
        weights=weights,
        parameters=parameters,
    )
    residency = Residency(
        rule,
        pool=pool,
        lookup="token_batch" if batch else "sequential",
        reset="request" if reset else "never",
        parameters=parameters,
    )
    steps_of = make_steps(asked, experts, request, weights)
    expected = replay(steps_of, residency, np.array(case.slots))
    found = timed(case)
    assert found.counts["hits"] == int(expected.hits.sum())
    assert found.counts["accesses"] == int(expected.accesses.sum())
    assert found.moved["to_device"] == 100.0 * (found.counts["accesses"] - found.counts["hits"])
