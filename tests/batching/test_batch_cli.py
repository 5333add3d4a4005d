"""`moesim trace batch` as a user meets it."""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
import pytest

from moesim.batching import read_steps, step_counts
from moesim.cli.app import main
from moesim.files import data_dir
from moesim.requests import generate_requests, write_requests
from moesim.trace import load_trace

TRACE = data_dir("traces") / "gpt-oss-20b-synthetic.npz"


@pytest.fixture
def moesim(monkeypatch, capsys):
    def run(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["moesim", "trace", "batch", *map(str, words)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as ended:
            main()
        done = capsys.readouterr()
        assert (ended.value.code or 0) == code, done.err
        return done

    return run


def test_own_requests(moesim, tmp_path):
    out, counts = tmp_path / "steps.parquet", tmp_path / "counts.parquet"
    words = [
        TRACE,
        "--arrivals",
        "poisson:20",
        "-o",
        out,
        "--counts",
        counts,
        "--step-time",
        "25ms",
        "--json",
    ]
    document = json.loads(moesim(*words).out)
    trace, steps = load_trace(TRACE), read_steps(out)
    assert document["tokens"] == trace.num_tokens == steps.num_tokens
    assert (document["reused_sequences"], document["tokens_beyond_sequence"]) == (0, 0)
    assert document["busy_s"] == pytest.approx(0.025 * len(steps))
    assert set(document["provenance"]["inputs"]) == {str(TRACE), str(out), str(counts)}
    # The counts are a trace that every other command takes.
    loads = load_trace(counts)
    np.testing.assert_array_equal(loads.counts, step_counts(steps, trace).counts)
    np.testing.assert_array_equal(loads.totals, trace.load_counts().totals)


def test_requests_of_a_file(moesim, tmp_path):
    arrivals, out = tmp_path / "requests.jsonl", tmp_path / "steps.parquet"
    write_requests(generate_requests(300, "gamma:30:3", 200, 50), arrivals)
    words = [
        "--arrivals",
        arrivals,
        "-n",
        200,
        "--concurrency",
        8,
        "--prefill-first",
        "--overrun",
        "resample",
    ]
    document = json.loads(moesim(TRACE, "-o", out, *words, "--json").out)
    assert (document["requests"], document["tokens"]) == (200, 200 * 249)
    assert document["batcher"] == {"token_budget": 8192, "max_sequences": 8, "policy": "prefill-first"}
    assert document["decoding_requests_per_step"]["max"] == 8
    assert document["tokens_beyond_sequence"] > 0
    first = out.read_bytes()
    moesim(TRACE, "-o", out, *words)
    assert out.read_bytes() == first


def test_by_default_all_wait_at_the_start(moesim, tmp_path):
    done = moesim(TRACE, "-o", tmp_path / "steps.parquet", "--concurrency", 4)
    assert "at most 4" in done.out
    assert "100% busy" in done.out


def test_bad_options_are_named_all_at_once(moesim, tmp_path):
    words = ["--arrivals", "gamma:1:x", "--step-time", "soon", "--overrun", "stop", "--max-num-seqs", 9]
    done = moesim(TRACE, "-o", tmp_path / "no" / "x", "--token-budget", 8, *words, code=2)
    for word in ("5 faults", "--arrivals", "--step-time", "--overrun", "--max-num-seqs", "--output"):
        assert word in done.err
    counts = data_dir("traces") / "deepseek-v3-synthetic.json"
    assert "holds load counts" in moesim(counts, "-o", tmp_path / "x", code=2).err
    assert "no such file" in moesim(TRACE, "-o", tmp_path / "x", "--arrivals", "absent.csv", code=2).err
    assert list(tmp_path.iterdir()) == []
