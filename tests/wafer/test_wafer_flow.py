"""Readings in order: closed forms, bounds, and a slow oracle in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.fabric import grid_loads
from moesim.wafer.flow import fastest_in_order, in_order_seconds, merged, routes


def oracle(shape, data, source, memory, link):
    """The same by progressive filling with sets of resources."""
    experts, dies = data.shape
    place, left, now, finish = [-1] * dies, [0.0] * dies, 0.0, [0.0] * dies
    while True:
        for d in range(dies):
            while left[d] <= 1e-12 and place[d] < experts:
                place[d] += 1
                if place[d] < experts:
                    left[d] = data[place[d], d]
                else:
                    finish[d] = now
        flows = {d: resources(shape, source[place[d], d], d) for d in range(dies) if place[d] < experts}
        if not flows:
            return np.array(finish)
        free, rates = {}, {}
        for used in flows.values():
            for r in used:
                free[r] = memory[r[1]] if r[0] == "memory" else link
        while len(rates) < len(flows):
            share = {
                r: free[r] / n
                for r in free
                if (n := sum(r in used for d, used in flows.items() if d not in rates))
            }
            tight = min(share, key=share.get)
            for d, used in flows.items():
                if d not in rates and tight in used:
                    rates[d] = share[tight]
                    for r in used:
                        free[r] -= share[tight]
        step = min(left[d] / rates[d] for d in flows)
        now += step
        for d in flows:
            left[d] -= rates[d] * step
            if left[d] < 1e-9 * data[place[d], d]:
                left[d] = 0.0


def resources(shape, source, reader):
    columns = shape[1]
    at, used = source, {("memory", source)}
    while at % columns != reader % columns:
        step = 1 if reader % columns > at % columns else -1
        used.add(("link", at, at + step))
        at += step
    while at != reader:
        step = columns if reader > at else -columns
        used.add(("link", at, at + step))
        at += step
    return used


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=40)
def test_equals_the_oracle(rows, columns, experts, seed):
    rng, dies = np.random.default_rng(seed), rows * columns
    data = rng.integers(0, 4, (experts, dies)) * rng.random((experts, dies))
    source = rng.integers(0, dies, (experts, dies))
    memory, link = rng.uniform(0.5, 4, dies), rng.uniform(0.5, 4)
    found = in_order_seconds((rows, columns), data, source, memory, link)
    assert found == pytest.approx(oracle((rows, columns), data, source, memory, link), rel=1e-6)


@given(st.integers(0, 10**6))
def test_no_faster_than_any_link_or_memory_and_no_slower_than_one_after_another(seed):
    rng, shape = np.random.default_rng(seed), (2, 3)
    data, source = rng.random((5, 6)), rng.integers(0, 6, (5, 6))
    memory, link = np.full(6, 2.0), 1.5
    traffic = np.zeros((6, 6))
    np.add.at(traffic, (source, np.broadcast_to(np.arange(6), source.shape)), data)
    found = in_order_seconds(shape, data, source, memory, link)
    least = max((grid_loads(traffic, shape) / link).max(), (traffic.sum(axis=1) / memory).max())
    assert least * (1 - 1e-9) <= found.max() <= data.sum() / min(link, 2.0) * (1 + 1e-9)


def test_one_owner_at_the_end_of_a_line_gives_its_link_to_all():
    # Four dies behind one link: together they read 4 bytes at 1 byte/s; the owner reads at 3 bytes/s left.
    data, source = np.array([[1.0, 1, 1, 1, 1]]), np.zeros((1, 5), int)
    assert in_order_seconds((1, 5), data, source, np.full(5, 4.0), 1.0) == pytest.approx([1 / 3, 4, 4, 4, 4])


def test_readings_from_the_own_memory_take_only_that():
    data = np.ones((7, 4))
    source = np.broadcast_to(np.arange(4), data.shape)
    found = in_order_seconds((2, 2), data, source, np.array([1.0, 2.0, 4.0, 8.0]), 1e-3)
    assert found == pytest.approx([7, 3.5, 1.75, 0.875])


def test_a_way_uses_the_memory_it_starts_from_and_each_link_once():
    starts, used, count = routes((2, 2))
    assert count == 4 + 8
    pair = used[starts[0 * 4 + 3] : starts[0 * 4 + 4]]
    assert pair[0] == 0
    assert len(set(pair.tolist())) == 3


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_readings_from_one_memory_in_a_row_are_one(seed):
    rng = np.random.default_rng(seed)
    data, source = rng.integers(0, 3, (9, 6)).astype(float), rng.integers(0, 3, (9, 6))
    less, origin = merged(data, source)
    assert less.sum(axis=0) == pytest.approx(data.sum(axis=0))
    rates = rng.uniform(1, 3, 6)
    long, short = (in_order_seconds((2, 3), *lists, rates, 1.0) for lists in ((data, source), (less, origin)))
    assert short == pytest.approx(long, rel=1e-6)


def test_links_that_bring_all_into_step_are_no_slower_than_those_that_do_not():
    # On the wafer of the paper: at four times the links all dies read from one memory after the other.
    dies, weight = 25, 88e6
    owner = np.arange(256) * dies // 256
    data, source = np.full((256, dies), weight / dies), np.repeat(owner[:, None], dies, axis=1)
    slow, fast = (
        in_order_seconds((5, 5), data, source, np.full(dies, 3.35e12), k * 1.7e12).max() for k in (1, 4)
    )
    assert fast == pytest.approx(256 * weight / 3.35e12)
    assert slow < fast
    found = [fastest_in_order((5, 5), data, source, 3.35e12, k * 1.7e12) for k in (0.5, 1, 2, 4)]
    assert found == sorted(found, reverse=True)
    assert found[1] == found[3] == pytest.approx(slow)
