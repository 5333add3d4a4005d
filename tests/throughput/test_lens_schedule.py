"""The compiled scheduler against one written with lists, and the pipeline against its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.throughput.lens_pipeline import pipeline
from moesim.throughput.lens_schedule import schedule


def _plain(prompts, outputs, capacity, block, full):
    """The rules of the paper, as lists of dictionaries."""
    queue = [
        {"id": i, "p": p, "g": g, "made": 0, "have": 0}
        for i, (p, g) in enumerate(zip(prompts, outputs, strict=True))
    ]
    running, log, stopped = [], [], 0

    def used():
        return sum(math.ceil(s["have"] / block) for s in running)

    while queue or running:
        decoded = []
        while len(decoded) < len(running):
            seq = running[len(decoded)]
            if seq["have"] % block == 0 and used() == capacity:
                last = running.pop()
                queue.insert(0, last)
                stopped += 1
                continue
            seq["have"] += 1
            decoded.append(seq)
        cached = sum(s["have"] for s in decoded)
        tokens, prefilled = len(decoded), 0
        while queue:
            length = queue[0]["p"] + queue[0]["made"]
            if tokens + length > full or used() + math.ceil(length / block) > capacity:
                break
            seq = queue.pop(0)
            seq["have"] = length
            running.append(seq)
            tokens, prefilled = tokens + length, prefilled + length
        for seq in running:
            seq["made"] += 1
        running = [s for s in running if s["made"] < s["g"]]
        log.append((len(decoded), prefilled, cached, used()))
    return log, stopped


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_compiled_is_the_plain_one(data):
    count = data.draw(st.integers(1, 8))
    lengths = st.lists(st.integers(1, 9), min_size=count, max_size=count)
    prompts, outputs = data.draw(lengths), data.draw(lengths)
    block = data.draw(st.integers(1, 4))
    longest = max(p + g for p, g in zip(prompts, outputs, strict=True))
    capacity = data.draw(st.integers(math.ceil(longest / block), math.ceil(longest / block) + 6))
    full = data.draw(st.integers(longest, longest + 20))
    got = schedule(np.array(prompts), np.array(outputs), capacity, block=block, full=full)
    log, stopped = _plain(prompts, outputs, capacity, block, full)
    columns = (got.decoded, got.prefilled, got.cached, got.blocks)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == log
    assert got.stopped == stopped


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.integers(1, 60), st.integers(1, 60), st.integers(8, 400), st.integers(1, 16))
def test_nothing_is_lost(count, p, g, capacity, block):
    capacity = max(capacity, math.ceil((p + g) / block))
    full = 4 * (p + g)
    got = schedule(np.full(count, p), np.full(count, g), capacity, block=block, full=full)
    # Every prompt goes through, every output but the first comes from decode; stops cost extra prompts.
    assert got.decoded.sum() + got.stopped >= count * (g - 1)
    assert got.prefilled.sum() >= count * p
    if got.stopped == 0:
        assert got.prefilled.sum() == count * p
        assert got.decoded.sum() == count * (g - 1)
    assert (got.blocks <= capacity).all()
    assert got.blocks[-1] == 0
    # Decode may pass n_real; prompts may not.
    assert (got.prefilled[got.prefilled > 0] + got.decoded[got.prefilled > 0] <= full).all()


def test_who_came_last_is_stopped_and_starts_again():
    """Two sequences of one block each that both grow: the second gives way and recomputes what it has."""
    got = schedule(np.array([2, 2]), np.array([4, 4]), 2, block=3, full=20)
    assert got.stopped == 1
    assert got.prefilled.sum() > 4


def test_refuses_what_never_fits():
    with pytest.raises(ConfigError) as caught:
        schedule(np.array([50]), np.array([50]), 3, block=16, full=60)
    assert len(caught.value.faults) == 2
    with pytest.raises(ConfigError, match="same count"):
        schedule(np.array([5]), np.array([5, 6]), 10, block=1, full=60)
    assert schedule(np.array([], dtype=int), np.array([], dtype=int), 3, full=9).iterations == 0


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 5), st.floats(0, 5), st.floats(0, 5), st.integers(2, 40), st.floats(0, 0.5))
def test_pipeline_is_between_its_longest_resource_and_their_sum(link, cpu, gpu, layers, ahead):
    seconds = pipeline(np.array([link]), np.array([cpu]), np.array([gpu]), layers=layers, ahead=ahead)[0]
    assert seconds >= max(link, cpu, gpu) * (1 - 1e-9) - 1e-12
    assert seconds <= (link + cpu + gpu) * (1 + 1e-9) + 1e-12


def test_pipeline_alternates():
    """CPU and GPU equally loaded: but for one phase at each end, both work all the time."""
    seconds = pipeline(np.array([0.0]), np.array([8.0]), np.array([8.0]), layers=32, ahead=0.0)[0]
    assert seconds == pytest.approx(8.0 + 8.0 / 64, rel=1e-9)
