"""One layer on a wafer: against walks written out, closed forms, and properties of any machine."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.cost import ExpertShape
from moesim.errors import ConfigError
from moesim.fabric import grid_loads
from moesim.hardware import load_hardware
from moesim.hardware.types import Cache
from moesim.wafer import Wafer, allocated, at_home, dealt, layer_cost, shared, spread
from moesim.wafer.machine import COMMAND_BYTES, LINE_BYTES
from moesim.wafer.tasks import balance_tokens

SHAPE = ExpertShape(4096, 1536, 3, "bf16")


def machine(rows=3, columns=4, link=1e12):
    cache = Cache(64e6, 100e-9, 110e-9, 30e-9)
    return Wafer((rows, columns), 1e15, 3e12, 300e-9, 80e9, link, 200e-9, cache)


def walk(source, target, columns):
    """Links of the way along the row first, then along the column."""
    at, found = source, []
    while at % columns != target % columns:
        step = 1 if target % columns > at % columns else -1
        found.append((at, at + step))
        at += step
    while at != target:
        step = columns if target > at else -columns
        found.append((at, at + step))
        at += step
    return found


def oracle(wafer, work, owner):
    """Busiest link, hops and bytes of all readings, one by one."""
    loads, hops, remote, local = {}, 0, 0.0, 0.0
    for e, home in enumerate(owner):
        for die in range(wafer.dies):
            data = work.reads[e, die] * SHAPE.weight_bytes
            if die == home:
                local += data
                continue
            remote += data
            hops += np.ceil(work.reads[e, die]) * len(walk(home, die, wafer.shape[1]))
            for link in walk(home, die, wafer.shape[1]):
                loads[link] = loads.get(link, 0.0) + data
            for link in walk(die, home, wafer.shape[1]):
                loads[link] = loads.get(link, 0.0) + data * COMMAND_BYTES / LINE_BYTES
    return max(loads.values(), default=0.0), hops, remote, local


@pytest.mark.parametrize("way", ["dealt", "shared", "home", "allocated"])
def test_a_layer_is_what_walking_every_reading_gives(way):
    wafer, rng = machine(), np.random.default_rng(3)
    counts = rng.poisson(200 * rng.lognormal(0, 1, 30)).astype(float)
    owner = spread(30, wafer.dies)
    none = np.zeros((30, wafer.dies), bool)
    work = {
        "dealt": lambda: dealt(counts, wafer.dies, 128),
        "shared": lambda: shared(counts, wafer.dies),
        "home": lambda: at_home(counts, owner, wafer.dies),
        "allocated": lambda: allocated(wafer, SHAPE, counts, owner, none),
    }[way]()
    assert work.tokens.sum(axis=1) == pytest.approx(counts)
    cost = layer_cost(wafer, SHAPE, work, owner)
    busiest, hops, remote, local = oracle(wafer, work, owner)
    assert cost.loads.max() == pytest.approx(busiest)
    assert cost.link_s == pytest.approx(busiest / wafer.link_bytes_per_s)
    assert cost.hops == pytest.approx(hops)
    assert cost.remote_bytes == pytest.approx(remote)
    assert cost.local_bytes == pytest.approx(local)
    # Weights and commands cross as many links as there are hops on their ways: nothing is lost.
    assert cost.loads.sum() == pytest.approx(cost.byte_hops * (1 + COMMAND_BYTES / LINE_BYTES))


def test_experts_at_home_take_the_roofline_of_the_fullest_die():
    wafer = machine(1, 2)
    counts = np.array([10.0, 3000.0])
    cost = layer_cost(wafer, SHAPE, at_home(counts, np.array([0, 1]), 2), np.array([0, 1]))
    data = SHAPE.weight_bytes + 3000 * SHAPE.bytes_per_pair
    fill = (100 + 110 + 300) * 1e-9
    slowest = max(3000 * SHAPE.flops_per_pair / 1e15, data / 3e12)
    assert cost.seconds == pytest.approx(slowest + fill)
    assert cost.hops == cost.remote_bytes == cost.link_s == 0


def test_the_cache_spares_what_it_holds_of_an_expert_that_is_read_again():
    wafer = machine(1, 2)
    work = dealt(np.array([256.0]), 2, 64)
    small = replace(wafer, cache=replace(wafer.cache, capacity_bytes=SHAPE.weight_bytes / 4))
    whole = replace(wafer, cache=replace(wafer.cache, capacity_bytes=2 * SHAPE.weight_bytes))
    tokens = 128 * SHAPE.bytes_per_pair
    for one, readings in ((small, 1 + 3 * 0.75), (whole, 1.0)):
        cost = layer_cost(one, SHAPE, work, np.array([0]))
        assert cost.memory_s[0] == pytest.approx((readings * SHAPE.weight_bytes + tokens) / 3e12)


def test_a_copy_turns_a_remote_reading_into_a_local_one_and_is_written_once():
    wafer = machine(1, 3)
    work, owner = shared(np.array([300.0, 300.0]), 3), np.array([0, 2])
    copies = np.zeros((2, 3), bool)
    copies[0, 2] = True
    plain, kept = layer_cost(wafer, SHAPE, work, owner), layer_cost(wafer, SHAPE, work, owner, copies)
    third = SHAPE.weight_bytes / 3
    assert plain.remote_bytes - kept.remote_bytes == pytest.approx(third)
    assert plain.hops - kept.hops == 2
    assert plain.local_bytes + plain.remote_bytes == pytest.approx(kept.local_bytes + kept.remote_bytes)
    written = layer_cost(wafer, SHAPE, work, owner, written=copies)
    assert written.written_bytes == pytest.approx(third)
    assert written.memory_s[2] - plain.memory_s[2] == pytest.approx(third / 3e12)


def test_tokens_that_travel_load_the_links_both_ways():
    wafer = machine(1, 2)
    work = at_home(np.array([100.0, 0.0]), np.array([0, 1]), 2)
    cost = layer_cost(wafer, SHAPE, work, np.array([0, 1]), exchange=True)
    # Half of the tokens come from the other die and go back.
    assert cost.loads.tolist() == pytest.approx([50 * SHAPE.hidden * 2.0] * 2)


@given(
    st.integers(1, 4),
    st.integers(2, 5),
    st.integers(0, 10_000),
    st.sampled_from(["flops_per_s", "memory_bytes_per_s", "link_bytes_per_s"]),
    st.sampled_from(["shared", "dealt", "home", "in order"]),
)
def test_twice_of_anything_never_slows_a_layer(rows, columns, seed, name, way):
    wafer, rng = machine(rows, columns), np.random.default_rng(seed)
    experts = int(rng.integers(1, 20))
    counts = rng.integers(0, 2000, experts).astype(float)
    owner = spread(experts, wafer.dies)
    better = replace(wafer, **{name: 2 * getattr(wafer, name)})
    work = {
        "shared": lambda: shared(counts, wafer.dies),
        "dealt": lambda: dealt(counts, wafer.dies, 100),
        "home": lambda: at_home(counts, owner, wafer.dies),
        "in order": lambda: shared(counts, wafer.dies),
    }[way]()
    order = way == "in order"
    now, then = (layer_cost(w, SHAPE, work, owner, in_order=order).seconds for w in (wafer, better))
    assert then <= now * (1 + 1e-9)


def lockstep(wafer, owner, dies):
    """Busiest link or memory of one expert after the other: no die starts an expert before all are there."""
    part = SHAPE.weight_bytes / dies
    rate = wafer.link_bytes_per_s / (1 + COMMAND_BYTES / LINE_BYTES)
    total = 0.0
    for home in owner:
        traffic = np.zeros((dies, dies))
        traffic[home] = part
        link = grid_loads(traffic, wafer.shape).max(initial=0.0) / rate
        total += max(link, SHAPE.weight_bytes / wafer.memory_bytes_per_s)
    return total


@given(st.integers(1, 4), st.integers(2, 5), st.integers(1, 30), st.sampled_from([1e11, 1e12, 1e13]))
def test_readings_in_order_lie_between_no_waiting_and_lockstep(rows, columns, experts, link):
    wafer = machine(rows, columns, link)
    owner = spread(experts, wafer.dies)
    work = shared(np.full(experts, 100.0), wafer.dies)
    free = layer_cost(wafer, SHAPE, work, owner)
    found = layer_cost(wafer, SHAPE, work, owner, in_order=True)
    assert free.link_s <= found.link_s * (1 + 1e-9)
    assert found.link_s <= max(lockstep(wafer, owner, wafer.dies), free.link_s) * (1 + 1e-9)
    faster = replace(wafer, link_bytes_per_s=2 * link, memory_bytes_per_s=2 * wafer.memory_bytes_per_s)
    twice = layer_cost(faster, SHAPE, work, owner, in_order=True)
    assert twice.link_s == pytest.approx(found.link_s / 2)


@pytest.mark.parametrize("name", ["dojo-wafer", "sow-wafer"])
def test_faster_links_speed_up_the_wafers_of_the_catalogue(name):
    wafer, shape = Wafer.of(load_hardware(name)), ExpertShape(7168, 2048, 3, "bf16")
    owner = spread(256, wafer.dies)
    work = shared(np.full(256, 100.0), wafer.dies)
    faster = [replace(wafer, link_bytes_per_s=k * wafer.link_bytes_per_s) for k in (0.5, 1, 2, 4)]
    times = [layer_cost(w, shape, work, owner, in_order=True).seconds for w in faster]
    assert times == sorted(times, reverse=True)


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_allocation_keeps_to_its_rules(seed, experts):
    wafer, rng = machine(), np.random.default_rng(seed)
    counts = rng.poisson(rng.lognormal(5, 1.5, experts)).astype(float)
    owner = spread(experts, wafer.dies)
    copies = rng.random((experts, wafer.dies)) < 0.1
    work = allocated(wafer, SHAPE, counts, owner, copies)
    assert work.tokens.sum(axis=1) == pytest.approx(counts)
    near = np.where(copies, 0, wafer.hops()[owner])
    assert (near[work.tokens > 0] <= 1).all()
    assert ((work.reads == 1) == (work.tokens > 0)).all()
    parts = np.maximum(1, (counts / balance_tokens(wafer, SHAPE) * (1 + 1e-12)).astype(int))
    assert ((work.tokens > 0).sum(axis=1) <= parts).all()


def test_few_requests_stay_where_their_expert_is():
    wafer = machine()
    counts = np.full(24, 0.9 * balance_tokens(wafer, SHAPE)).round()
    owner = spread(24, wafer.dies)
    none = np.zeros((24, wafer.dies), bool)
    assert (allocated(wafer, SHAPE, counts, owner, none).tokens == at_home(counts, owner, 12).tokens).all()


def test_a_popular_expert_is_split_and_the_layer_gets_faster():
    wafer = machine()
    counts = np.full(24, 50.0)
    counts[5] = 20_000
    owner = spread(24, wafer.dies)
    none = np.zeros((24, wafer.dies), bool)
    split = layer_cost(wafer, SHAPE, allocated(wafer, SHAPE, counts, owner, none), owner).seconds
    home = layer_cost(wafer, SHAPE, at_home(counts, owner, 12), owner).seconds
    # The owner and its three neighbours: four dies at best.
    assert home / 4 < split < home / 3


def test_wafers_of_the_catalogue():
    dojo, sow = (Wafer.of(load_hardware(name)) for name in ("dojo-wafer", "sow-wafer"))
    assert (dojo.shape, sow.shape) == ((5, 5), (3, 8))
    for wafer in (dojo, sow):
        assert wafer.link_bytes_per_s == pytest.approx(1.7e12)
        assert wafer.memory_bytes_per_s == 3.35e12
        assert (wafer.memory_s, wafer.hop_s) == pytest.approx((300e-9, 200e-9))
        assert wafer.flops_per_s == 989e12
    better = Wafer.of(load_hardware("dojo-enhanced-wafer"))
    assert (better.link_bytes_per_s, better.memory_bytes_per_s, better.flops_per_s) == (2e12, 8e12, 4500e12)


def test_what_is_no_wafer_says_all_that_is_missing():
    with pytest.raises(ConfigError) as told:
        Wafer.of(load_hardware("h100-sxm-8"))
    assert "scale_up.topology" in str(told.value)
    assert "device.cache" in str(told.value)
