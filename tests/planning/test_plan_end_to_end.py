"""A plan holds in the simulator, is the cheapest that does, and says why others fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.hardware.types import Price
from moesim.layout import Disaggregated
from moesim.model import load_model
from moesim.planning.search import plan
from moesim.planning.types import CONFIRMED, RANKED, Slo, Space, Traffic
from moesim.requests import Lognormal, generate_requests

SPACE = Space(max_devices=2, pp=(1,), chunk_tokens=(2048,), max_sequences=(64, 256))


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    """Somewhat uneven lengths at 40 requests per second."""
    requests = generate_requests(6000, "poisson:40", Lognormal(600, 0.8), Lognormal(120, 0.6), seed=5)
    return Traffic(requests, 40.0)


@pytest.fixture(scope="module")
def machines():
    """Two kinds."""
    return [load_hardware("h100-sxm-8"), load_hardware("h200-sxm-8")]


def test_plan_holds_and_repeats(traffic, machines):
    model, slo = load_model("gpt-oss-20b"), Slo({"ttft_s": 0.2, "tpot_s": 0.02}, 0.95)
    first = plan([model], machines, traffic, slo, space=SPACE, seed=3)
    again = plan([model], machines, traffic, slo, space=SPACE, seed=3)
    assert first.best.status == CONFIRMED
    assert first.best.metrics["attainment"] >= 0.95
    assert first.best.usd_per_hour == pytest.approx(
        first.best.candidate.devices * first.best.candidate.hardware.device.price.usd_per_hour
    )
    assert first.best.candidate.layout == again.best.candidate.layout
    assert first.best.metrics == again.best.metrics
    assert first.searched["configurations"] == sum(
        first.searched.get(s, 0) for s in ("ranked", "too-slow", "beyond-bound", "unfit")
    )


def test_without_a_price_devices_are_minimised(traffic, machines):
    model, slo = load_model("gpt-oss-20b"), Slo({"tpot_s": 0.02}, 0.95)
    price = Price(1.0, "us", "2026-01-01")
    found = plan([model], machines, traffic, slo, space=SPACE, prices={"h100-sxm-8": price}, confirm=1)
    assert found.best.usd_per_hour is None
    assert any("h200-sxm-8" in note for note in found.notes)


def test_impossible_promises_name_the_limit(traffic, machines):
    model = load_model("gpt-oss-20b")
    with pytest.raises(InfeasibleError) as caught:
        plan([model], machines, traffic, Slo({"tpot_s": 1e-5}, 0.95), space=SPACE)
    assert caught.value.resource == "tpot_s"
    assert caught.value.available > caught.value.needed == 1e-5


def test_pools_are_as_many_as_the_traffic_needs(traffic, machines):
    model, slo = load_model("gpt-oss-20b"), Slo({"ttft_s": 0.2, "tpot_s": 0.01}, 0.95)
    space = replace(SPACE, modes=("disaggregated",))
    found = plan([model], machines[:1], traffic, slo, space=space, confirm=0)
    assert found.best.status == RANKED
    assert not any("pools" in note for note in found.notes)
    assert any("nothing was simulated" in note for note in found.notes)
    layout = found.best.candidate.layout
    assert isinstance(layout, Disaggregated)
    assert found.best.metrics["most_request_rate"] >= 40.0
    assert found.best.metrics["tpot_s"] <= 0.01
    doubled = Traffic(traffic.requests, 400.0)
    more = plan([model], machines[:1], doubled, slo, space=space, confirm=0).best.candidate.layout
    assert isinstance(more, Disaggregated)
    assert more.world > layout.world


def test_measured_runs_say_how_sure_the_model_is(traffic, machines):
    model, slo = load_model("gpt-oss-20b"), Slo({"tpot_s": 0.02}, 0.95)
    found = plan([model], machines[:1], traffic, slo, space=SPACE, confirm=0)
    low, high = found.best.interval["model_tpot_s"]
    assert 0 < low < high


def test_all_faults_at_once(traffic):
    with pytest.raises(ConfigError) as caught:
        plan([], [], traffic, Slo({"speed": -1.0}, 2.0), space=Space(tp=(0,), modes=()))
    assert len(caught.value.faults) >= 6


def test_empty_traffic_is_a_fault(machines):
    empty = generate_requests(1, "poisson:1", 10, 10).head(0)
    with pytest.raises(ConfigError, match="holds no requests"):
        plan([load_model("gpt-oss-20b")], machines, Traffic(empty, 1.0), Slo({"ttft_s": 1.0}))
