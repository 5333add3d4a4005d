"""`moesim replay`: what it counts, and what it says of wrong options."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moesim.policy import Residency, token_steps
from moesim.policy.batchers import Continuous
from moesim.residency import replay
from moesim.trace import RoutingTrace, load_trace, write_trace

EXPERTS, LAYERS, TOP_K = 16, 3, 2


def some_trace(seed: int, tokens: int = 300) -> RoutingTrace:
    rng = np.random.default_rng(seed)
    scores = rng.random((tokens, LAYERS, EXPERTS)) / (1 + np.arange(EXPERTS))
    ids = np.argsort(scores, axis=2)[:, :, -TOP_K:].astype(np.uint8)
    return RoutingTrace(
        ids,
        np.repeat(np.arange(6, dtype=np.int32), tokens // 6),
        EXPERTS,
        (0, 1, 2),
        np.tile(np.arange(tokens // 6, dtype=np.int32), 6),
        np.ones(tokens, np.int8),
        topk_weights=np.full((tokens, LAYERS, TOP_K), 0.5, np.float16),
    )


@pytest.fixture
def stored(tmp_path):
    """Two disjoint traces in files, and the first as it is read back."""
    paths = tmp_path / "one.parquet", tmp_path / "two.parquet"
    for seed, path in enumerate(paths):
        write_trace(some_trace(seed), path)
    trace = load_trace(paths[0])
    assert isinstance(trace, RoutingTrace)
    return paths[0], paths[1], trace


def document(moesim, *arguments):
    code, out, err = moesim("replay", *arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["schema_version"] == 1
    return found


def test_the_default_is_lru_with_a_quarter_of_each_layer(moesim, stored):
    path, _, trace = stored
    found = document(moesim, path)
    expected = replay(trace, Residency("lru"), round(0.25 * EXPERTS))
    assert found["hits"] == expected.hits.sum()
    assert found["accesses"] == 300 * LAYERS * TOP_K
    assert found["hit_ratio"] == pytest.approx(expected.hit_ratio)
    assert found["seconds"] >= 0
    assert found["slots_per_pool"] == [4] * LAYERS
    assert found["conditions"] == {
        "pool": "layer", "lookup": "sequential", "cold": "charge", "reset": "never", "start": "empty",
        "parameters": {},
    }  # fmt: skip
    assert found["hits_per_layer"] == expected.hits.tolist()
    assert "policies" not in found
    assert found["bytes_moved"] is None


def test_rules_are_compared_under_the_conditions_asked_for(moesim, stored):
    path, other, trace = stored
    options = ["--pool", "global", "--lookup", "token_batch", "--cold", "free", "--reset", "request"]
    options += ["--start", "popular", "--popular", other, "--cache-fraction", 0.5, "--expert-bytes", "2 MB"]
    found = document(moesim, path, "--compare", "fifo,lfu,belady,static", "--parameter", "keep=1", *options)
    popular = load_trace(other).load_counts().totals
    assert [one["policy"] for one in found["policies"]] == ["fifo", "lfu", "belady", "static"]
    for one in found["policies"]:
        parameters = {"lfu": {"keep": 1.0, "window": 0}, "belady": {"bypass": 0}}.get(one["policy"], {})
        residency = Residency(
            one["policy"], "global", "token_batch", "free", "request", "popular", parameters
        )
        expected = replay(trace, residency, 8 * LAYERS, popular=popular)
        assert one["hits"] == expected.hits.sum()
        assert one["conditions"]["parameters"] == parameters
        assert one["bytes_moved"] == 2e6 * one["misses"]
    assert {k: found[k] for k in ("policy", "hits")} == {
        k: found["policies"][0][k] for k in ("policy", "hits")
    }


def test_the_policy_asked_for_comes_first(moesim, stored):
    found = document(moesim, stored[0], "--policy", "belady", "--compare", "lru,belady")
    assert [one["policy"] for one in found["policies"]] == ["belady", "lru"]
    assert found["policy"] == "belady"


def test_pools_per_device_share_the_blocks_of_expert_parallel_ranks(moesim, stored):
    path, _, trace = stored
    found = document(moesim, path, "--pool", "device", "--ep", 4, "--cache-slots", 5)
    devices = np.repeat(np.arange(4), 4)
    expected = replay(trace, Residency("lru", "device"), [5] * 4, devices=devices)
    assert found["hits"] == expected.hits.sum()
    assert found["slots_per_pool"] == [5] * 4


def test_steps_of_several_requests_load_an_expert_once(moesim, stored):
    path, _, trace = stored
    found = document(moesim, path, "--concurrency", 3, "--lookup", "token_batch")
    steps = Continuous(3).form(trace)
    assert found["accesses"] == steps.accesses < token_steps(trace).accesses
    assert found["hits"] == replay(steps, Residency("lru", lookup="token_batch"), 4).hits.sum()


def test_expert_bytes_are_those_of_the_model(moesim, tmp_path):
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((50, 32, 8)), axis=2)[:, :, :2].astype(np.uint8)
    whole = np.arange(50, dtype=np.int32)
    trace = RoutingTrace(ids, 0 * whole, 8, tuple(range(32)), whole, np.ones(50, np.int8))
    write_trace(trace, tmp_path / "t.parquet")
    found = document(moesim, tmp_path / "t.parquet", "--model", "mixtral-8x7b")
    assert found["expert_bytes"] == 3 * 4096 * 14336 * 2
    assert found["bytes_moved"] == found["misses"] * found["expert_bytes"]


def test_the_document_is_written_to_a_file_and_a_table_is_shown(moesim, stored, tmp_path):
    code, out, _ = moesim("replay", stored[0], "--compare", "lru,belady", "-o", tmp_path / "hits.json")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["policy", "slots"]
    assert [line.split()[0] for line in lines[1:]] == ["lru", "belady"]
    written = json.loads((tmp_path / "hits.json").read_text())
    assert [one["policy"] for one in written["policies"]] == ["lru", "belady"]


def test_a_random_start_follows_the_seed(moesim, stored):
    runs = [
        document(moesim, stored[0], "--policy", "static", "--start", "random", "--seed", seed)["hits"]
        for seed in (1, 1, 2, 3)
    ]
    assert runs[0] == runs[1]
    assert len(set(runs)) > 1


def test_every_fault_is_named_at_once(moesim, stored, tmp_path):
    code, out, err = moesim(
        "replay", tmp_path / "missing.npz", "--policy", "lruu", "--compare", "fifi,lfu", "--pool", "layers",
        "--lookup", "batch", "--cold", "no", "--reset", "yes", "--start", "full", "--cache-fraction", 1.5,
        "--cache-slots", -1, "--ep", 2, "--popular", stored[1], "--concurrency", 0, "--expert-bytes", "big",
        "--parameter", "keep", "--parameter", "kep=1", "-o", tmp_path, "--model", "mixtrall",
    )  # fmt: skip
    assert code == 2
    assert not out
    for part in (
        "--policy: is unknown (got 'lruu')", "nearest: lru", "--compare: is unknown (got 'fifi')",
        "nearest: fifo", "--pool", "--lookup", "--cold", "--reset", "--start", "--cache-fraction",
        "--cache-slots", "--ep",
        "--popular", "--concurrency", "--expert-bytes", "keep=1", "'kep'", "--output", "mixtral-8x7b",
        "missing.npz",
    ):  # fmt: skip
        assert part in err, part


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--start", "popular", "--popular", "SAME"], "--popular"),
        (["--pool", "device", "--ep", 17], "--ep"),
        (["--pool", "device"], "--ep"),
        (["--start", "popular"], "--popular"),
        (["--cache-fraction", "nan"], "--cache-fraction"),
    ],
)
def test_faults_that_need_the_trace(moesim, stored, options, words):
    options = [stored[0] if option == "SAME" else option for option in options]
    code, out, err = moesim("replay", stored[0], *options)
    assert code == 2
    assert not out
    assert words in err


def test_load_counts_have_no_order_to_replay(moesim, tmp_path):
    np.savez(tmp_path / "counts.npz", counts=np.ones((LAYERS, EXPERTS)))
    code, _, err = moesim("replay", tmp_path / "counts.npz")
    assert code == 2
    assert "counts" in err


def test_no_slots_at_all_hit_nothing_and_all_slots_miss_once(moesim, stored):
    assert document(moesim, stored[0], "--cache-slots", 0)["hits"] == 0
    every = document(moesim, stored[0], "--cache-fraction", 1)
    assert every["misses"] == every["cold_misses"]
    assert every["evictions"] == 0


def test_the_curve_has_the_hits_of_single_replays(moesim, stored):
    path, _, trace = stored
    code, out, _ = moesim("replay", path, "--curve", "--lookup", "token_batch", "--json")
    assert code == 0
    curves = json.loads(out)["curves"]
    for rule in ("lru", "belady"):
        for slots in (0, 1, 4, EXPERTS):
            expected = replay(trace, Residency(rule, lookup="token_batch"), slots).hit_ratio
            assert curves[rule]["hit_ratio"][slots] == pytest.approx(expected)


def test_options_of_one_kind_of_replay_are_refused_by_another(moesim, stored):
    code, _, err = moesim("replay", stored[0], "--curve", "--consistency", "--tokens", 5, "--assume", "a=1")
    assert code == 2
    for option in ("--consistency", "--tokens", "--assume"):
        assert option in err
    code, _, err = moesim("replay", stored[0], "--system", "lru", "--compare", "lru,fifo", "--pool", "global")
    assert code == 2
    assert "--compare" in err
    assert "--pool" in err
    timed = ("--hardware", "rtx-4090-64core", "--variant", "code", "--objective", "tpot", "--evaluations", 3)
    code, _, err = moesim("replay", stored[0], *timed)
    assert code == 2
    assert all(option in err for option in timed[::2])
    code, _, err = moesim("replay", stored[0], "--system", "lru", "--objective", "tpot", "--evaluations", 3)
    assert code == 2
    assert "--objective" in err
    assert "--evaluations" in err
    code, _, err = moesim("replay", stored[0], "--optimise", "--variant", "code")
    assert code == 2
    assert "--variant" in err
