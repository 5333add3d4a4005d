"""`moesim simulate`: answers, files, and everything that is refused."""

from __future__ import annotations

import json

import pytest

from moesim.files import data_dir

BASE = ("simulate", "--model", "gpt-oss-20b", "--hardware", "h100-sxm-8")
MADE = (
    *BASE,
    "--arrivals",
    "poisson:20",
    "--input-len",
    "200",
    "--output-len",
    "20",
    "--num-requests",
    "120",
)


def document(moesim, *words):
    code, out, err = moesim(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_an_answer_has_the_names_of_a_prediction(moesim):
    found = document(moesim, *MADE, "--goodput", "ttft:500", "tpot:50", "--seed", "3")
    assert found["schema_version"] == 1
    assert found["feasible"] is True
    assert found["completed"] == 120
    for name in ("ttft_s", "tpot_s", "itl_s", "e2el_s", "request_throughput", "output_throughput"):
        assert found[name] > 0
    assert found["goodput"] == {"ttft_s": 0.5, "tpot_s": 0.05}
    assert 0 < found["attainment"] <= 1
    assert found["latency"]["ttft_s"]["p50"] <= found["latency"]["ttft_s"]["p99"]
    low, high = found["interval"]["e2el_s"]
    assert low <= found["e2el_s"] <= high
    assert found["interval"]["level"] == 0.95
    assert found["provenance"]["seed"] == 3
    assert found["cost"]["usd_per_million_output_tokens"] > 0
    assert found["energy"]["idle_j"] is None
    assert any("idle power" in note for note in found["warnings"])


def test_the_same_seed_gives_the_same_answer(moesim):
    one, same = document(moesim, *MADE), document(moesim, *MADE)
    other = document(moesim, *MADE, "--seed", "1")
    assert one == same
    assert one["ttft_s"] != other["ttft_s"]


def test_calibration_none_is_physics_alone(moesim):
    taught, bare = document(moesim, *MADE), document(moesim, *MADE, "--calibration", "none")
    assert bare["ttft_s"] < taught["ttft_s"]


def test_replications_come_with_every_row(moesim):
    found = document(moesim, *MADE, "--replications", "3")
    assert found["replications"]["n"] == 3
    assert len(found["replications"]["rows"]) == 3
    assert "independent replications" in found["interval"]["method"]


def test_price_takes_the_place_of_the_hardwares(moesim):
    found = document(moesim, *MADE, "--price", "10", "--replicas", "2")
    assert found["cost"]["usd_per_hour"] == 20.0
    assert found["cost"]["source"] == "given"


def test_all_files(moesim, tmp_path):
    code, out, err = moesim(
        *MADE,
        *("--output", tmp_path / "all.parquet"),
        *("--timeline", tmp_path / "steps.json.gz"),
        *("--aiperf", tmp_path / "run"),
        *("--bench", tmp_path / "bench.json"),
    )
    assert code == 0, err
    assert "TTFT, ms" in out
    assert {p.name for p in tmp_path.rglob("*")} == {
        *("all.parquet", "steps.json.gz", "bench.json", "run"),
        *("profile_export.jsonl", "profile_export_aiperf.json"),
    }
    code, _, err = moesim(*MADE, "-o", tmp_path / "document.json")
    assert code == 0, err
    written = json.loads((tmp_path / "document.json").read_text())
    assert written["completed"] == 120


def test_a_trace_is_served_whole(moesim, tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(
            json.dumps({"timestamp": 100 * i, "input_length": 50 + i, "output_length": 5}) + "\n"
            for i in range(40)
        )
    )
    found = document(moesim, *BASE, "--requests", path)
    assert found["window"]["requests"] == 40
    assert found["duration_s"] > 3.9
    faster = document(moesim, *BASE, "--requests", path, "--request-rate", "100")
    assert faster["duration_s"] < found["duration_s"] / 3
    more = document(moesim, *BASE, "--requests", path, "--resample", "100")
    assert more["completed"] == 100
    few = document(moesim, *BASE, "--requests", path, "--num-requests", "7", "--concurrency", "1")
    assert few["completed"] == 7
    assert few["traffic"]["concurrency"] == 1


def test_unsorted_times_are_told(moesim, tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"timestamp": 900, "input_length": 5, "output_length": 2}\n'
        '{"timestamp": 100, "input_length": 5, "output_length": 2}\n'
    )
    code, out, err = moesim(*BASE, "--requests", path)
    assert (code, out) == (2, "")
    assert "not in order of arrival" in err
    # With arrivals of their own, the times of the file do not matter.
    assert moesim(*BASE, "--requests", path, "--arrivals", "poisson:5", "--json")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--arrivals", "poisson:0"), ["--arrivals", "more than 0"]),
        (("--request-rate", "0"), ["--request-rate"]),
        (("--request-rate", "nan"), ["--request-rate"]),
        (("--arrivals", "poisson:2", "--request-rate", "2"), ["--arrivals or --request-rate"]),
        (("--concurrency", "0"), ["--concurrency"]),
        (("--request-rate", "2", "--num-requests", "0"), ["--num-requests"]),
        (("--request-rate", "2", "--input-len", "0"), ["--input-len"]),
        (("--request-rate", "2", "--output-len", "9999999999"), ["--output-len"]),
        (("--request-rate", "2", "--input-len", "900000"), ["131072 positions", "--drop-long"]),
        (("--request-rate", "2", "--router", "best"), ["--router", "round-robin"]),
        (("--request-rate", "2", "--backend", "tgi"), ["--backend", "sglang"]),
        (("--request-rate", "2", "--replicas", "0"), ["--replicas"]),
        (("--request-rate", "2", "--goodput", "ttft:x", "tpot:0", "speed:1"), ["ttft:x", "tpot:0", "speed"]),
        (("--request-rate", "2", "--warmup", "later"), ["--warmup"]),
        (("--request-rate", "2", "--warmup", "0.6", "--cooldown", "0.6"), ["nothing of the run"]),
        (("--request-rate", "2", "--replications", "0", "--processes", "0"), ["2 faults"]),
        (("--request-rate", "2", "-o", "x.xyz"), [".parquet"]),
        (("--request-rate", "2", "-o", "/nowhere/x.csv"), ["folder does not exist"]),
        (("--request-rate", "2", "--price", "-1"), ["--price"]),
        (("--request-rate", "2", "--order", "sjf"), ["fcfs"]),
        (("--request-rate", "2", "--cuda-graph-sizes", "1,x"), ["--cuda-graph-sizes"]),
        (("--request-rate", "2", "--resample", "5"), ["--resample", "--requests"]),
        (("--request-rate", "2", "--tp", "5"), ["--tp"]),
        (("--requests", "missing.jsonl"), ["missing.jsonl", "no such file"]),
        (("--requests", "missing.jsonl", "--input-len", "5"), ["2 faults"]),
        ((), ["nothing says when requests arrive"]),
    ],
    ids=str,
)
def test_what_is_refused(moesim, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = moesim(*BASE, *words)
    assert code == 2, err
    assert out == ""
    for text in said:
        assert text in err
    assert list(tmp_path.iterdir()) == []


def test_all_faults_come_at_once(moesim):
    code, _, err = moesim(
        *("simulate", "--model", "gpt-0ss", "--hardware", "h1000", "--arrivals", "poisson:-1"),
        *("--router", "x", "--price", "-2", "--goodput", "foo", "--gpu-memory-utilization", "7"),
    )
    assert code == 2
    for text in ("gpt-0ss", "h1000", "--arrivals", "--router", "--price", "--goodput", "--gpu-memory-util"):
        assert text in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("hello\n", "no known format"),
        ('{"timestamp": -1, "input_length": 5, "output_length": 2}\n', "timestamp"),
        ('{"timestamp": 1, "input_length": 99999999999, "output_length": 2}\n', "input_length"),
        ('{"timestamp": 1, "input_length": 0, "output_length": 0}\n', "holds no requests"),
    ],
    ids=["empty", "text", "negative", "absurd", "silent"],
)
def test_bad_traces_are_named(moesim, tmp_path, content, said):
    path = tmp_path / "trace.jsonl"
    path.write_text(content)
    code, _, err = moesim(*BASE, "--requests", path)
    assert code == 2
    assert "trace.jsonl" in err
    assert said in err


