"""Affinity between neighbouring layers, against counting."""

import numpy as np
import pytest
from stats_traces import random_trace

from moesim.analysis import statistics
from moesim.analysis.affinity import affinity_of
from moesim.trace import Header, TraceWriter

TRACE = random_trace(1, layers=3, experts=12, k=3, lengths=(5, 400, 1, 90, 300), skew=0.7, stay=0.4)


def count(trace, at):
    """Pairs of experts of a token in two neighbouring layers, one by one."""
    table = np.zeros((trace.num_experts, trace.num_experts), np.int64)
    for token in trace.topk_ids:
        for i in token[at]:
            for j in token[at + 1]:
                table[i, j] += 1
    return table


def test_it_is_what_is_counted_of_the_layers_that_say_most():
    found = statistics(TRACE, families=("coupling",))
    bits = [row["next_layer_information_bits"] for row in found.layers[:-1]]
    at = int(np.argmax(bits))
    table = count(TRACE, at)
    assert found.affinity.layers == tuple(TRACE.moe_layer_ids[at : at + 2])
    assert found.affinity.pairs == table.sum() == TRACE.num_tokens * 9
    for i in range(12):
        for j in range(12):
            expected = table[i].sum() * table[:, j].sum() / table.sum()
            value = found.affinity.over_independence[i, j]
            assert (value == pytest.approx(table[i, j] / expected)) if expected >= 5 else np.isnan(value)


@pytest.mark.parametrize("rows", [37, 65536])
def test_a_file_is_streamed_to_the_same_table(tmp_path, rows):
    path = tmp_path / "trace.parquet"
    with TraceWriter(path, Header.of(TRACE), rows=100) as out:
        out.append(TRACE.topk_ids, TRACE.request, TRACE.position, TRACE.phase)
    assert statistics(path, rows=rows).affinity.to_dict() == statistics(TRACE).affinity.to_dict()


def test_of_many_experts_the_busiest_are_kept():
    rng = np.random.default_rng(0)
    joint = rng.poisson(30, (2, 100, 90))
    joint[1, :, :10] *= 8
    found = affinity_of(joint, (3, 4, 6), most=20)
    assert found.layers == (4, 6)
    assert found.over_independence.shape == (20, 20)
    for ids, load in ((found.before, joint[1].sum(1)), (found.after, joint[1].sum(0))):
        assert (np.diff(ids) > 0).all()
        assert load[ids].min() >= np.delete(load, ids).max()
    whole = affinity_of(joint, (3, 4, 6), most=100)
    some = whole.over_independence[np.ix_(found.before, found.after)]
    np.testing.assert_array_equal(some, found.over_independence)


def test_independent_layers_are_all_one():
    table = np.outer([10, 20, 30], [50, 5, 0])
    found = affinity_of(table[None], (0, 1))
    np.testing.assert_allclose(found.over_independence[:, :2], 1.0)
    assert np.isnan(found.over_independence[:, 2]).all()
    assert found.to_dict()["over_independence"][0] == [1.0, 1.0, None]


def test_one_layer_has_none():
    assert statistics(random_trace(1, layers=1, experts=6, k=2, lengths=(20,))).affinity is None
    assert statistics(TRACE, families=("load",)).to_dict()["affinity"] is None
    assert affinity_of(np.zeros((1, 3, 3), np.int64), (0, 1)) is None
