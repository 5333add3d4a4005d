"""Exchanges of tokens: closed forms, conservation of bytes, and what must hold on any machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.cost import (
    HIGH_THROUGHPUT,
    LOW_LATENCY,
    all_to_all_seconds,
    direct_traffic,
    exchange_of,
    exchange_seconds,
    hit_parts,
    hit_parts_limited,
    one_way_seconds,
    two_level_traffic,
)
from moesim.cost.exchange import soft_maximum
from moesim.engine.dispatch import direct, dispatch, two_level
from moesim.engine.routing import DECODE, uniform
from moesim.hardware import load_hardware
from moesim.hardware.types import Leg, OneWay
from moesim.layout import ExpertMap

MACHINES = {
    name: load_hardware(name, nodes=nodes)
    for name, nodes in (("h800-sxm-8", 32), ("h100-sxm-8", 32), ("gb200-nvl72", 18), ("cloudmatrix384", 16))
}
MODES, WAYS = (LOW_LATENCY, HIGH_THROUGHPUT), ("dispatch", "combine")

cases = st.tuples(st.sampled_from(list(MACHINES)), st.sampled_from(MODES), st.sampled_from(WAYS))
groups = st.sampled_from([2, 4, 8, 16, 32, 64])


def seconds(machine, mode, way, traffic, ranks, tokens, hardware=None, width=7168.0):
    hardware = hardware or MACHINES[machine]
    fit = getattr(exchange_of(hardware, mode), way)
    return float(
        one_way_seconds(
            fit, hardware, traffic.up * width, traffic.out * width, ranks, tokens, hardware.domain
        )
    )


# --- closed forms ---------------------------------------------------------------------------------------


def test_both_links_work_at_once_and_the_slower_decides():
    machine = MACHINES["h800-sxm-8"]
    fit = OneWay(0.0, float("inf"), Leg(10e-6, 0.8), Leg(30e-6, 0.9))
    up, out = 10e-6 + 1.6e6 / (0.8 * 200e9), 30e-6 + 4.5e6 / (0.9 * 50e9)
    assert one_way_seconds(fit, machine, 1.6e6, 4.5e6, 16, 128, 8) == pytest.approx(max(up, out))
    assert one_way_seconds(fit, machine, 1.6e6, 0.0, 8, 128, 8) == pytest.approx(up)
    assert one_way_seconds(fit, machine, 1.6e9, 4.5e6, 16, 128, 8) == pytest.approx(10e-6 + 1.6e9 / 160e9)


def test_scan_spread_and_copying_cores():
    machine = MACHINES["gb200-nvl72"]
    one = OneWay(0.0, float("inf"), Leg(1e-6, 0.5, scan_s=2e-9, spread=0.1))
    expected = 1e-6 + 2e-9 * 100 * 31 + 9e6 * (1 + 0.1 * 2) / 450e9
    assert one_way_seconds(one, machine, 9e6, 0.0, 32, 100, 72) == pytest.approx(expected)
    slow = replace(one, up=replace(one.up, rate_bytes_per_s=45e9, scan_s=0.0, spread=0.0))
    assert one_way_seconds(slow, machine, 9e6, 0.0, 32, 100, 72) == pytest.approx(1e-6 + 9e6 / 45e9)


@given(st.floats(0, 1e-3), st.floats(0, 1e-3), st.floats(1, 64))
def test_soft_maximum_lies_between_maximum_and_sum(floor, body, sharpness):
    found = float(soft_maximum(floor, np.array(body), sharpness))
    assert max(floor, body) <= found * (1 + 1e-12)
    assert found <= (floor + body) * (1 + 1e-12)


@pytest.mark.parametrize("parts", [2, 8, 32, 256, 320])
def test_hit_parts_is_what_choosing_without_replacement_gives(parts):
    rng = np.random.default_rng(0)
    chosen = rng.random((4000, 256)).argsort(axis=1)[:, :8]
    home = chosen * min(parts, 256) // 256
    mean = np.mean([len(set(row)) for row in home])
    assert hit_parts(parts, 256, 8) == pytest.approx(mean, rel=0.02)


@pytest.mark.parametrize("parts", [2, 4, 8, 16, 64])
def test_hit_parts_of_node_limited_routing_is_what_drawing_gives(parts):
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(4000):
        groups = rng.choice(8, 4, replace=False)
        allowed = (groups[:, None] * 32 + np.arange(32)).ravel()
        hits.append(len(set(rng.choice(allowed, 8, replace=False) * parts // 256)))
    found = hit_parts_limited(parts, 256, 8, 8, 4)
    assert found == pytest.approx(np.mean(hits), rel=0.02)
    assert found <= hit_parts(parts, 256, 8)


def test_node_limited_routing_sends_less_over_the_network():
    import moesim as ms
    from moesim.ops import Batch
    from moesim.prediction.kept import deployment_of

    model, nodes = ms.load_model("deepseek-v3"), load_hardware("h800-sxm-8", nodes=8)
    made = deployment_of(model, nodes, ms.Parallelism(dp=64, ep=64), ms.Engine(), None, None, 0)
    step = made.step(Batch.prefill(1.0, 4096.0))
    sent = step.expert_mean("out_tokens")[0] / len(model.moe_layer_ids) / 4096
    assert sent == pytest.approx(hit_parts_limited(8, 256, 8, 8, 4) * 7 / 8, rel=0.05)


# --- conservation ---------------------------------------------------------------------------------------


@given(groups, st.sampled_from([1, 4, 8, 72]), st.floats(1, 1e5), st.integers(1, 8))
def test_every_copy_goes_somewhere(ranks, domain, tokens, copies):
    sent = direct_traffic(tokens, ranks, domain, copies)
    assert sent.total == pytest.approx(tokens * copies)
    assert min(sent.own, sent.up, sent.out) >= 0


@given(groups, st.sampled_from([4, 8, 72]), st.sampled_from([None, 2, 4]))
def test_a_token_reaches_each_rank_once_and_each_domain_once(ranks, domain, limit):
    sent = two_level_traffic(100.0, ranks, domain, 256, 8, limit)
    domain = min(domain, ranks)
    domains = ranks // domain
    reach = min(domains, limit or domains)
    assert sent.own + sent.up <= 100.0 * min(8, reach * domain) * (1 + 1e-9)
    assert sent.out <= 100.0 * min(8, reach) + 1e-9
    if domains == 1:
        assert sent.out == 0


@pytest.mark.parametrize("ranks", [8, 16, 32])
def test_closed_forms_agree_with_drawn_batches(ranks):
    """What the engine counts in a drawn batch is what the closed forms say, within its noise."""
    tokens = 64 * ranks
    draw = uniform(256, 8).draw(tokens, DECODE, np.random.default_rng(1))
    plan = ExpertMap.contiguous(1, 256, ranks, 0)
    off = 1.0 - np.eye(ranks)
    drawn = {
        "direct": direct(dispatch(draw, plan), 8),
        "two_level": two_level(dispatch(draw, plan), plan, 8),
    }
    even = {
        "direct": direct_traffic(64.0, ranks, 8, 8),
        "two_level": two_level_traffic(64.0, ranks, 8, 256, 8),
    }
    for name, traffic in drawn.items():
        assert (traffic.up * off).sum() / ranks == pytest.approx(even[name].up, rel=0.05)
        assert traffic.out.sum() / ranks == pytest.approx(even[name].out, rel=0.05)


# --- what must hold on any machine ----------------------------------------------------------------------


@given(cases, groups, st.floats(1, 1e5))
def test_twice_the_bandwidth_is_never_slower_nor_more_than_twice_as_fast(case, ranks, tokens):
    name, mode, way = case
    machine = MACHINES[name]

    def twice(link):
        return link and replace(link, bandwidth_bytes_per_s=2 * link.bandwidth_bytes_per_s)

    fast = replace(machine, scale_up=twice(machine.scale_up), scale_out=twice(machine.scale_out))
    traffic = direct_traffic(tokens, ranks, machine.domain, 8)
    before = seconds(name, mode, way, traffic, ranks, tokens)
    after = seconds(name, mode, way, traffic, ranks, tokens, fast)
    assert before / 2 <= after * (1 + 1e-12)
    assert after <= before * (1 + 1e-12)


@given(cases, st.floats(1, 1e5), st.floats(1, 1e8))
def test_more_ranks_never_take_less_for_the_same_bytes(case, tokens, data):
    name, mode, way = case
    machine = MACHINES[name]
    fit = getattr(exchange_of(machine, mode), way)
    for share in (0.0, 0.5):
        times = [
            float(one_way_seconds(fit, machine, data, data * share, n, tokens, min(machine.domain, 8)))
            for n in (16, 32, 64, 128)
        ]
        assert times == sorted(times)


@given(cases, groups, st.floats(1, 1e4), st.floats(1, 8))
def test_more_tokens_never_take_less(case, ranks, tokens, factor):
    name, mode, way = case
    domain = MACHINES[name].domain
    few, many = (direct_traffic(n, ranks, domain, 8) for n in (tokens, tokens * factor))
    assert seconds(name, mode, way, few, ranks, tokens) <= seconds(
        name, mode, way, many, ranks, tokens * factor
    ) * (1 + 1e-12)


@given(cases, groups, st.floats(0, 1e4))
def test_nothing_beats_the_floor_or_the_links(case, ranks, tokens):
    name, mode, way = case
    machine = MACHINES[name]
    fit = getattr(exchange_of(machine, mode), way)
    traffic = direct_traffic(tokens, ranks, machine.domain, 8)
    found = seconds(name, mode, way, traffic, ranks, tokens)
    assert found >= fit.floor_s
    assert found >= traffic.up * 7168 / machine.scale_up.bandwidth_bytes_per_s
    if traffic.out:
        assert found >= traffic.out * 7168 / machine.scale_out.bandwidth_bytes_per_s


@given(cases, st.integers(0, 2**32 - 1))
def test_relabelling_ranks_inside_a_node_changes_nothing(case, seed):
    name, mode, way = case
    machine, rng = MACHINES[name], np.random.default_rng(seed)
    domain = min(machine.domain, 8)
    home = np.arange(16) // domain
    same = (home[:, None] == home[None, :]) * 1.0
    traffic = rng.random((3, 16, 16)) * 1e6
    order = np.concatenate([part[rng.permutation(domain)] for part in np.arange(16).reshape(-1, domain)])
    there = traffic[:, order][:, :, order]
    before, after = (
        exchange_seconds(t * same, t * (1 - same), machine, mode=mode, way=way, tokens=64, domain=domain)
        for t in (traffic, there)
    )
    assert after == pytest.approx(before)
    with_own = traffic + np.eye(16) * 1e9
    again = exchange_seconds(
        with_own * same, with_own * (1 - same), machine, mode=mode, way=way, tokens=64, domain=domain
    )
    assert again == pytest.approx(before)


def test_the_busiest_rank_decides():
    machine = MACHINES["h100-sxm-8"]
    even = np.full((8, 8), 1e6)
    skewed = np.zeros((8, 8))
    skewed[:, 3] = 8e6
    nothing = np.zeros((8, 8))
    both = [
        float(exchange_seconds(t, nothing, machine, mode=LOW_LATENCY, way="dispatch", tokens=64))
        for t in (even, skewed)
    ]
    assert both[1] > 6 * both[0]


def test_a_machine_without_a_measured_exchange_is_answered_from_its_links():
    machine = load_hardware("mi300x-8")
    traffic = np.random.default_rng(0).random((2, 8, 8)) * 1e6
    nothing = np.zeros_like(traffic)
    found = exchange_seconds(traffic, nothing, machine, mode=LOW_LATENCY, way="combine", tokens=64)
    assert found == pytest.approx(all_to_all_seconds(traffic, nothing, machine))


def test_engines_have_exchanges_of_their_own():
    rack = MACHINES["gb200-nvl72"]
    one_sided, deepep = (exchange_of(rack, LOW_LATENCY, name) for name in ("trtllm", "sglang"))
    assert one_sided is rack.exchanges["low_latency"]
    assert deepep is rack.exchanges["low_latency.sglang"]
    assert exchange_of(rack, HIGH_THROUGHPUT, "trtllm") is rack.exchanges["high_throughput.trtllm"]
    assert exchange_of(rack, HIGH_THROUGHPUT, "vllm") is rack.exchanges["high_throughput"]


@pytest.mark.parametrize(
    ("name", "ranks", "tokens", "quick"),
    [
        ("h100-sxm-8", 8, 16, LOW_LATENCY),
        ("h800-sxm-8", 64, 4096, HIGH_THROUGHPUT),
    ],
)
def test_each_mode_is_the_quicker_one_where_it_is_used(name, ranks, tokens, quick):
    """Many tokens: each crosses the network three or four times instead of seven."""
    traffic = {
        LOW_LATENCY: direct_traffic(tokens, ranks, 8, 8),
        HIGH_THROUGHPUT: two_level_traffic(tokens, ranks, 8, 256, 8, 4),
    }
    for way in WAYS:
        times = {mode: seconds(name, mode, way, sent, ranks, tokens) for mode, sent in traffic.items()}
        assert min(times, key=times.get) == quick


@pytest.mark.parametrize(("backend", "once"), [("trtllm", True), ("sglang", False)])
def test_a_token_goes_once_to_a_rank_where_the_library_does_so(backend, once):
    """Eight experts in four groups hit 3.6 of 8 ranks; DeepEP sends eight copies all the same."""
    import moesim as ms
    from moesim.ops import Batch
    from moesim.prediction.kept import deployment_of

    layout, model = ms.Parallelism(dp=8, ep=8), ms.load_model("deepseek-v3")
    engine = ms.Engine(backend=backend)
    made = deployment_of(model, load_hardware("gb200", nodes=2), layout, engine, None, None, 0)
    sent = made.step(Batch.decode(64.0, 100.0)).expert_mean("up_tokens")[0] / len(model.moe_layer_ids) / 64
    even = hit_parts_limited(8, 256, 8, 8, 4) * 7 / 8 if once else direct_traffic(1, 8, 8, 8).up
    assert sent == pytest.approx(even, rel=0.03)
