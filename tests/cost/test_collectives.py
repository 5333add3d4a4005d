"""Collectives: measured fits inside a domain, hierarchy across, traffic matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost import all_to_all_seconds, collective_seconds, message_seconds
from moesim.cost.collectives import alpha_beta
from moesim.hardware import load_hardware
from moesim.ops import Message

ONE, FOUR = load_hardware("h100-sxm-8"), load_hardware("h100-sxm-8", nodes=4)


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_to_all"])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_fits_are_reproduced(collective, ranks):
    fit = next(f for f in ONE.scale_up.collectives[collective] if f.ranks == ranks)
    factor = (ranks - 1) / ranks
    seconds = collective_seconds(collective, ranks, ranks, np.array(1e8), ONE)
    assert seconds == pytest.approx(fit.alpha_s + factor * 1e8 / fit.busbw_bytes_per_s)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_all_reduce_takes_the_faster_of_two_algorithms(ranks):
    def fitted(name, data):
        fit = next(f for f in ONE.scale_up.collectives[name] if f.ranks == ranks)
        return fit.alpha_s + 2.0 * (ranks - 1) / ranks * data / fit.busbw_bytes_per_s

    for data in (1e3, 1e6, 1e9):
        both = [fitted(name, data) for name in ("all_reduce", "all_reduce_custom")]
        assert collective_seconds("all_reduce", ranks, ranks, np.array(data), ONE) == pytest.approx(min(both))


def test_between_and_beyond_measured_ranks():
    alphas = [alpha_beta("all_reduce", n, ONE.scale_up)[0] for n in (2, 3, 4, 6, 8, 16, 72)]
    assert alphas == sorted(alphas)


@settings(deadline=None)
@given(st.floats(min_value=1, max_value=1e9), st.floats(min_value=1.0, max_value=4.0))
def test_more_bytes_never_take_less(data, factor):
    for hardware, span in ((ONE, 8), (FOUR, 32)):
        times = collective_seconds("all_reduce", span, span, np.array([data, data * factor]), hardware)
        assert times[1] >= times[0]


def test_across_nodes_is_slower_than_inside():
    inside = collective_seconds("all_reduce", 8, 8, np.array(1e7), FOUR)
    across = collective_seconds("all_reduce", 32, 32, np.array(1e7), FOUR)
    assert across > inside
    assert collective_seconds("all_reduce", 1, 1, np.array(1e7), FOUR) == 0.0


def test_send_uses_the_link_it_crosses():
    near = message_seconds(Message("p", "send", 2, 2, 1e6), FOUR)
    far = message_seconds(Message("p", "send", 2, 9, 1e6), FOUR)
    network = FOUR.scale_out
    assert far == pytest.approx(
        network.latency_s + 1e6 / (network.bandwidth_bytes_per_s * network.efficiency)
    )
    assert near < far


def test_exchange_waits_for_the_busiest_rank():
    ranks = 8
    even = np.full((ranks, ranks), 1e6)
    skewed = np.zeros((ranks, ranks))
    skewed[:, 3] = even.sum() / ranks
    nothing = np.zeros((ranks, ranks))
    alpha, bandwidth = alpha_beta("all_to_all", 8, ONE.scale_up)
    assert all_to_all_seconds(even, nothing, ONE) == pytest.approx(alpha + 7e6 / bandwidth)
    assert all_to_all_seconds(skewed, nothing, ONE) == pytest.approx(alpha + 7 * 8e6 / bandwidth)


def test_diagonal_is_free_and_transpose_takes_as_long():
    rng = np.random.default_rng(0)
    traffic = rng.random((3, 8, 8)) * 1e6
    nothing = np.zeros_like(traffic)
    with_own = traffic + np.eye(8) * 1e9
    times = all_to_all_seconds(traffic, nothing, ONE)
    assert all_to_all_seconds(with_own, nothing, ONE) == pytest.approx(times)
    assert all_to_all_seconds(traffic.swapaxes(1, 2), nothing, ONE) == pytest.approx(times)


def test_network_limits_across_domains():
    out = np.zeros((32, 32))
    out[0, 31] = 1e8
    network = FOUR.scale_out
    expected = 1e8 / (network.bandwidth_bytes_per_s * network.efficiency)
    seconds = all_to_all_seconds(np.zeros((32, 32)), out, FOUR)
    assert seconds == pytest.approx(expected + network.latency_s, rel=0.01)


def test_point_to_point_mesh_is_limited_by_a_pair():
    mesh = load_hardware("mi300x-8")
    traffic = np.zeros((8, 8))
    traffic[0, 1] = 1e8
    spread = np.zeros((8, 8))
    spread[0, 1:] = 1e8 / 7
    nothing = np.zeros((8, 8))
    alpha = alpha_beta("all_to_all", 8, mesh.scale_up)[0]
    lone, shared = (all_to_all_seconds(t, nothing, mesh) - alpha for t in (traffic, spread))
    assert lone == pytest.approx(7 * shared)
