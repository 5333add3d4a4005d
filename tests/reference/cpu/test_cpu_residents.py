"""Which experts are copied: a fixed set, or what a cache with a policy has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim.reference import exact
from moesim.reference.cpu import Cached, CpuRunner, fixed
from moesim.reference.layer import Case, LayerShape
from moesim.reference.placed import placed_case
from moesim.reference.routings import route

SHAPE = LayerShape("small", 16, 2, 32, 16)


@pytest.mark.parametrize("offloaded", [0.0, 0.25, 1.0])
def test_fixed_set(offloaded):
    case = Case(SHAPE, 40, offloaded=offloaded)
    plans = [fixed(case, route(replace(case, seed=0), draw=draw)) for draw in (0, 1)]
    missing = [set(plan.runs[plan.loaded].tolist()) for plan in plans]
    present = [set(plan.runs[~plan.loaded].tolist()) for plan in plans]
    assert len(missing[0] | missing[1]) <= 16 * offloaded
    assert not (missing[0] | missing[1]) & (present[0] | present[1])


@pytest.mark.parametrize("rule", ["lru", "on-demand", "static"])
def test_cached_as_the_policy_decides(rule):
    case = Case(SHAPE, 6, "zipf:1.0", offloaded=0.5)
    ids, before = route(case), route(case, draw=1, tokens=120)
    inputs = exact.inputs(case)
    decided = placed_case(case, ids, before=before, rule=rule)
    outputs = []
    for residents in (Cached(rule), fixed):
        with CpuRunner(memory_bytes=2**20, residents=residents) as runner:
            prepared = runner.prepare(case, ids, inputs, before)
            timing = prepared.run()
            outputs.append(prepared.output().tobytes())
            assert sorted(prepared.plan.runs) == np.unique(ids).tolist()
            if residents is not fixed:
                assert prepared.loads == timing.loaded.sum() == decided.loads
                # What is resident is not copied, what is not is.
                np.testing.assert_array_equal(timing.loaded, (decided.resident < 0) & (prepared.counts > 0))
    assert outputs[0] == outputs[1]


def test_cache_that_holds_all_needs_no_policy():
    case = Case(SHAPE, 6, offloaded=0.01)
    plan = Cached("no such rule")(case, route(case))
    assert plan.loads == 0
