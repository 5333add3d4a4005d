"""Studies of simulations: rows are what `moesim.serving` says, replications are other draws."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.hardware import load_hardware
from moesim.layout import Disaggregated, Parallelism, Workers
from moesim.model import load_model
from moesim.requests import generate_requests, parse_lengths, request_trace, write_requests
from moesim.serving.pools import simulate_pools
from moesim.serving.simulate import simulate
from moesim.serving.statistics import summarise
from moesim.studies import load_study, query, run_study
from moesim.studies.evaluate import evaluate
from moesim.studies.key import key_of, task_of
from moesim.studies.rows import VALUES
from moesim.studies.simulated import requests_of
from moesim.trace import RoutingTrace, write_trace

BASE = """schema_version: 1
name: {name}
kind: simulate
base:
  model: gpt-oss-20b
  hardware: h100-sxm-8
  layout: {{tp: 1}}
"""
MADE = "  requests: {count: 60, arrivals: 'poisson:20', input_len: 'lognormal:300:0.5', output_len: 20}\n"


def _tasks(path):
    grid = load_study(path)
    return [task_of(grid.kind, grid.configuration(n)) for n in grid.numbers()]


@pytest.fixture
def recorded(tmp_path):
    """A file of requests in four sessions."""
    n = 24
    trace = request_trace(
        [i * 0.1 for i in range(n)], [100 + i for i in range(n)], [10] * n, session=[i % 4 for i in range(n)]
    )
    write_requests(trace, tmp_path / "requests.parquet")
    return trace


def test_rows_are_summaries_of_simulations(study, tmp_path):
    rest = (
        MADE
        + "  slo: {ttft: 500 ms, tpot: 1 ms}\n  price: 2.5\ngrid: {fleet.replicas: [1, 2]}\nreplications: 2\n"
    )
    done = run_study(study(rest, base=BASE), tmp_path / "out")
    rows = done.table.to_pylist()
    assert [(r["fleet_replicas"], r["seed"], r["replication"]) for r in rows] == [
        (1, 0, 0),
        (1, 1, 1),
        (2, 0, 0),
        (2, 1, 1),
    ]
    requests = generate_requests(60, "poisson:20", parse_lengths("lognormal:300:0.5"), 20, seed=1)
    outcome = simulate(
        load_model("gpt-oss-20b"), load_hardware("h100-sxm-8"), Parallelism(), requests, seed=1
    )
    limits = {"ttft_s": 0.5, "tpot_s": 0.001}
    summary = summarise(outcome, goodput=limits, price=2.5).document()
    row = rows[1]
    for name in ("ttft_s", "tpot_s", "e2el_s", "output_throughput", "request_goodput", "running", "steps"):
        assert row[name] == summary[name]
    assert row["ttft_s_p99"] == summary["latency"]["ttft_s"]["p99"]
    assert row["cost_usd_per_hour"] == 2.5 == rows[3]["cost_usd_per_hour"] / 2
    assert (row["e2el_s_lo"], row["e2el_s_hi"]) == tuple(summary["interval"]["e2el_s"])
    # No token comes after a millisecond.
    assert row["attainment"] == row["slo_met"] == 0.0
    assert len({r["ttft_s"] for r in rows}) == 4
    # Replications are put together in SQL.
    means = query(
        done.folder,
        "select fleet_replicas, avg(ttft_s) mean, count(*) n from study group by all order by all",
    ).to_pylist()
    assert [m["n"] for m in means] == [2, 2]
    assert means[0]["mean"] == pytest.approx((rows[0]["ttft_s"] + rows[1]["ttft_s"]) / 2)


def test_every_column_is_said_where_it_can_be(study):
    many = MADE.replace("60", "400")
    (task,) = _tasks(study(many + "  slo: {preset: mlperf-deepseek-r1-interactive}\n", base=BASE))
    found = evaluate(task)
    assert found["status"] == "ok"
    assert list(found["values"]) == list(VALUES["simulate"])
    unknown = {name for name, value in found["values"].items() if value is None}
    # Far percentiles of 400 requests have no interval, and nobody says what an idle H100 draws.
    far = {n for n in VALUES["simulate"] if n.endswith(("_lo", "_hi")) and "_p9" in n}
    assert unknown <= far | {"energy_joules_per_output_token"}


def test_a_replication_of_recorded_requests_draws_sessions(study, recorded):
    rest = "  requests: {path: requests.parquet}\nreplications: 3\n"
    first, second, third = _tasks(study(rest, base=BASE))
    assert len({key_of(t["identity"]) for t in (first, second, third)}) == 3

    def drawn(task):
        identity = task["identity"]
        return requests_of(
            identity["requests"], task["names"]["requests.path"], identity["seed"], identity["drawn"], None
        )

    assert drawn(first).input_tokens.tolist() == recorded.input_tokens.tolist()
    assert drawn(second).input_tokens.tolist() != drawn(third).input_tokens.tolist()
    assert drawn(second).input_tokens.tolist() == drawn(second).input_tokens.tolist()
    assert set(drawn(second).input_tokens) <= set(recorded.input_tokens)


def test_replications_of_made_up_requests_are_shared_with_seeds(study):
    replicated = _tasks(study(MADE + "replications: 3\n", "one", base=BASE))
    seeded = _tasks(study(MADE + "grid: {seed: [2, 1, 0]}\n", "two", base=BASE))
    assert {key_of(t["identity"]) for t in replicated} == {key_of(t["identity"]) for t in seeded}


@pytest.mark.usefixtures("recorded")
def test_requests_of_a_file_cut_stretched_and_drawn(study):
    rest = """  requests: {path: requests.parquet}
