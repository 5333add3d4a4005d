"""The layers that are run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.calibrate.reference.design import ANCHORS, ids_of, is_anchor, loads, trials
from moesim.validate.reference.cases import frozen


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_routings_are_what_they_say(dtype):
    for trial in trials(dtype):
        shape, ids = trial.case.shape, trial.ids
        assert ids.shape == (trial.case.tokens, shape.top_k)
        assert np.bincount(ids.ravel(), minlength=shape.num_experts).tolist() == list(trial.counts)
        assert all(len(set(row)) == shape.top_k for row in ids.tolist())


def test_the_design_covers_what_layers_do():
    layers = trials("fp32")
    names = [trial.case.shape.name for trial in layers]
    assert len(set(names)) == len(names)
    assert sum(map(is_anchor, layers)) == len(ANCHORS)
    counts = {n for trial in layers for n in trial.counts}
    assert counts >= {1, 2, 3, 4, 5, 6, 8, 16, 64, 256, 512}
    assert {trial.case.tokens for trial in layers} >= {1, 2, 3, 1024}
    assert max(trial.case.shape.num_experts for trial in layers) >= 256
    assert all(trial.case.offloaded == 0.5 for trial in loads("fp32"))
    # A few seconds a round on one core.
    assert sum(trial.case.shape.flops(trial.case.tokens) for trial in layers) < 80e9


@given(st.data())
def test_any_counts_can_be_dealt(data):
    top_k, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 20))
    left, counts = top_k * tokens, []
    while left:
        counts.append(data.draw(st.integers(0 if len(counts) < 9 else min(left, tokens), min(left, tokens))))
        left -= counts[-1]
    ids = ids_of(tuple(counts), top_k)
    assert ids.shape == (tokens, top_k)
    assert np.bincount(ids.ravel(), minlength=len(counts)).tolist() == counts
    assert all(len(set(row)) == top_k for row in ids.tolist())


def test_no_layer_that_is_predicted_is_calibrated_on():
    frozen_sizes = {(case.shape.hidden, case.shape.width) for case in frozen("cpu")}
    designed = {(trial.case.shape.hidden, trial.case.shape.width) for trial in trials("fp32")}
    # Sizes are not printed: the design must not be drawn after what it is tested on.
    assert len(designed & frozen_sizes) == 0
