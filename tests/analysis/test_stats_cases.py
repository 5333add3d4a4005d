"""Load counts, intervals, odd shapes, wrong options, the command."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from stats_traces import make, random_trace
from typer.testing import CliRunner

from moesim.analysis import loads, statistics
from moesim.cli.app import app
from moesim.errors import ConfigError, TraceError
from moesim.files import data_dir
from moesim.trace import LoadCounts, write_trace

TRACE = random_trace(2, layers=3, experts=16, k=2, lengths=(60, 50, 40, 30, 7), skew=0.5, stay=0.3)
SYNTHETIC = data_dir("traces") / "gpt-oss-20b-synthetic.npz"


def test_loads_alone_give_the_same_load_statistics():
    full, alone = statistics(TRACE), statistics(TRACE.load_counts())
    for name, value in alone.overall.items():
        if value is not None:
            assert value == pytest.approx(full.overall[name])
        else:
            assert alone.reasons[name] in ("load counts have no tokens", "load counts of one step")
    assert alone.tokens is None
    assert set(alone.layers[0]) <= set(full.layers[0]) | {"layer_id"}


def test_layers_without_load_are_shown_and_left_out_of_means():
    counts = np.array([[[4.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]])
    found = statistics(LoadCounts(counts, (3, 4, 5), top_k=1), ep=(2,))
    assert found.overall["max_over_mean"] == pytest.approx((4 + 1) / 2)
    assert found.layers[1]["max_over_mean"] is None
    assert found.overall["rank_max_over_mean"]["2"] == pytest.approx((2 + 1) / 2)
    unknown = statistics(LoadCounts(counts, (3, 4, 5)), ep=())
    assert unknown.overall["random_pair_overlap"] is None
    assert "top-k" in unknown.reasons["random_pair_overlap"]


def test_drift_of_steps():
    still = np.tile([[[6.0, 2, 2, 2]]], (8, 1, 1))
    moving = np.array([[[10.0, 0, 0, 0]], [[0, 0, 0, 10.0]]])
    assert statistics(LoadCounts(still, (0,), top_k=1)).overall["drift"] == pytest.approx(0)
    assert statistics(LoadCounts(moving, (0,), top_k=1)).overall["drift"] == pytest.approx(0.5)


def test_drift_is_told_from_noise():
    calm = random_trace(0, layers=1, experts=16, k=2, lengths=(3000,))
    skewed = random_trace(0, layers=1, experts=16, k=2, lengths=(1500,), skew=1.0).topk_ids
    moved = np.concatenate([skewed, (skewed + 5) % 16])
    quiet = statistics(calm, families=("load",)).overall
    loud = statistics(make(moved, np.zeros(3000), 16), families=("load",)).overall
    assert quiet["drift"] == pytest.approx(quiet["drift_noise"], rel=0.2)
    assert loud["drift"] > 2.5 * loud["drift_noise"]


def test_an_interval_holds_its_statistic_and_shrinks_with_requests():
    def width(requests):
        trace = random_trace(4, layers=2, experts=16, k=2, lengths=(40,) * requests, stay=0.5)
        found = statistics(trace, bootstrap=200, families=("load", "locality"))
        low, high = found.interval["consecutive_overlap"]
        assert low < found.overall["consecutive_overlap"] < high
        return high - low

    assert width(128) == pytest.approx(width(32) / 2, rel=0.35)


def test_the_bootstrap_is_repeatable_and_needs_two_requests():
    one = statistics(TRACE, bootstrap=50, seed=3)
    assert one.interval == statistics(TRACE, bootstrap=50, seed=3).interval
    assert one.interval != statistics(TRACE, bootstrap=50, seed=4).interval
    assert one.overall == statistics(TRACE, seed=3).overall
    assert statistics(make(np.zeros((9, 1, 1), int), np.zeros(9), 4), bootstrap=10).interval is None


def test_coverage_of_intervals():
    """Of many traces with a known repeat rate, 95 % intervals hold it about as often as they say."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        # Each request repeats its token at its own rate, 0.5 on average.
        ids, request = [], []
        for r in range(60):
            rate, last = rng.choice([0.2, 0.8]), rng.integers(256)
            for _ in range(30):
                last = last if rng.random() < rate else rng.integers(256)
                ids.append(last)
                request.append(r)
        trace = make(np.array(ids)[:, None, None], request, 256)
        low, high = statistics(trace, bootstrap=300, families=("load", "locality")).interval[
            "consecutive_overlap"
        ]
        held += low <= 0.5 + 0.5 / 256 <= high
    assert 33 <= held <= 40