grid:
  requests:
    - {path: requests.parquet, count: 5}
    - {path: requests.parquet, request_rate: 100}
    - {path: requests.parquet, resample: 50, concurrency: 3}
    - {path: requests.parquet, arrivals: "closed:2"}
"""
    found = []
    for task in _tasks(study(rest, base=BASE)):
        identity = task["identity"]
        found.append(requests_of(identity["requests"], task["names"]["requests.path"], 0, False, None))
    assert [len(r) for r in found] == [5, 24, 50, 24]
    # 23 gaps of a hundredth of a second.
    assert found[1].arrival_s[-1] == pytest.approx(0.23)
    assert [r.concurrency for r in found] == [None, None, 3, 2]


def test_what_a_backend_does_is_part_of_it_said_or_not(study):
    plain = _tasks(study(MADE + "  engine: {backend: sglang}\n", "one", base=BASE))
    said = _tasks(
        study(MADE + "  engine: {backend: sglang}\n  scheduler: {prefill_first: true}\n", "two", base=BASE)
    )
    other = _tasks(
        study(MADE + "  engine: {backend: sglang}\n  scheduler: {prefill_first: false}\n", "three", base=BASE)
    )
    keys = [key_of(tasks[0]["identity"]) for tasks in (plain, said, other)]
    assert keys[0] == keys[1] != keys[2]


def test_requests_longer_than_the_context(study):
    long = (
        "  requests: {count: 20, arrivals: 'closed:2', input_len: 'lognormal:100000:0.9', output_len: 9%s}\n"
    )
    refused = evaluate(_tasks(study(long % "", "one", base=BASE))[0])
    assert refused["status"] == "invalid"
    assert "positions of gpt-oss-20b" in refused["reason"]
    left = evaluate(_tasks(study(long % ", drop_long: true", "two", base=BASE))[0])
    assert left["status"] == "ok"
    assert left["values"]["requests"] < 20
    assert "were left out" in left["values"]["notes"]


def test_routing_that_drifts(study, tmp_path):
    model = load_model("gpt-oss-20b")
    rng = np.random.default_rng(0)
    layers, tokens = len(model.moe_layer_ids), 400
    ids = rng.random((tokens, layers, model.num_experts)).argsort(axis=-1)[..., : model.top_k]
    # In the second half all tokens go to the same experts.
    ids[tokens // 2 :] = np.arange(model.top_k)
    write_trace(
        RoutingTrace(
            topk_ids=ids.astype(np.uint8),
            moe_layer_ids=model.moe_layer_ids,
            num_experts=model.num_experts,
            request=np.zeros(tokens, np.int32),
            position=np.arange(tokens, dtype=np.int32),
            phase=np.ones(tokens, np.int8),
        ),
        tmp_path / "routing.parquet",
    )
    rest = MADE + "  trace: routing.parquet\n  layout: {dp: 4, ep: 4}\n  drift: {routing_windows: 1}\n"
    path = study(
        rest + "grid: {drift.routing_windows: [1, 2]}\n", base=BASE.replace("  layout: {{tp: 1}}\n", "")
    )
    found = [evaluate(task) for task in _tasks(path)]
    assert [f["status"] for f in found] == ["ok", "ok"], found
    assert found[0]["values"]["tpot_s"] != found[1]["values"]["tpot_s"]
    alone = study(MADE + "  drift: {routing_windows: 2}\n", "alone", base=BASE)
    assert "needs a recording" in evaluate(_tasks(alone)[0])["reason"]


def test_two_pools(study):
    rest = (
        MADE + "grid:\n  layout: [{tp: 1, prefill_workers: 2}, {tp: 1, prefill_workers: 1, prefill_tp: 2}]\n"
    )
    found = [evaluate(task) for task in _tasks(study(rest, base=BASE))]
    assert [f["status"] for f in found] == ["ok", "ok"], found
    outcome = simulate_pools(
        load_model("gpt-oss-20b"),
        load_hardware("h100-sxm-8"),
        Disaggregated(Workers(Parallelism(), 2), Workers(Parallelism())),
        generate_requests(60, "poisson:20", parse_lengths("lognormal:300:0.5"), 20),
    )
    summary = summarise(outcome).values
    for name in ("ttft_s", "tpot_s", "e2el_s", "output_throughput"):
        assert found[0]["values"][name] == summary[name]
    assert [f["values"]["devices"] for f in found] == [3, 3]


def test_what_does_not_fit_is_infeasible(study):
    rest = MADE + "grid:\n  model: [deepseek-v3]\n"
    found = evaluate(_tasks(study(rest, base=BASE))[0])
    assert found["status"] == "infeasible"
    assert found["values"] == {}
