"""What a peer of an all-to-all costs, against measured exchanges over EFA."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.fabric import EFA, PEER_S, PeerCost, all_to_all
from moesim.hardware import load_hardware

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "fabric"))

from peer_cost import HELD_OUT, fit, measured, modelled


def test_a_power_of_the_message_fitted_on_up_to_128_gpus_describes_256():
    gpus, _, seconds = measured()
    assert len(gpus) == 35
    held = gpus == HELD_OUT
    error = {
        name: np.abs(modelled(cost) / seconds - 1.0)[held]
        for name, cost in (("efa", EFA), ("posts", PEER_S), ("links", 0.0))
    }
    assert np.median(error["efa"]) < 0.05
    assert error["efa"].max() < 0.10
    assert np.median(error["posts"]) > 0.2
    assert np.median(error["links"]) > np.median(error["posts"])


def test_what_is_shipped_is_what_the_benchmark_fits():
    found = fit()
    assert pytest.approx(found.seconds_at_mb, rel=0.01) == EFA.seconds_at_mb
    assert pytest.approx(found.power, abs=0.01) == EFA.power


def test_no_measured_exchange_is_faster_than_the_links():
    _, _, seconds = measured()
    assert (modelled(0.0) <= 1.01 * seconds).all()


@given(st.floats(1.0, 1e12), st.floats(1.0, 1e3))
def test_larger_messages_cost_more_each_and_less_per_byte(bytes_, times):
    small, large = float(EFA(bytes_)), float(EFA(times * bytes_))
    assert small <= large <= times * small * (1 + 1e-12)


def test_a_constant_cost_is_a_power_of_zero_for_every_algorithm():
    machine, sizes = load_hardware("a100-sxm-80gb-8", nodes=8), np.array([1e4, 1e6, 1e9])
    for name in ("flat", "two_level", "leader"):
        constant = all_to_all(machine, 64, sizes, name, message_s=5e-6)
        assert all_to_all(machine, 64, sizes, name, message_s=PeerCost(5e-6, 0.0)) == pytest.approx(constant)


def test_fewer_and_larger_messages_pay_where_each_costs():
    """Eight times as large and an eighth as many: with the square root, a third of the cost."""
    machine, size = load_hardware("h100-sxm-8", nodes=64), np.array(64e6)
    free, costly = (
        {name: float(all_to_all(machine, 512, size, name, message_s=cost)) for name in ("flat", "two_level")}
        for cost in (0.0, EFA)
    )
    ratio = (costly["two_level"] - free["two_level"]) / (costly["flat"] - free["flat"])
    assert ratio == pytest.approx(62 / 503 * 8**EFA.power)
