"""Links that transfers share, against closed forms, brute force and a linear program."""

from __future__ import annotations

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from moesim.serving.links import MOST_LINKS, Links, fair_rates


def padded(paths):
    table = np.full((len(paths), MOST_LINKS), -1, np.int32)
    for row, path in zip(table, paths, strict=True):
        row[: len(path)] = path
    return table


def sent(capacity, transfers):
    """End of every transfer ``(start, path, size)``, and the links."""
    env = simpy.Environment()
    links, ends = Links(env, capacity), [np.nan] * len(transfers)

    def one(i, start, path, size):
        yield env.timeout(start)
        yield links.send(path, size).done
        ends[i] = env.now

    for i, (start, path, size) in enumerate(transfers):
        env.process(one(i, start, path, size))
    env.run()
    return ends, links


def test_a_transfer_alone_takes_bytes_over_bandwidth():
    ends, links = sent([50.0, 20.0], [(1.0, (0, 1), 100.0)])
    assert ends == [6.0]
    assert links.carried.tolist() == [100.0, 100.0]


def test_two_share_a_link_and_the_longer_one_speeds_up():
    # Each gets 5 B/s until the first is done at 2 s; then the other has 10 left of 20 and all of 10 B/s.
    assert sent([10.0], [(0.0, (0,), 10.0), (0.0, (0,), 20.0)])[0] == [2.0, 3.0]


def test_a_transfer_that_comes_later_slows_the_first():
    assert sent([10.0], [(0.0, (0,), 15.0), (1.0, (0,), 5.0)])[0] == [2.0, 2.0]


def test_what_a_slow_receiver_leaves_goes_to_the_others():
    # The second is held to 2 B/s by its receiver, so the first has 8 of the sender's 10.
    assert sent([10.0, 100.0, 2.0], [(0.0, (0, 1), 16.0), (0.0, (0, 2), 4.0)])[0] == [2.0, 2.0]


def test_a_limit_of_the_transfer_itself_counts():
    rates = fair_rates(padded([(0,), (0,)]), np.array([1.0, np.inf]), np.array([10.0]))
    assert rates.tolist() == [1.0, 9.0]


def test_a_limit_that_is_lifted_lets_the_rest_pass():
    env = simpy.Environment()
    links = Links(env, [10.0])
    one = links.send((0,), 20.0, limit=2.0)

    def lift():
        yield env.timeout(5.0)
        links.set_limit(one, np.inf)

    env.process(lift())
    env.run(until=one.done)
    assert env.now == 6.0


def test_a_transfer_that_is_broken_off_frees_its_links():
    env = simpy.Environment()
    links = Links(env, [10.0])
    first, second = links.send((0,), 100.0), links.send((0,), 10.0)

    def stop():
        yield env.timeout(1.0)
        links.cancel(first)
        links.cancel(first)

    env.process(stop())
    env.run(until=second.done)
    assert env.now == pytest.approx(1.5)
    env.run()
    assert not first.done.triggered
    assert links.carried.tolist() == [15.0]


def test_nothing_to_send_is_sent_at_once():
    assert sent([10.0], [(0.0, (0,), 100.0), (1.0, (0,), 0.0)])[0] == [10.0, 1.0]


def test_latency_comes_once_however_rates_change():
    env = simpy.Environment()
    links = Links(env, [10.0])
    first = links.send((0,), 10.0, latency_s=1.0)
    links.send((0,), 2.0)
    env.run(until=first.done)
    # The other one is done at 0.4 s; nothing of the first crosses before 1 s.
    assert env.now == 2.0


def test_processor_sharing_of_one_link_is_that_of_theory():
    # M/M/1 processor sharing: mean sojourn is S / (1 - rho), whatever the sizes' law; here rho is 0.6.
    rng = np.random.default_rng(3)
    starts = np.cumsum(rng.exponential(1.0, 6000))
    sizes = rng.choice([0.2, 0.8], 6000, p=[1 / 3, 2 / 3])
    ends, _ = sent([1.0], [(t, (0,), s) for t, s in zip(starts, sizes, strict=True)])
    assert np.mean(np.array(ends) - starts) == pytest.approx(0.6 / 0.4, rel=0.1)


