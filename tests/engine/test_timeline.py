"""Streams and overlap: closed forms of max-plus schedules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.timeline import Task, finish_times, makespan, two_batch_layers

seconds = st.floats(min_value=0.0, max_value=10.0)


@given(st.lists(seconds, min_size=1, max_size=8))
def test_one_stream_is_the_sum(times):
    tasks = [Task(str(i), "gpu", np.array([t])) for i, t in enumerate(times)]
    assert makespan(tasks)[0] == pytest.approx(sum(times))


@given(seconds, seconds, seconds, seconds, st.integers(1, 6))
def test_overlap_lies_between_the_busier_stream_and_the_sum(attention, dispatch, experts, combine, layers):
    blocks = [np.array([t]) for t in (attention, dispatch, experts, combine)]
    span = makespan(two_batch_layers(layers, *blocks))[0]
    compute, network = 2 * layers * (attention + experts), 2 * layers * (dispatch + combine)
    assert span >= max(compute, network) - 1e-9
    assert span <= compute + network + 1e-9


def test_equal_blocks_hide_all_but_the_ends():
    one = np.array([1.0])
    layers = 10
    # Both halves' attention and experts fill the compute stream; the last combine sticks out.
    span = makespan(two_batch_layers(layers, one, one, one, one))[0]
    assert span == pytest.approx(4 * layers + 1)


def test_batches_are_independent():
    both = finish_times([Task("a", "x", np.array([1.0, 5.0])), Task("b", "y", np.array([2.0, 2.0]), ("a",))])
    assert both["b"].tolist() == [3.0, 7.0]
