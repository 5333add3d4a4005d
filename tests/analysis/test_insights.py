"""Six insights: against counting by hand, what uniform routing gives, and real traces."""

from itertools import combinations

import numpy as np
import pytest

from moesim.analysis import insights_of, statistics
from moesim.analysis.movement import expert_ranks, movement_shares
from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.trace import LoadCounts, RoutingTrace, load_trace, write_trace


def trace_of(tokens, layers, experts, top_k, requests, seed=0, tilt=0.0):
    rng = np.random.default_rng(seed)
    score = rng.random((tokens, layers, experts)) + tilt * rng.random((1, layers, experts))
    ids = np.argsort(-score, axis=2)[:, :, :top_k].astype(np.uint8)
    request = np.sort(rng.integers(0, requests, tokens)).astype(np.int32)
    _, start = np.unique(request, return_index=True)
    position = (np.arange(tokens) - np.repeat(start, np.diff(start, append=tokens))).astype(np.int32)
    phase = (position >= 3).astype(np.int8)
    return RoutingTrace(ids, request, experts, tuple(range(layers)), position, phase)


def by_hand(trace):
    """The same numbers, counted pair by pair."""
    ids, E = trace.topk_ids.tolist(), trace.num_experts
    layers = trace.topk_ids.shape[1]
    top = max(1, round(0.2 * E))
    found = {"next_layer": [], "next_token": [], "pairs": [], "hottest": [], "over": []}
    for layer in range(layers):
        loads = [0] * E
        after, then, pair = ([[0] * E for _ in range(E)] for _ in range(3))
        for t, row in enumerate(ids):
            for a in row[layer]:
                loads[a] += 1
                if layer + 1 < layers:
                    for b in row[layer + 1]:
                        after[a][b] += 1
                if t + 1 < len(ids) and trace.request[t] == trace.request[t + 1]:
                    for b in ids[t + 1][layer]:
                        then[a][b] += 1
            for a, b in combinations(sorted(row[layer]), 2):
                pair[a][b] += 1
        for name, table in (("next_layer", after), ("next_token", then)):
            whole = sum(map(sum, table))
            if whole:
                found[name].append(sum(sum(sorted(row)[-top:]) for row in table) / whole)
        flat = sorted(pair[a][b] for a, b in combinations(range(E), 2))
        found["pairs"].append(sum(flat[-max(1, int(0.1 * len(flat))) :]) / sum(flat))
        found["over"].append(flat[-1] / (sum(flat) / len(flat)))
        found["hottest"].append(max(loads) / (sum(loads) / E))
    return {name: np.mean(values) for name, values in found.items()}


@pytest.mark.parametrize("seed", range(4))
def test_counting_by_hand_gives_the_same(seed):
    trace = trace_of(60, 3, 11, 3, 5, seed, tilt=0.5)
    found, wanted = insights_of(trace), by_hand(trace)
    assert found["next_layer"].values["cover"] == pytest.approx(wanted["next_layer"])
    assert found["next_token"].values["cover"] == pytest.approx(wanted["next_token"])
    assert found["pairs"].values["top10_share"] == pytest.approx(wanted["pairs"])
    assert found["pairs"].values["hottest_over_random"] == pytest.approx(wanted["over"])
    assert found["hottest_expert"].values["max_over_mean"] == pytest.approx(wanted["hottest"])


def test_uniform_routing_gives_what_chance_gives():
    found = insights_of(trace_of(60_000, 2, 10, 2, 50))
    for name in ("next_layer", "next_token"):
        values = found[name].values
        assert values["chance"] == 0.2
        # The best of many equal counts are a little above the mean.
        assert 0.2 <= values["cover"] < 0.215
        assert values["least"] <= values["cover"] <= values["most"]
        assert values["popular"] == pytest.approx(0.2, abs=0.01)
    assert found["pairs"].values["hottest_over_random"] == pytest.approx(1.0, abs=0.1)
    assert found["hottest_expert"].values["max_over_mean"] == pytest.approx(1.0, abs=0.05)


def test_a_layer_that_repeats_the_one_before_is_known_in_advance():
    trace = trace_of(500, 1, 20, 4, 3)
    ids = np.repeat(trace.topk_ids, 2, axis=1)
    both = RoutingTrace(ids, trace.request, 20, (0, 1), trace.position, trace.phase)
    # Of an expert's followers itself comes always, and with four followers of 20 in the likeliest four.
    assert insights_of(both)["next_layer"].values["cover"] > 0.25 + 0.75 * 3 / 19


def test_prompts_that_choose_as_decoding_does_agree_in_everything():
    trace = trace_of(40, 2, 30, 2, 1, tilt=2.0)
    twice = RoutingTrace(
        np.concatenate([trace.topk_ids, trace.topk_ids]),
        np.repeat(np.arange(2, dtype=np.int32), 40),
        30,
        (0, 1),
        np.tile(trace.position, 2),
        np.repeat(np.array([0, 1], np.int8), 40),
    )
    values = insights_of(twice)["prefill_decode"].values
    assert values["spearman"] == pytest.approx(1.0)
    assert [values[f"top{n}_overlap"] for n in (5, 10, 20)] == [1.0, 1.0, 1.0]
    assert values["top5_chance"] == 5 / 30


