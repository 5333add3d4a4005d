"""The repeated pattern against the engine's timeline and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.timeline import Task, finish_times
from moesim.errors import ConfigError
from moesim.offload.timeline import Pattern, stream_layers


@given(st.data())
def test_ends_are_those_of_named_tasks(data):
    operations, steps = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    resource = np.array(data.draw(st.lists(st.integers(0, 3), min_size=operations, max_size=operations)))
    needs = st.lists(st.integers(0, 2 * operations), min_size=2, max_size=2)
    back = np.array(data.draw(st.lists(needs, min_size=operations, max_size=operations)))
    some = st.lists(st.floats(0, 10), min_size=operations, max_size=operations)
    seconds = np.array(data.draw(st.lists(some, min_size=steps, max_size=steps)))
    tasks = []
    for i, spent in enumerate(seconds.ravel()):
        k = i % operations
        after = tuple(str(i - d) for d in back[k] if 0 < d <= i)
        tasks.append(Task(str(i), str(resource[k]), np.array([spent]), after))
    done = finish_times(tasks)
    expected = [
        max(float(done[str(i)][0]) for i in range(s * operations, (s + 1) * operations)) for s in range(steps)
    ]
    np.testing.assert_allclose(Pattern(resource, back).ends(seconds), expected, rtol=1e-12)


@given(st.integers(1, 6), st.integers(2, 8), st.floats(0.1, 5), st.floats(0.1, 5))
def test_a_full_ring_takes_the_longer_of_load_and_run(steps, layers, load, run):
    ends = stream_layers(np.full((steps, layers), run), load, 2)
    if layers == 2:  # both layers stay
        expected = max(2 * load + run, load + 2 * run) + (steps - 1) * layers * run
    else:
        # Load, then run and load side by side, then the last run.
        expected = load + (steps * layers - 1) * max(load, run) + run
    assert ends[-1] == pytest.approx(expected)
    assert stream_layers(np.full((steps, layers), run), load, layers)[-1] <= ends[-1] + 1e-9


def test_faults():
    with pytest.raises(ConfigError) as found:
        Pattern(np.array([0, -1]), np.array([[-1]]))
    assert len(found.value.faults) == 3
