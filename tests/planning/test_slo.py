"""Promises as people write them, right and wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.planning.slo import METRICS, PRESETS, describe, parse_slo


@given(
    st.dictionaries(st.sampled_from(sorted(METRICS)), st.floats(1e-3, 1e9), min_size=1),
    st.booleans(),
    st.floats(0.01, 1.0),
)
def test_milliseconds_become_seconds_however_they_are_spread(limits, together, share):
    parts = [f"{name}:{value!r}" for name, value in limits.items()]
    slo = parse_slo([" ".join(parts)] if together else parts, attainment=share)
    assert slo.limits == {METRICS[n]: pytest.approx(v / 1000.0) for n, v in limits.items()}
    assert slo.attainment == share


@pytest.mark.parametrize(
    ("name", "ttft_ms", "tpot_ms"),
    [
        ("mlperf-llama2-70b-server", 2000, 200),
        ("mlperf-llama2-70b-interactive", 450, 40),
        ("mlperf-mixtral-8x7b-server", 2000, 200),
        ("mlperf-llama3.1-405b-server", 6000, 175),
        ("mlperf-llama3.1-405b-interactive", 4500, 80),
        ("mlperf-llama3.1-8b-server", 2000, 100),
        ("mlperf-llama3.1-8b-interactive", 500, 30),
        ("mlperf-deepseek-r1-server", 2000, 80),
        ("mlperf-deepseek-r1-interactive", 1500, 15),
        ("mlperf-gpt-oss-120b-server", 3000, 80),
        ("mlperf-gpt-oss-120b-interactive", 2000, 20),
    ],
)
def test_presets_are_the_benchmarks(name, ttft_ms, tpot_ms):
    slo = parse_slo(preset=name)
    assert slo.limits == {"ttft_s": ttft_ms / 1000.0, "tpot_s": tpot_ms / 1000.0}
    assert (slo.attainment, slo.name) == (0.99, name)
    assert PRESETS[name].source
    assert name in describe(slo)


def test_interactive_is_never_laxer_than_server():
    for name, preset in PRESETS.items():
        server = PRESETS[name.replace("-interactive", "-server")]
        assert preset.ttft_ms <= server.ttft_ms
        assert preset.tpot_ms <= server.tpot_ms


def test_limits_of_ones_own_take_the_place_of_the_presets():
    slo = parse_slo(["tpot:30"], "mlperf-deepseek-r1-server", 0.9)
    assert slo.limits == {"ttft_s": 2.0, "tpot_s": 0.03}
    assert slo.attainment == 0.9
    # It is no longer the benchmark's promise; one limit more leaves it that.
    assert slo.name == ""
    assert parse_slo(["e2el:9000"], "mlperf-deepseek-r1-server").name == "mlperf-deepseek-r1-server"


def test_every_fault_is_named_at_once():
    with pytest.raises(ConfigError) as raised:
        parse_slo(
            ["ttff:500", "tpot", "tpot:-1", "e2el:soon", "ttft:1", "ttft:2", "tpot:nan"],
            "mlperf-deepseek-r1-interactiv",
            1.5,
        )
    said = [str(fault) for fault in raised.value.faults]
    assert len(said) == 8
    assert "nearest: mlperf-deepseek-r1-interactive; " in said[0]
    assert all(name in said[0] for name in PRESETS)
    assert "nearest: ttft; " in said[1]
    assert "--attainment: is a share of requests (got 1.5)" in said[-1]
    assert any("again" in text and "ttft:2" in text for text in said)


def test_nothing_promised_is_a_fault():
    with pytest.raises(ConfigError, match="--goodput or --slo"):
        parse_slo()
