"""The protocol on times that are made up, so that the truth is known."""

from __future__ import annotations

import gc
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.reference import protocol
from moesim.reference.layer import Timing


@dataclass
class Machine:
    """A machine of virtual time, whose speed changes as it goes."""

    slowdown: object = field(default=lambda _t: 1.0)
    noise: float = 0.0
    seed: int = 0
    ran: list = field(default_factory=list)

    def __post_init__(self):
        self.now, self.rng = 0.0, np.random.default_rng(self.seed)


@dataclass
class Fake:
    """A case that takes `truth` seconds on an undisturbed machine."""

    machine: Machine
    name: int
    truth: float
    counts: object = None
    loads: int = 0

    def run(self) -> Timing:
        machine = self.machine
        seconds = self.truth * machine.slowdown(machine.now) * math.exp(machine.rng.normal(0, machine.noise))
        machine.now += seconds
        machine.ran.append(self.name)
        return Timing(seconds, {"experts": 0.75 * seconds, "router": 0.25 * seconds})

    def output(self):
        raise NotImplementedError

    def close(self):
        pass


def cases(machine, count=30):
    truth = np.exp(np.random.default_rng(7).uniform(-7, -3, count))
    return truth, [Fake(machine, i, float(t)) for i, t in enumerate(truth)]


def test_every_round_runs_everything_once_in_another_order():
    machine = Machine()
    told = []
    _, fakes = cases(machine, 12)
    found = protocol.measure(
        fakes, rounds=4, warm_up=2, progress=lambda done, total: told.append((done, total))
    )
    orders = [tuple(machine.ran[i : i + 12]) for i in range(0, len(machine.ran), 12)]
    assert len(orders) == len(set(orders)) == 6
    assert all(Counter(order) == Counter(range(12)) for order in orders)
    assert told == [(i, 72) for i in range(1, 73)]
    assert found.seconds.shape == found.wall_s.shape == (4, 12)
    assert np.isnan(found.wall_s).all()
    np.testing.assert_allclose(sum(found.parts.values()), found.seconds)
    assert found.rounds == len(found.timings) == 4


def test_quiet_machine_tells_the_truth():
    truth, fakes = cases(Machine())
    found = protocol.measure(fakes)
    np.testing.assert_allclose(found.medians(), truth)
    assert found.floor == protocol.Floor(0.0, 0.0)
    assert found.conclusive


def test_orders_follow_the_seed():
    ran = []
    for seed in (1, 1, 2):
        machine = Machine()
        protocol.measure(cases(machine, 8)[1], rounds=2, seed=seed)
        ran.append(machine.ran)
    assert ran[0] == ran[1] != ran[2]


@pytest.mark.parametrize("seed", range(5))
def test_pairing_beats_drift(seed):
    """Half of the cases predict the others by one factor, as a calibration does: shared drift cancels.

    The factor is known to be 1. Unpaired, it comes from a calibration that was over before the drift.
    """
    drift = Machine(slowdown=lambda t: 1.0 + 0.15 * t, noise=0.03, seed=seed)
    truth, fakes = cases(drift)
    before = protocol.measure(fakes[:15], rounds=3, warm_up=0)
    found = protocol.measure(fakes, rounds=7, warm_up=0)
    assert found.seconds[-1].sum() > 1.3 * found.seconds[0].sum()
    once = np.median(before.seconds / truth[:15])
    each = np.median(found.seconds[:, :15] / truth[:15], axis=1)
    unpaired = protocol.paired_log_ratio(once * truth[15:], found.seconds[:, 15:])
    paired = protocol.paired_log_ratio(each[:, None] * truth[15:], found.seconds[:, 15:])
    assert np.median(np.abs(paired)) < 0.04
    assert np.median(np.abs(paired)) < 0.25 * np.median(np.abs(unpaired))


@settings(max_examples=20)
@given(error=st.floats(-0.5, 0.5), seed=st.integers(0, 1000))
def test_planted_error_is_found(error, seed):
    truth, fakes = cases(Machine(noise=0.02, seed=seed), 40)
    found = protocol.measure(fakes, rounds=5)
    got = protocol.paired_log_ratio(truth * math.exp(error), found.seconds)
    assert float(np.median(got)) == pytest.approx(error, abs=0.01)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.3])
def test_floor_finds_planted_noise(noise):
    """Of 7 rounds, a median of 4 against one of 3: its distance has a known law, drawn here at random."""
    _, fakes = cases(Machine(noise=noise), 400)
    found = protocol.measure(fakes, rounds=7)
    draws = np.random.default_rng(0).normal(0, noise, (7, 100_000))
    apart = np.abs(np.median(draws[::2], axis=0) - np.median(draws[1::2], axis=0))
    assert found.floor.median == pytest.approx(np.median(apart), rel=0.15)
    assert found.floor.p95 == pytest.approx(np.quantile(apart, 0.95), rel=0.15)
    assert found.conclusive == (noise < 0.1)


def test_floor_sees_slow_spells():
    """A machine that is slow every other round: no statistic over all rounds shows it, the floor does."""
    seconds = np.tile([[1.0], [1.5]], (3, 8))
    floor = protocol.aa_floor(seconds)
    assert floor.median == pytest.approx(math.log(1.5))
    assert not floor.conclusive


def test_paired_floor_is_blind_to_what_a_round_shares():
    truth, _ = cases(Machine(), 200)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.02, (8, 200)))
    speed = np.array([1.0, 1.6, 1.1, 1.5, 1.2, 1.4, 1.0, 1.7])
    rows = [[Timing(s, {}) for s in row] for row in speed[:, None] * truth * noise]
    found = protocol.measured(rows)
    assert found.floor.median > 0.25
    assert found.paired_floor.median == pytest.approx(protocol.aa_floor(noise).median, rel=0.1)
    np.testing.assert_allclose(found.drift / found.drift[0], speed, rtol=0.01)


def test_floor_of_one_round_is_unknown():
    assert protocol.aa_floor(np.ones((1, 5))).median == math.inf
    assert not protocol.aa_floor(np.ones((1, 5))).conclusive


def test_limit_keeps_whole_rounds(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(protocol.time, "monotonic", lambda: machine.now)
    fakes = [Fake(machine, i, 1.0) for i in range(5)]
    found = protocol.measure(fakes, rounds=50, limit_s=32.0)
    assert machine.now == 30.0  # the seventh round, warm-up being the first, would have ended at 35
    assert found.seconds.shape == (5, 5)
    found = protocol.measure(fakes, rounds=50, limit_s=1.0)
    assert found.rounds == protocol.FEWEST
    assert protocol.measure(fakes, rounds=3, limit_s=1e9).rounds == 3


def test_interrupt_passes_through():
    class Stops(Fake):
        def run(self):
            raise KeyboardInterrupt

    machine = Machine()
    with pytest.raises(KeyboardInterrupt):
        protocol.measure([Fake(machine, 0, 1.0), Stops(machine, 1, 1.0)])
    assert gc.isenabled()


def test_no_garbage_is_collected_meanwhile():
    enabled = []

    class Looks(Fake):
        def run(self):
            enabled.append(gc.isenabled())
            return super().run()

    protocol.measure([Looks(Machine(), 0, 1.0)], rounds=3)
    assert enabled == [False] * 4
    assert gc.isenabled()


def test_parts_that_only_some_runs_have():
    rows = [[Timing(2.0, {"experts": 1.5, "copy": 0.5}), Timing(1.0, {"experts": 1.0})]] * 2
    found = protocol.measured(rows)
    np.testing.assert_array_equal(found.parts["copy"], [[0.5, 0.0]] * 2)
