"""Files of a run: read back by other readers, and slices that nest."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import moesim as ms
from moesim.errors import ConfigError
from moesim.requests import generate_requests, load_requests, parse_lengths
from moesim.serving.export import write_aiperf, write_bench, write_table, write_timeline
from moesim.serving.settings import Fleet
from moesim.serving.statistics import summarise
from moesim.serving.warmup import window_of
from moesim.validate.bench_aiperf import read_aiperf
from moesim.validate.bench_serve import read_vllm


@pytest.fixture(scope="module")
def outcome():
    requests = generate_requests(
        300, "gamma:20:2", parse_lengths("lognormal:900:1"), parse_lengths("lognormal:30:3"), seed=4
    )
    return ms.simulate(
        ms.load_model("gpt-oss-20b"),
        ms.load_hardware("h100-sxm-8"),
        ms.Parallelism(),
        requests,
        fleet=Fleet(2),
    )


def test_aiperf_files_are_read_back(outcome, tmp_path):
    window = window_of(outcome, 0.0, 0.0)
    statistics, requests = write_aiperf(outcome, tmp_path / "run", window)
    run = read_aiperf(statistics, requests)
    assert run.completed == 300
    assert run.model == "gpt-oss-20b"
    assert run.requests.input_tokens.tolist() == outcome.requests.input_tokens.tolist()
    assert run.requests.output_tokens.tolist() == outcome.requests.output_tokens.tolist()
    sent = outcome.state.progress.sent_s
    assert run.requests.arrival_s == pytest.approx(sent - sent[0], abs=2e-9)
    alone = read_aiperf(statistics, None)
    for name, sample in (("ttft", outcome.ttft_s), ("e2el", outcome.e2el_s), ("tpot", outcome.tpot_s)):
        sample = sample[np.isfinite(sample)]
        for found in (run.measured[name], alone.measured[name]):
            assert found.mean == pytest.approx(sample.mean(), rel=1e-9)
            assert found.p99 == pytest.approx(np.percentile(sample, 99), rel=1e-9)
    # And as a trace to be served again.
    again = load_requests(requests)
    assert again.input_tokens.tolist() == outcome.requests.input_tokens.tolist()


def test_what_is_outside_of_the_window_is_warm_up_to_aiperf(outcome, tmp_path):
    window = window_of(outcome, -0.2, -0.1)
    statistics, requests = write_aiperf(outcome, tmp_path / "run", window)
    assert read_aiperf(statistics, requests).completed == window.chosen.sum() == 210
    assert read_aiperf(statistics, None).completed == 210


def test_vllms_result_is_read_back(outcome, tmp_path):
    write_bench(outcome, tmp_path / "run.json", {"ttft_s": 1.0})
    run = read_vllm(tmp_path / "run.json")
    found = summarise(outcome, warmup="none", cooldown="none").values
    assert run.request_throughput == pytest.approx(found["request_throughput"])
    assert run.measured["ttft"].mean == pytest.approx(found["ttft_s"])
    assert run.measured["tpot"].p99 == pytest.approx(found["latency"]["tpot_s"]["p99"])
    assert run.measured["e2el"].mean == pytest.approx(found["e2el_s"])
    assert len(load_requests(tmp_path / "run.json")) == 300


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_tables_hold_every_request(outcome, tmp_path, suffix):
    path = tmp_path / f"run{suffix}"
    write_table(outcome, path)
    if suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    elif suffix == ".csv":
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 300
    assert [int(row["request"]) for row in rows] == list(range(300))
    assert [float(row["e2el_s"]) for row in rows] == pytest.approx(outcome.e2el_s.tolist())
    assert {row["stage"] for row in rows} == {"done"}
    # One token has no time between tokens.
    single = int(np.flatnonzero(outcome.requests.output_tokens == 1)[0])
    assert rows[single]["tpot_s"] in (None, "")
    assert set(rows[0]) == set(outcome.table())


def test_tables_of_unknown_suffix_are_refused(outcome, tmp_path):
    with pytest.raises(ConfigError, match="parquet"):
        write_table(outcome, tmp_path / "run.xlsx")


def test_the_same_run_makes_the_same_timeline(outcome, tmp_path):
    for name in ("a.json.gz", "b.json.gz"):
        write_timeline(outcome, tmp_path / name)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
