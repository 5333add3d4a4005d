"""A trace in parts is the trace: splits, files, clusters, phases, requests."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stats_traces import make, random_trace

from moesim.analysis import statistics
from moesim.analysis.cluster import ranges
from moesim.analysis.grouped import by_request
from moesim.analysis.partial import Spec, merge, partial
from moesim.errors import ConfigError
from moesim.trace import Header, TraceWriter

TRACE = random_trace(1, layers=2, experts=12, k=3, lengths=(5, 400, 1, 90, 300), skew=0.7, stay=0.4)
SPEC = Spec(2, 12, 3, TRACE.num_tokens, groups=3)


def part(a, b):
    return partial(SPEC, TRACE.topk_ids[a:b], TRACE.request[a:b], a)


def same(x, y):
    assert x.tokens == y.tokens
    for name in x.sums:
        np.testing.assert_array_equal(x.sums[name], y.sums[name], err_msg=name)
    np.testing.assert_array_equal(x.first, y.first)
    np.testing.assert_array_equal(x.last, y.last)
    for name in ("test_key", "test_ids", "request", "request_ids"):
        np.testing.assert_array_equal(getattr(x.kept, name), getattr(y.kept, name))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, TRACE.num_tokens), max_size=12), st.randoms())
def test_any_split_merged_in_any_order_is_the_whole(cuts, random):
    edges = sorted({0, *cuts, TRACE.num_tokens})
    parts = [part(a, b) for a, b in pairwise(edges)]
    while len(parts) > 1:
        i = random.randrange(len(parts) - 1)
        parts[i : i + 2] = [merge(parts[i], parts[i + 1])]
    same(parts[0], part(0, TRACE.num_tokens))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "trace.parquet"
    with TraceWriter(path, Header.of(TRACE), rows=100) as out:
        out.append(TRACE.topk_ids, TRACE.request, TRACE.position, TRACE.phase)
    return path


@pytest.mark.parametrize("rows", [1, 37, 65536])
def test_a_file_is_streamed_to_the_same_numbers(file, rows):
    assert statistics(file, rows=rows).overall == statistics(TRACE).overall


def test_a_cluster_gives_the_same_numbers(file):
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    seen = []
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        found = statistics(
            file, scheduler=cluster.scheduler_address, progress=lambda *done: seen.append(done)
        )
    expected = statistics(TRACE)
    assert (found.overall, found.layers) == (expected.overall, expected.layers)
    assert seen[-1] == (TRACE.num_tokens, TRACE.num_tokens)
    assert len(seen) == 8  # eight ranges of row groups


def test_a_silent_scheduler_is_named(file, monkeypatch):
    pytest.importorskip("distributed", reason="dask is not installed")
    monkeypatch.setattr("moesim.analysis.cluster.TIMEOUT_S", 0.3)
    with pytest.raises(ConfigError, match="--scheduler"):
        statistics(file, scheduler="tcp://127.0.0.1:9")


def test_only_a_file_can_be_shared_out():
    with pytest.raises(ConfigError, match="canonical Parquet"):
        statistics(TRACE, scheduler="tcp://127.0.0.1:9")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 30))
def test_ranges_cover_every_row_group_once(sizes, parts):
    found = ranges(sizes, parts)
    assert [g for a, b, _ in found for g in range(a, b)] == list(range(len(sizes)))
    assert [start for _, _, start in found] == [sum(sizes[:a]) for a, _, _ in found]
    assert len(found) <= parts


def test_requests_that_take_turns_are_put_together(tmp_path):
    turn = np.argsort(np.arange(TRACE.num_tokens) % 97, kind="stable")
    turns = replace(TRACE, topk_ids=TRACE.topk_ids[turn], request=TRACE.request[turn])
    assert (np.diff(turns.request) != 0).sum() > 10
    order = np.concatenate(
        [np.flatnonzero(turns.request == r) for r in dict.fromkeys(turns.request.tolist())]
    )
    together = replace(turns, topk_ids=turns.topk_ids[order], request=turns.request[order])
    assert statistics(turns).overall == statistics(together).overall
    path = tmp_path / "turns.parquet"
    with TraceWriter(path, Header.of(turns), rows=100) as out:
        out.append(turns.topk_ids, turns.request, turns.position, turns.phase)
    assert statistics(path).overall == statistics(together).overall


def test_a_phase_is_the_trace_of_its_tokens(file):
    phase = (np.arange(TRACE.num_tokens) % 7 < 3).astype(np.int8)
    trace = replace(TRACE, phase=phase)
    only = replace(TRACE, topk_ids=TRACE.topk_ids[phase == 1], request=TRACE.request[phase == 1])
    assert statistics(trace, phase=1).overall == statistics(only).overall
    assert statistics(file, phase=0).overall == statistics(TRACE).overall


def test_each_request_is_as_if_it_were_alone(file):
    found = by_request(TRACE)
    assert found["tokens"].tolist() == [5, 400, 1, 90, 300]
    for i, request in enumerate(found["request"]):
        rows = TRACE.request == request
        alone = statistics(
            make(TRACE.topk_ids[rows], TRACE.request[rows], 12), families=("load", "locality")
        ).overall
        for name in ("max_over_mean", "entropy_normalised", "consecutive_overlap"):
            if alone[name] is None:
                assert np.isnan(found[name][i])
            else:
                assert found[name][i] == pytest.approx(alone[name], abs=1e-12)
    streamed = by_request(file)
    for name, column in found.items():
        np.testing.assert_array_equal(streamed[name], column)