def test_what_does_not_fit_is_infeasible(moesim):
    words = ("simulate", "--model", "deepseek-v3", "--hardware", "h100-sxm-8", "--tp", "8")
    code, out, err = moesim(*words, "--request-rate", "1", "--num-requests", "5", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["feasible"] is False
    assert found["needed"] > found["available"]
    assert "short" in err


def test_long_requests_are_dropped_when_asked(moesim):
    words = (*BASE, "--request-rate", "20", "--input-len", "lognormal:90000:0.6", "--output-len", "4")
    code, _, err = moesim(*words, "--num-requests", "60")
    assert code == 2
    assert "--drop-long" in err
    found = document(moesim, *words, "--num-requests", "60", "--drop-long")
    assert 0 < found["completed"] < 60
    assert any("left out" in note for note in found["warnings"])
    again = document(moesim, *words, "--num-requests", "60", "--drop-long", "--replications", "2")
    assert again["replications"]["rows"]


TRACE = str(data_dir("traces") / "gpt-oss-20b-synthetic.npz")
SPREAD = (*MADE, "--dp", "8", "--ep", "8", "--trace", TRACE)


def test_routing_drifts_and_experts_follow(moesim):
    still, drifting, moved = (
        document(moesim, *SPREAD, *words)
        for words in (
            (),
            ("--routing-windows", "8", "--window-tokens", "2000"),
            ("--rebalance", "eplb", "--rebalance-interval", "10", "--tokens-per-step", "64"),
        )
    )
    assert len({still["tpot_s"], drifting["tpot_s"], moved["tpot_s"]}) == 3
    # Windows are parts of the same recording: their mean is not far from the whole.
    assert drifting["tpot_s"] == pytest.approx(still["tpot_s"], rel=0.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--routing-windows", "3"), "needs a recording"),
        (("--trace", TRACE, "--routing-windows", "99999999"), "too few parts"),
        (("--trace", TRACE, "--rebalance", "best", "--dp", "8", "--ep", "8"), "no policy"),
        (("--trace", TRACE, "--rebalance", "eplb"), "several ranks"),
        (("--trace", TRACE, "--window-tokens", "5"), "--routing-windows"),
        (("--trace", TRACE, "--rebalance", "eplb", "--routing-windows", "2"), "either cuts"),
    ],
    ids=["none", "many", "policy", "one rank", "tokens", "both"],
)
def test_drift_that_cannot_be_is_refused(moesim, words, said):
    code, _, err = moesim(*MADE, *words)
    assert code == 2
    assert said in err


