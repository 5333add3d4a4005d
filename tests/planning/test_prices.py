"""Prices from files and from the command line."""

from __future__ import annotations

import pytest

from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.planning.prices import quote, usd_per_hour, usd_per_million
from moesim.planning.types import Candidate
from moesim.prediction import Engine


@pytest.fixture(scope="module")
def machines():
    return [load_hardware("h100-sxm-8"), load_hardware("gb200-nvl72", nodes=2), load_hardware("h20-8")]


def test_files_prices_are_dated_and_stay(machines):
    found = quote(machines)
    assert found.hardware == tuple(machines)
    assert found.unpriced == ("h20-8",)
    assert set(found.prices) == {"h100-sxm-8", "gb200-nvl72"}
    assert all(price.date and price.vendor for price in found.prices.values())
    assert "h20-8" in found.notes()[0]
    assert "devices are minimised" in found.notes()[0]


@pytest.mark.parametrize("spelling", ["h20-8", "H20_8", "h20"])
def test_a_given_price_counts_in_any_spelling(machines, spelling):
    found = quote(machines, [f"{spelling}=1.25"])
    assert found.unpriced == ()
    assert found.prices["h20-8"].usd_per_hour == 1.25
    # Nothing but the price is another.
    assert found.hardware[2].with_nodes(3).num_devices == machines[2].with_nodes(3).num_devices
    assert found.hardware[0] is machines[0]
    assert any("1.25 USD per device and hour (--price)" in note for note in found.notes())


def test_every_fault_is_named_at_once(machines):
    given = ["h100-sxm-8=free", "h200=3", "h20-8", "h20-8=0", "gb200=4", "gb200-nvl72=5", "h100=inf"]
    with pytest.raises(ConfigError) as raised:
        quote(machines, given)
    said = [str(fault) for fault in raised.value.faults]
    assert len(said) == 6
    assert all(fault.where == "--price" for fault in raised.value.faults)
    assert "none of --hardware" in said[1]
    assert "nearest: h20-8" in said[1] or "nearest: h100-sxm-8" in said[1]
    assert "again" in said[4]


def test_cost_is_of_whole_nodes_and_all_replicas(machines):
    model = load_model("gpt-oss-20b")
    half = Candidate(model, machines[0], Parallelism(tp=4), 3, Engine())
    assert usd_per_hour(half) == pytest.approx(16 * machines[0].device.price.usd_per_hour)
    assert usd_per_hour(Candidate(model, machines[2], Parallelism(tp=4), 3, Engine())) is None


def test_dollars_per_million_tokens():
    # 8 devices at 3 USD/h and 2000 tokens/s: 24 USD for 7.2 million.
    assert usd_per_million(24.0, 2000.0) == pytest.approx(24.0 / 7.2)
