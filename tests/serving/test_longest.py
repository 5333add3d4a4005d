"""Attention of unequal contexts: an event simulation of pieces on cores, and measured kernels."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.requests import request_trace
from moesim.serving.longest import ALONE, POINTS, longest_over_mean, spread_of, stretched

CORES = 188


def makespan(contexts, heads, cores=CORES, alone=ALONE):
    """Pieces in order of heads, then sequences; cores share the memory, and few get `alone` times a share."""
    work = [float(c) for _ in range(heads) for c in contexts]
    served, now, busy, at = 0.0, 0.0, [], 0
    while at < len(work) and len(busy) < cores:
        heapq.heappush(busy, work[at])
        at += 1
    while busy:
        rate = min(alone / cores, 1.0 / len(busy))
        now += (busy[0] - served) / rate
        served = heapq.heappop(busy)
        if at < len(work):
            heapq.heappush(busy, served + work[at])
            at += 1
    return now


@pytest.mark.parametrize("heads", [4, 8])
@pytest.mark.parametrize("sequences", [76, 128, 256])
@pytest.mark.parametrize("times", [2.0, 3.0, 5.0])
def test_one_long_context_as_simulated(heads, sequences, times):
    found = []
    for place in np.linspace(0, sequences - 1, 9).astype(int):
        contexts = np.ones(sequences)
        contexts[place] = times
        mean = contexts.mean()
        found.append(makespan(contexts, heads) / makespan(np.full(sequences, mean), heads))
        longest = np.array([times / mean])
    mine = stretched(np.array([float(sequences)]), heads, CORES, longest)[0]
    assert mine == pytest.approx(np.mean(found), rel=0.12)


@pytest.mark.parametrize(
    ("heads", "equal_us", "mean", "longest", "measured_us"),
    [
        (4, 398.594, 1036, 4096, 468.781),
        (4, 752.536, 2072, 8192, 895.758),
        (4, 463.362, 1216, 4096, 512.579),
        (8, 745.592, 1036, 4096, 791.395),
        (8, 870.990, 1216, 4096, 914.202),
    ],
    ids=["4-1k", "4-2k", "4-sixteen", "8-1k", "8-sixteen"],
)
def test_measured_kernels(heads, equal_us, mean, longest, measured_us):
    """256 sequences, skew.csv of LLMServingSim: the long ones are the first of each head there."""
    ratio = np.array([longest / mean])
    mine = equal_us * stretched(np.array([256.0]), heads, CORES, ratio)[0]
    assert mine == pytest.approx(measured_us, rel=0.06)


def test_contexts_are_split_where_pieces_are_few():
    few, many = stretched(np.array([60.0, 120.0]), 4, CORES, np.array([4.0, 4.0]))
    assert few == 1.0
    assert many > 1.1


@given(st.floats(1, 2000), st.sampled_from([1, 2, 4, 8]), st.floats(1, 20))
def test_longer_never_helps(sequences, heads, longest):
    one, two = stretched(np.full(2, sequences), heads, CORES, np.array([longest, longest + 1.0]))
    assert 1.0 <= one <= two


def test_spread_of_requests():
    requests = request_trace([0.0, 1.0], [100, 1000], [101, 101])
    spread = spread_of(requests)
    assert spread.shape == (POINTS,)
    assert spread.mean() == pytest.approx(1.0, rel=0.01)
    assert (np.diff(spread) >= 0).all()
    ends = longest_over_mean(spread, np.array([1.0, 1e6]))
    assert ends[0] < ends[1] <= 1100 / 600
    # A request that decodes ten times as long is met ten times as often.
    more = spread_of(request_trace([0.0, 1.0], [100, 1000], [11, 101]))
    assert np.median(more) > np.median(spread)


def test_the_longest_of_even_draws():
    # Of contexts spread evenly from 0 to 2, the longest of n is 2 n / (n + 1) on average.
    spread = 2.0 * (np.arange(POINTS) + 0.5) / POINTS
    n = np.array([1.0, 2.0, 7.0, 50.0])
    assert longest_over_mean(spread, n) == pytest.approx(2.0 * n / (n + 1.0), rel=1e-3)
