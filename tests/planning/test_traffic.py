"""Traffic from options."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.errors import ConfigError
from moesim.planning.traffic import make_traffic
from moesim.requests import request_trace, write_requests


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(1)
    arrivals = np.cumsum(rng.exponential(0.5, 500)) + 100.0
    trace = request_trace(arrivals, rng.integers(10, 4000, 500), rng.integers(1, 900, 500))
    path = tmp_path / "requests.parquet"
    write_requests(trace, path)
    return path, trace


def test_a_files_own_rate(file):
    path, trace = file
    found = make_traffic(path)
    span = trace.arrival_s[-1] - trace.arrival_s[0]
    assert found.request_rate == pytest.approx(499 / span)
    assert np.array_equal(found.requests.input_tokens, trace.input_tokens)


@pytest.mark.parametrize("rate", [0.1, 7.0, 1000.0])
def test_another_rate_stretches_time_and_keeps_bursts(file, rate):
    path, trace = file
    found = make_traffic(path, rate)
    gaps, own = np.diff(found.requests.arrival_s), np.diff(trace.arrival_s)
    assert found.requests.arrival_s[0] == 0.0
    assert 1.0 / gaps.mean() == pytest.approx(rate)
    assert gaps.std() / gaps.mean() == pytest.approx(own.std() / own.mean())
    assert make_traffic(path, rate, requests=20).requests.arrival_s[-1] < found.requests.arrival_s[-1]


def test_made_up_requests_have_what_was_asked():
    found = make_traffic(None, 50.0, "1000", "lognormal:200:1", requests=20_000, burstiness=0.25, seed=3)
    gaps = np.diff(found.requests.arrival_s)
    assert 1.0 / gaps.mean() == pytest.approx(50.0, rel=0.06)
    # Burstiness 1/4: gaps vary twice as much as Poisson's.
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.06)
    assert set(found.requests.input_tokens) == {1000}
    assert found.requests.output_tokens.mean() == pytest.approx(200.0, rel=0.05)
    again = make_traffic(None, 50.0, "1000", "lognormal:200:1", requests=20_000, burstiness=0.25, seed=3)
    assert np.array_equal(again.requests.arrival_s, found.requests.arrival_s)


def test_requests_that_all_wait_need_a_rate(tmp_path):
    path = tmp_path / "closed.parquet"
    write_requests(request_trace(np.zeros(50), np.full(50, 10), np.full(50, 5), concurrency=4), path)
    with pytest.raises(ConfigError, match="--request-rate"):
        make_traffic(path)
    found = make_traffic(path, 5.0)
    assert found.requests.concurrency is None
    assert found.requests.arrival_s[-1] > 0


def test_every_fault_at_once(tmp_path):
    with pytest.raises(ConfigError) as raised:
        make_traffic(None, -1.0, "lognormal:0:1", None, requests=0, burstiness=-2.0)
    assert [fault.where for fault in raised.value.faults] == [
        "--request-rate", "--num-requests", "--burstiness", "--output-len", "--input-len",
    ]  # fmt: skip
    (tmp_path / "bad.csv").write_text("no,such\n1,2\n")
    with pytest.raises(ConfigError) as raised:
        make_traffic(tmp_path / "bad.csv", float("nan"), "10")
    assert {fault.where for fault in raised.value.faults} >= {"--request-rate", "--input-len"}
    assert any("bad.csv" in str(fault) for fault in raised.value.faults)