def test_pools_hand_caches_over(moesim, tmp_path):
    found = document(
        moesim, *MADE, "--prefill-workers", "2", "--decode-workers", "1", "-o", tmp_path / "all.csv"
    )
    assert found["devices"] == 3
    assert found["completed"] == 120
    assert found["hand_over"]["handed_s"]["mean"] > 0
    assert 0 < found["hand_over"]["link_utilisation"] < 1
    assert "handed_s" in (tmp_path / "all.csv").read_text().splitlines()[0]


def test_a_replica_that_fails_is_served_by_others(moesim):
    words = (*MADE, "--replicas", "2", "--warmup", "none", "--cooldown", "none")
    whole = document(moesim, *words)
    broken = document(moesim, *words, "--fail", "1:0:100", "--reload", "none")
    assert whole["failures"] is None
    assert broken["failures"]["nodes_lost"] == 1
    assert broken["failures"]["availability"] < 1
    assert broken["completed"] == 120
    assert broken["ttft_s"] > whole["ttft_s"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kv-link", "scale-up"), "--prefill-workers"),
        (("--decode-workers", "2"), "--prefill-workers"),
        (("--prefill-workers", "1", "--kv-link", "pigeon"), "--kv-link"),
        (("--prefill-workers", "1", "--first-token-from", "nobody"), "--first-token-from"),
        (("--fail", "soon"), "--fail"),
        (("--fail", "1:7:5"), "names no replica"),
        (("--mtbf", "-1"), "--mtbf"),
        (("--crews", "1"), "with --mtbf or --fail"),
    ],
    ids=["link", "decode", "pigeon", "token", "soon", "replica", "mtbf", "crews"],
)
def test_pools_and_failures_that_cannot_be_are_refused(moesim, words, said):
    code, _, err = moesim(*MADE, *words)
    assert code == 2
    assert said in err