def test_a_file_that_is_streamed_gives_the_same(tmp_path):
    trace = trace_of(3000, 4, 16, 2, 40, seed=7, tilt=0.4)
    path = tmp_path / "trace.parquet"
    write_trace(trace, path, "parquet")
    whole = insights_of(trace).to_dict()
    assert insights_of(path, rows=257).to_dict() == whole
    assert insights_of(trace, rows=100).to_dict() == whole
    stats = statistics(trace).overall
    assert whole["insights"]["next_layer"]["cover"] == stats["next_layer_cover"]
    assert whole["insights"]["next_token"]["cover"] == stats["next_token_cover"]
    assert whole["insights"]["pairs"]["top10_share"] == pytest.approx(stats["top10_pair_share"])


def test_what_a_trace_does_not_say_is_explained():
    counts = LoadCounts(np.arange(1.0, 17.0).reshape(1, 2, 8), (0, 1), 2)
    found = insights_of(counts)
    assert found["hottest_expert"].values["worst_layer"] == pytest.approx(8 / 4.5)
    for name in ("next_layer", "next_token", "prefill_decode", "pairs"):
        assert not found[name].values
        assert "counts" in found[name].reason
    assert found["data_movement"].reason == "needs --model and --hardware"
    one = insights_of(trace_of(50, 1, 6, 1, 2))
    assert one["pairs"].reason == "tokens choose one expert each: there are no pairs"
    assert one["next_layer"].reason == "there is no layer with a next one"


def test_movement_falls_with_the_batch_and_takes_the_exchange_in():
    model, one, many = load_model("qwen3-30b-a3b"), load_hardware("h100-sxm-8"), load_hardware("h200-sxm-8")
    load = np.random.default_rng(0).lognormal(0, 0.6, (48, 128))
    shares = movement_shares(load, model, one, (16, 256, 65536), 1024)
    assert 0 < shares[65536] < shares[256] < 1
    # Faster memory moves less.
    faster = movement_shares(load, model, many, (256,), 1024)
    assert faster[256] < shares[256]
    assert expert_ranks(model.num_experts, 8) == 8


def test_movement_needs_the_model_of_the_trace():
    counts = LoadCounts(np.ones((1, 2, 8)), (0, 1), 2)
    with pytest.raises(ConfigError, match="another number of experts"):
        insights_of(counts, model=load_model("qwen3-30b-a3b"), hardware=load_hardware("h100-sxm-8"))


#: Of public traces: cover of the next layer and of the next token, hottest expert, pairs.
REAL = (
    ("traces/esft-deepseek-v2-lite/intent.npz", "deepseek-v2-lite", 0.712, 0.614, 3.81, 0.614),
    ("traces/esft-deepseek-v2-lite/summary.npz", "deepseek-v2-lite", 0.629, 0.517, 4.28, 0.525),
)


@pytest.mark.parametrize(("name", "model", "layer", "token", "hottest", "pairs"), REAL)
def test_real_traces(name, model, layer, token, hottest, pairs, shared):
    found = insights_of(shared(name), shape=load_model(model))
    assert found["next_layer"].values["cover"] == pytest.approx(layer, abs=0.001)
    assert found["next_token"].values["cover"] == pytest.approx(token, abs=0.001)
    assert found["hottest_expert"].values["max_over_mean"] == pytest.approx(hottest, abs=0.01)
    assert found["pairs"].values["top10_share"] == pytest.approx(pairs, abs=0.001)


def test_the_command_prints_a_table_and_a_document(moesim, tmp_path):
    import json

    path = tmp_path / "trace.parquet"
    write_trace(load_trace("traces/tiny-moe/trace.parquet"), path, "parquet")
    code, out, err = moesim("trace", "stats", path, "--insights")
    assert code == 0
    assert "next token: mass of the likeliest 20 % of followers" in out
    assert "note: no data movement: needs" in err
    code, out, _ = moesim("trace", "stats", "traces/deepseek-v3-synthetic.json", "--insights", "--json",
                          "--hardware", "h200-sxm-8", "--only", "load")  # fmt: skip
    found = json.loads(out)
    assert set(found["insights"]) == {
        "next_layer", "next_token", "prefill_decode", "hottest_expert", "pairs", "data_movement",
    }  # fmt: skip
    assert found["insights"]["next_layer"] is None
    assert "counts" in found["insight_reasons"]["next_layer"]
    assert 0 < found["insights"]["data_movement"]["batch_4096"] < 1
    assert moesim("trace", "stats", path, "--hardware", "h200-sxm-8")[0] == 2
