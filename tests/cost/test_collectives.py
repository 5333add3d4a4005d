"""Collectives: measured fits inside a domain, hierarchy across, traffic matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost import all_to_all_seconds, collective_seconds, message_seconds
from moesim.cost.collectives import fit_of
from moesim.hardware import load_hardware
from moesim.ops import Message

ONE, FOUR = load_hardware("h100-sxm-8"), load_hardware("h100-sxm-8", nodes=4)


def fitted(fit, ranks, data, factor=1.0):
    moved = factor * (ranks - 1) / ranks * data
    small = fit.alpha_s + moved / fit.small_busbw_bytes_per_s
    return min(small, fit.bulk_alpha_s + moved / fit.busbw_bytes_per_s)


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_to_all"])
@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("data", [1e3, 1e6, 1e8])
def test_fits_are_reproduced(collective, ranks, data):
    fit = next(f for f in ONE.scale_up.collectives[collective] if f.ranks == ranks)
    seconds = collective_seconds(collective, ranks, ranks, np.array(data), ONE)
    assert seconds == pytest.approx(fitted(fit, ranks, data))


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_all_reduce_takes_the_faster_of_two_libraries(ranks):
    def of(name, data):
        fit = next(f for f in ONE.scale_up.collectives[name] if f.ranks == ranks)
        return fitted(fit, ranks, data, 2.0)

    for data in (1e3, 1e6, 1e9):
        both = [of(name, data) for name in ("all_reduce", "all_reduce_custom")]
        assert collective_seconds("all_reduce", ranks, ranks, np.array(data), ONE) == pytest.approx(min(both))


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm"])
def test_an_engine_takes_its_own_all_reduce(backend):
    for ranks in (2, 4, 8):
        fits = ONE.scale_up.collectives[f"all_reduce_custom.{backend}"]
        fit = next(f for f in fits if f.ranks == ranks)
        seconds = collective_seconds("all_reduce", ranks, ranks, np.array([1e4, 1e6, 1e8]), ONE, backend)
        assert seconds == pytest.approx([fitted(fit, ranks, data, 2.0) for data in (1e4, 1e6, 1e8)])


def test_an_unknown_or_unmeasured_engine_takes_what_any_has():
    data = np.array([1e4, 1e6, 1e8])
    plain = collective_seconds("all_gather", 8, 8, data, ONE)
    assert collective_seconds("all_gather", 8, 8, data, ONE, "vllm") == pytest.approx(plain)
    mesh = load_hardware("mi300x-8")
    plain = collective_seconds("all_reduce", 8, 8, data, mesh)
    assert collective_seconds("all_reduce", 8, 8, data, mesh, "vllm") == pytest.approx(plain)


def test_between_and_beyond_measured_ranks():
    fits = [fit_of("all_reduce", n, ONE.scale_up) for n in (2, 3, 4, 6, 8, 16, 72)]
    for of in (lambda f: f.alpha_s, lambda f: f.bulk_alpha_s):
        assert [of(f) for f in fits] == sorted(of(f) for f in fits)
    assert fits[1].alpha_s == pytest.approx(
        np.interp(np.log(3), np.log([2, 4]), [fits[0].alpha_s, fits[2].alpha_s])
    )


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
    fit = fit_of("all_to_all", 8, ONE.scale_up)
    bulk = fit.bulk_alpha_s + np.array([7e6, 7 * 8e6]) / fit.busbw_bytes_per_s
    assert all_to_all_seconds(even, nothing, ONE) == pytest.approx(bulk[0])
    assert all_to_all_seconds(even, nothing, ONE) == pytest.approx(
        collective_seconds("all_to_all", 8, 8, np.array(8e6), ONE)
    )
    assert all_to_all_seconds(skewed, nothing, ONE) == pytest.approx(bulk[1])


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
    alpha = fit_of("all_to_all", 8, mesh.scale_up).alpha_s
    lone, shared = (all_to_all_seconds(t, nothing, mesh) - alpha for t in (traffic, spread))
    assert lone == pytest.approx(7 * shared)


@pytest.mark.parametrize("gpu", ["a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "gb200", "l40s"])
def test_every_engines_all_reduce_is_near_its_table(shared, gpu):
    """Over four decades of sizes: latency, the change of algorithm, bandwidth. PCIe (L40S) included."""
    import pyarrow.parquet as pq

    hardware = load_hardware(gpu)
    for path in sorted(shared(f"kernels/{gpu}/comm").glob("*/custom_allreduce_perf.parquet")):
        table = {name: column.to_numpy() for name, column in zip(*_columns(pq.read_table(path)), strict=True)}
        inside = np.array(["eager" not in str(source) for source in table["kernel_source"]])
        for ranks in np.unique(table["num_gpus"]):
            pick = inside & (table["num_gpus"] == ranks)
            size, measured = table["message_size"][pick] * 2.0, table["latency"][pick] * 1e-3
            backend = path.parent.name.partition("-")[0]
            ours = collective_seconds("all_reduce", int(ranks), int(ranks), size, hardware, backend)
            errors = np.abs(ours / measured - 1)
            assert np.median(errors) < 0.16, (path.parent.name, ranks)
            assert np.median(errors[(size >= 2**16) & (size <= 2**23)]) < 0.28, (path.parent.name, ranks)


def test_traffic_through_a_host_bridge_is_limited_by_all_of_it():
    """Twice the traffic on every other pair makes a skewed exchange slower, though its busiest rank stays."""
    pcie = load_hardware("l40s-8")
    hot = np.zeros((8, 8))
    hot[0, 1:] = 1e6
    also = hot.copy()
    also[1:, :] = 1e6
    nothing = np.zeros((8, 8))
    one, all_ = (float(all_to_all_seconds(t, nothing, pcie)) for t in (hot, also))
    assert one < 0.5 * all_
    fit, pair = (fit_of("all_to_all", n, pcie.scale_up) for n in (8, 2))
    # The hot device's link, alone: as fast as one of two.
    assert one >= 7e6 / pair.busbw_bytes_per_s
    even = np.full((8, 8), 1e6)
    same = collective_seconds("all_to_all", 8, 8, np.array(8e6), pcie)
    assert all_to_all_seconds(even, nothing, pcie) == pytest.approx(same)
    assert fit.busbw_bytes_per_s < pair.busbw_bytes_per_s / 5


def _columns(table):
    return table.column_names, table.columns