networks = st.integers(1, 5).flatmap(
    lambda links: st.tuples(
        st.lists(st.integers(1, 40), min_size=links, max_size=links),
        st.lists(
            st.tuples(
                st.lists(st.integers(0, links - 1), min_size=1, max_size=min(links, MOST_LINKS), unique=True),
                st.one_of(st.none(), st.integers(1, 30)),
            ),
            min_size=1,
            max_size=7,
        ),
    )
)


def by_linear_programs(capacity, paths, limits):
    """Max-min by its definition: raise the least as far as it goes, fix those that cannot rise, repeat."""
    n = len(paths)
    rows = np.array([[float(link in path) for path in paths] for link in range(len(capacity))])
    fixed = np.full(n, np.nan)
    while np.isnan(fixed).any():
        open_ = np.isnan(fixed)
        most = []
        # The common level of all that are open, then how far each can go while the others keep that level.
        level = linprog(
            [-1.0],
            A_ub=rows @ open_[:, None].astype(float),
            b_ub=capacity - rows @ np.where(open_, 0.0, np.nan_to_num(fixed)),
            bounds=[(0.0, min(limits[open_]) if np.isfinite(min(limits[open_])) else None)],
        ).x[0]
        for i in np.flatnonzero(open_):
            others = np.where(open_, level, fixed)
            others[i] = 0.0
            room = [c for c, row in zip(capacity - rows @ others, rows, strict=True) if row[i]]
            most.append((min([*room, limits[i]]), i))
        for reach, i in most:
            if reach <= level * (1 + 1e-9) + 1e-12:
                fixed[i] = level
    return fixed


@given(networks)
@settings(max_examples=80, deadline=None)
def test_rates_are_max_min_fair(network):
    capacity, transfers = np.array(network[0], float), network[1]
    paths = [path for path, _ in transfers]
    limits = np.array([np.inf if limit is None else float(limit) for _, limit in transfers])
    rates = fair_rates(padded(paths), limits, capacity)
    np.testing.assert_allclose(rates, by_linear_programs(capacity, paths, limits), rtol=1e-7)
    used = np.zeros(len(capacity))
    for rate, path in zip(rates, paths, strict=True):
        used[path] += rate
    assert np.all(used <= capacity * (1 + 1e-12))
    # Whoever has less than it could use passes a full link on which nobody has more.
    for i, path in enumerate(paths):
        if rates[i] < limits[i]:
            assert any(
                used[link] >= capacity[link] * (1 - 1e-12)
                and rates[i] >= max(rates[j] for j, other in enumerate(paths) if link in other) * (1 - 1e-12)
                for link in path
            )


@given(networks, st.lists(st.tuples(st.integers(0, 20), st.integers(1, 50)), min_size=7, max_size=7))
@settings(max_examples=80, deadline=None)
def test_bytes_are_conserved_and_no_link_carries_more_than_it_can(network, when):
    capacity = np.array(network[0], float)
    transfers = [
        (start / 8, path, float(size))
        for (path, _), (start, size) in zip(network[1], when[: len(network[1])], strict=True)
    ]
    ends, links = sent(capacity, transfers)
    assert not links.active
    expected = np.zeros(len(capacity))
    for _, path, size in transfers:
        expected[path] += size
    np.testing.assert_allclose(links.carried, expected, rtol=1e-9)
    assert np.all(links.carried <= capacity * max(ends) * (1 + 1e-9))
    for (start, path, size), end in zip(transfers, ends, strict=True):
        alone = size / min(capacity[path])
        assert start + alone <= end * (1 + 1e-9)
    # A little step at a time gives the same.
    np.testing.assert_allclose(ends, by_small_steps(capacity, transfers), atol=0.02)


def by_small_steps(capacity, transfers, dt=0.005):
    """The same with time in small steps."""
    left = np.array([size for _, _, size in transfers])
    ends, t = np.full(len(left), np.nan), 0.0
    while np.isnan(ends).any():
        open_ = [i for i, (start, _, _) in enumerate(transfers) if start <= t + 1e-9 and np.isnan(ends[i])]
        if open_:
            rates = fair_rates(
                padded([transfers[i][1] for i in open_]), np.full(len(open_), np.inf), np.asarray(capacity)
            )
            for i, rate in zip(open_, rates, strict=True):
                if left[i] <= rate * dt:
                    ends[i] = t + left[i] / rate
                left[i] -= rate * dt
        t += dt
    return ends