@pytest.mark.parametrize(
    "trace",
    [
        make(np.zeros((1, 1, 1), int), [0], 1),
        make(np.zeros((3, 1, 1), int), [0, 1, 2], 2),
        make(np.zeros((0, 2, 2), int), [], 4),
        make(np.zeros((5, 2, 2), int), np.zeros(5), 4),  # an expert twice in a token
        make(np.tile(np.arange(4), (6, 1, 1)), np.zeros(6), 4),  # every expert, always
    ],
    ids=["one-of-all", "single-tokens", "nothing", "doubles", "everything"],
)
def test_odd_traces_give_numbers_or_reasons(trace):
    found = statistics(trace, ep=(1,), bootstrap=5)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["tokens"] == trace.num_tokens
    for name, value in found.overall.items():
        inner = value.values() if isinstance(value, dict) else [value]
        if all(v is None for v in inner):
            assert found.reasons[name]


def test_wide_ids():
    trace = random_trace(0, layers=2, experts=300, k=4, lengths=(50, 50))
    shifted = make(
        (trace.topk_ids.astype(np.uint16)), trace.request, 300, topk_ids=trace.topk_ids.astype(">u2")
    )
    assert statistics(shifted).tokens == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ep": (3, 0)}, "does not divide the experts"),
        ({"families": ("load", "lode")}, "lode"),
        ({"bootstrap": -1}, "--bootstrap"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        statistics(TRACE, **options)


def test_ids_beyond_the_experts_are_refused():
    with pytest.raises(TraceError, match="is no expert"):
        statistics(make(np.full((4, 1, 1), 9), np.zeros(4), 8))


def test_tables_that_would_not_fit_are_left_out():
    trace = make(np.zeros((4, 2, 1)), np.arange(4), 60_000, topk_ids=np.full((4, 2, 1), 50_000, np.uint16))
    found = statistics(trace, bootstrap=5)
    assert found.overall["max_over_mean"] == pytest.approx(60_000)
    assert found.overall.get("next_token_cover") is None
    assert "too large" in found.reasons["next_layer_entropy"]


def test_sigma_and_gini_of_known_loads():
    assert loads.gini(np.array([0.0, 0, 0, 1])) == pytest.approx(0.75)
    assert loads.sigma_log(np.exp([[-1.0, 1.0]])) == pytest.approx(1)
    assert math.isnan(loads.max_over_mean(np.zeros(4)))


def run(*words):
    return CliRunner().invoke(app, ["trace", "stats", *map(str, words)], catch_exceptions=False)


def test_the_command_prints_one_document():
    done = run(SYNTHETIC, "--json", "--ep", 8, "--ep", 4, "--bootstrap", 20)
    document = json.loads(done.stdout)
    assert done.exit_code == 0
    assert document["schema_version"] == 1
    assert len(document["layers"]) == 24
    assert document["layers"][3]["layer_id"] == 3
    wanted = {"max_over_mean", "entropy_normalised", "gini", "consecutive_overlap", "random_pair_overlap"}
    assert wanted <= set(document["overall"])
    assert set(document["overall"]["distinct_fraction"]) == {"8", "32", "128"}
    assert set(document["overall"]["rank_max_over_mean"]) == {"8", "4"}
    assert document["interval"]["draws"] == 20
    assert document["provenance"]["seed"] == 0


def test_the_command_prints_tables():
    done = run(SYNTHETIC, "--layers", "--by", "request", "--only", "load", "--only", "locality")
    assert done.exit_code == 0
    for text in ("consecutive_overlap", "rank_max_over_mean 8", "per request", "median", "layer"):
        assert text in done.stdout
    assert "note:" not in done.stderr  # of what was not asked for


def test_the_command_splits_phases(tmp_path):
    done = run(SYNTHETIC, "--by", "phase", "--json", "--only", "load")
    parts = json.loads(done.stdout)["by_phase"]
    assert sum(part["tokens"] for part in parts.values()) == 3320
    path = tmp_path / "loads.npz"
    write_trace(TRACE.load_counts(), path)
    assert "note: no consecutive_overlap" in run(path).stderr
    for by in ("phase", "request"):
        with pytest.raises(ConfigError, match="load counts"):
            run(path, "--by", by)
    with pytest.raises(ConfigError, match="phase, request"):
        run(SYNTHETIC, "--by", "token")
