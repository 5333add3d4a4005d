"""Replications: the same on any number of processes, and intervals by Student."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

import moesim as ms
from moesim.errors import ConfigError
from moesim.provenance import clean
from moesim.requests import Fixed, Lognormal, generate_requests, parse_arrivals
from moesim.serving.replications import Looking, Made, Recorded, replicate
from moesim.serving.settings import Fleet
from moesim.serving.simulate import prepare

TRAFFIC = Made(200, parse_arrivals("poisson:20"), Lognormal(300.0, 0.5), Fixed(40))


@pytest.fixture(scope="module")
def ready():
    return prepare(
        ms.load_model("gpt-oss-20b"),
        ms.load_hardware("h100-sxm-8"),
        ms.Parallelism(),
        TRAFFIC.draw(0),
        longest=4096,
        fleet=Fleet(2, "random"),
    )


def test_any_number_of_processes_gives_the_same_bytes(ready):
    looking = Looking({"ttft_s": 0.05, "tpot_s": 0.01})
    texts = [
        json.dumps(
            clean(replicate(ready, TRAFFIC, 4, seed=7, processes=p, looking=looking).document()),
            allow_nan=False,
        )
        for p in (1, 4)
    ]
    assert texts[0] == texts[1]


def test_means_and_intervals_are_students(ready):
    found = replicate(ready, TRAFFIC, 5)
    rows = found.values["replications"]["rows"]
    assert found.values["replications"]["seeds"] == [0, 1, 2, 3, 4]
    for name in ("ttft_s", "e2el_s.p99", "request_throughput", "utilisation"):
        sample = np.array([row[name] for row in rows])
        assert len(set(sample)) == 5
        low, high = stats.t.interval(0.95, 4, sample.mean(), stats.sem(sample))
        assert found.interval[name] == pytest.approx((low, high))
    assert found.values["ttft_s"] == pytest.approx(np.mean([row["ttft_s"] for row in rows]))
    assert found.values["latency"]["ttft_s"]["p90"] == pytest.approx(
        np.mean([row["ttft_s.p90"] for row in rows])
    )


def test_the_first_replication_of_a_trace_is_the_trace(ready):
    trace = generate_requests(200, "gamma:20:3", 300, 40, seed=11)
    traffic = Recorded(trace, first=3)
    assert traffic.draw(3) is trace
    other, again = traffic.draw(4), traffic.draw(4)
    assert len(other) == 200
    assert (other.arrival_s == again.arrival_s).all()
    assert not np.array_equal(other.arrival_s, trace.arrival_s)
    found = replicate(ready, traffic, 2, seed=3, looking=Looking(None, "none", "none"))
    alone = replicate(ready, traffic, 1, seed=3, looking=Looking(None, "none", "none"))
    assert found.values["replications"]["rows"][0] == alone.values["replications"]["rows"][0]
    assert alone.interval == {}


def test_more_replications_are_surer(ready):
    few, many = replicate(ready, TRAFFIC, 4), replicate(ready, TRAFFIC, 16)
    width = [f.interval["e2el_s"][1] - f.interval["e2el_s"][0] for f in (few, many)]
    assert width[1] < width[0]


def test_none_are_refused(ready):
    with pytest.raises(ConfigError, match="2 faults"):
        replicate(ready, TRAFFIC, 0, processes=0)
