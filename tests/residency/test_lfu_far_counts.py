"""Kept counts that lie hundreds apart."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import make_steps
from reference import reference

from moesim.policy import Residency
from moesim.residency import replay


@pytest.mark.parametrize("lookup", ["sequential", "token_batch"])
@pytest.mark.parametrize("window", [0, 1])
def test_counts_hundreds_apart(lookup, window):
    rng = np.random.default_rng(0)
    rows = [[[0]]] * 150 + [[[1]]] * 90 + [[[2]]] * 40
    rows += [[rng.permutation(8)[: rng.integers(1, 4)].tolist()] for _ in range(60)]
    request = [0] * 300 + [1] * (len(rows) - 300)
    steps = make_steps(rows, 8, request)
    residency = Residency("lfu", lookup=lookup, parameters={"keep": 1, "window": window})
    for slots in (1, 2, 3, 5):
        assert replay(steps, residency, slots).hits.tolist() == reference(steps, residency, slots)[0].tolist()
