"""Every format: a sample of it reads back as what it was made of, under its own name."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from format_samples import SAMPLES, SHAPE, SHAPES, TOKENS, WIDE, expected, fingerprint, loads
from mutations import Case, outcome
from trace_helpers import DEEPSEEK_LITE, GPT_OSS, same

from moesim.cli import main
from moesim.trace import LoadCounts, RoutingTrace, load_trace, summarise, write_trace
from moesim.trace.readers import built_in

LOADS = {
    ("npy", "loads"): 3,
    ("parquet", "loads"): 1,
    ("sglang-json", ""): 1,
    ("sglang-pt", ""): 1,
    ("olmoe-pkl", ""): 1,
    ("olmoe-npz", ""): 1,
    ("sglang-records", "per_pass"): 3,
    ("trtllm", "counts"): 3,
    ("eplb", "npz"): 1,
    ("eplb", "json"): 1,
    ("imatrix", ""): 1,
}
ONE_REQUEST = {("vllm-npz", ""), ("selection-json", ""), ("fingerprint-json", "")}
#: Formats that do not tell requests apart.
NO_REQUESTS = {("npy", "ids"), ("flame", "")}
PHASES = {
    "own": {"npz", "parquet", "vllm-npz", "sglang-records", "sglang-routed", "selection-json", "folder"},
    "decode": {"fingerprint-json", "speculative-jsonl"},
}
WEIGHTED = {"npz", "parquet", "route-jsonl", "balance-jsonl", "flame", "esft", "fingerprint-json"}
WEIGHTED |= {"speculative-jsonl"}
EXPLICIT = {"sglang-records", "trtllm", "flame", "esft", "fingerprint-json", "imatrix", "moe-beyond-csv"}
EXPLICIT |= {"route-jsonl", "speculative-jsonl", "balance-jsonl", "selection-json", "router-logits", "folder"}


def hints(key):
    """The model, but where the format's layers are not the model's."""
    if key[0].startswith("olmoe"):
        return {"num_experts": 8}
    return {"top_k": 2} if key == ("npy", "scores") else {"shape": SHAPES.get(key, SHAPE)}


def test_every_reader_has_a_sample():
    assert {reader.name for reader in built_in()} == {name for name, _ in SAMPLES}


@pytest.mark.parametrize("key", SAMPLES, ids="/".join)
def test_samples(tmp_path, key):
    path = SAMPLES[key](tmp_path)
    assert summarise(path, **hints(key)).format == key[0]
    trace = load_trace(path, **hints(key))
    if key in LOADS:
        assert isinstance(trace, LoadCounts)
        np.testing.assert_array_equal(trace.counts, loads(steps=LOADS[key]).counts)
        return
    assert isinstance(trace, RoutingTrace)
    want = expected(SHAPES.get(key, SHAPE), 1 if key in ONE_REQUEST | NO_REQUESTS else 2)
    ids = want.topk_ids[:, :1] if key == ("npy", "scores") else want.topk_ids
    np.testing.assert_array_equal(trace.topk_ids, ids)
    np.testing.assert_array_equal(trace.request, want.request)
    first = 100 if key[0] == "fingerprint-json" else 0
    np.testing.assert_array_equal(trace.position, want.position + first)
    phase = want.phase if key[0] in PHASES["own"] else np.full(TOKENS, key[0] in PHASES["decode"])
    np.testing.assert_array_equal(trace.phase, phase)
    assert (trace.topk_weights is not None) == (key[0] in WEIGHTED)
    if trace.topk_weights is not None:
        np.testing.assert_array_equal(trace.topk_weights, want.topk_weights)
    if trace.token_id is not None:
        np.testing.assert_array_equal(trace.token_id, want.token_id)
    assert (trace.token_id is not None) == (
        key[0] in {"npz", "parquet", "vllm-npz", "flame", "sglang-records"}
    )
    if key != ("npy", "scores"):
        assert trace.moe_layer_ids == SHAPES.get(key, SHAPE).moe_layer_ids


@pytest.mark.parametrize("key", [k for k in SAMPLES if k[0] in EXPLICIT], ids="/".join)
def test_samples_say_their_layers_themselves_where_the_format_does(tmp_path, key):
    known = {"top_k": 2} if key[0] == "router-logits" else {}
    trace = load_trace(SAMPLES[key](tmp_path), **known)
    assert trace.moe_layer_ids == SHAPES.get(key, SHAPE).moe_layer_ids


@pytest.mark.parametrize("key", [("trtllm", "raw"), ("router-logits", ""), ("folder", "")], ids="/".join)
def test_folders_on_the_command_line(tmp_path, capsys, monkeypatch, key):
    path = SAMPLES[key](tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["moesim", "trace", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        assert stopped.value.code == 0, captured.err
        return captured.out

    document = json.loads(run("info", path, "--top-k", "2", "--num-experts", "8", "--json"))
    assert (document["format"], document["tokens"], document["top_k"]) == (key[0], TOKENS, 2)
    run("convert", path, tmp_path / "t.parquet", "--top-k", "2")
    np.testing.assert_array_equal(load_trace(tmp_path / "t.parquet").topk_ids, expected().topk_ids)


@pytest.mark.parametrize("to", ["parquet", "npz", "route", "vllm"])
@pytest.mark.parametrize("shape", [SHAPE, WIDE, GPT_OSS], ids=lambda s: s.name)
def test_tokens_survive_a_round_trip(tmp_path, to, shape):
    trace = expected(shape)
    path = tmp_path / f"t.{to}"
    lost = write_trace(trace, path, to, num_layers=shape.num_layers)
    losses = {"route": ["token ids"], "vllm": ["router weights", "model"]}
    assert list(lost) == losses.get(to, [])
    back = load_trace(path)
    gone = {"token_id": None} if to == "route" else {}
    gone |= {"topk_weights": None, "model": ""} if to == "vllm" else {}
    assert same(trace, back, **gone)
    if to in ("route", "vllm"):
        write_trace(back, tmp_path / "again", to, num_layers=shape.num_layers)
        assert same(load_trace(tmp_path / "again"), back)


def test_round_trip_of_identical_tokens(tmp_path):
    """What looks like a warm-up in the log of an engine is data in a file of ours."""
    trace = expected()
    trace.topk_ids[:] = trace.topk_ids[0]
    write_trace(trace, tmp_path / "t.jsonl")
    assert load_trace(tmp_path / "t.jsonl").num_tokens == TOKENS


def test_round_trip_of_loads(tmp_path):
    want = loads(steps=3)
    assert write_trace(want, tmp_path / "w.npz", "eplb") == ("steps", "top-k", "model", "source", "licence")
    back = load_trace(tmp_path / "w.npz")
    np.testing.assert_array_equal(back.counts[0], want.totals)
    assert back.moe_layer_ids == want.moe_layer_ids
    with np.load(tmp_path / "w.npz") as stored:
        assert stored["weight"].dtype == np.int64
    fractions = LoadCounts(want.counts + 0.25, want.moe_layer_ids)
    write_trace(fractions, tmp_path / "f.npz", "eplb")
    np.testing.assert_array_equal(load_trace(tmp_path / "f.npz").totals, fractions.totals)


@pytest.mark.parametrize("key", SAMPLES, ids="/".join)
def test_damaged_files_are_a_trace_or_a_trace_error(tmp_path, key):
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    case = Case(SAMPLES[key](tmp_path / "good"), tmp_path / "bad")
    shape = SHAPES.get(key, SHAPE)
    seen = set()
    for n in range(200):
        seed = f"{'/'.join(key)}:suite:{n}"
        seen.add(outcome(case.damage(seed), shape, seed))
    assert seen == {"trace", "refused"}


def test_gzipped_texts(tmp_path):
    import gzip

    for key in (("route-jsonl", ""), ("eplb", "json"), ("moe-beyond-csv", ""), ("sglang-routed", "")):
        path = SAMPLES[key](tmp_path)
        packed = tmp_path / "packed"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert summarise(packed, shape=SHAPE).format == key[0]
        np.testing.assert_array_equal(
            load_trace(packed, shape=SHAPE).load_counts().counts,
            load_trace(path, shape=SHAPE).load_counts().counts,
        )


# The originals.


def test_original_esft(shared):
    stored = np.load(shared("traces/esft-deepseek-v2-lite/intent.npz"))
    trace = load_trace(shared("traces/esft-deepseek-v2-lite/raw/intent"), shape=DEEPSEEK_LITE)
    assert trace.moe_layer_ids == (1, 13)
    for i, layer in enumerate(trace.moe_layer_ids):
        row = DEEPSEEK_LITE.moe_layer_ids.index(layer)
        np.testing.assert_array_equal(trace.topk_ids[:, i], stored["topk_ids"][:, row])
        np.testing.assert_array_equal(trace.topk_weights[:, i], stored["topk_weights"][:, row])
    np.testing.assert_array_equal(trace.request, stored["request"])
    alone = load_trace(shared("traces/esft-deepseek-v2-lite/raw/intent/expert_weights_13.txt"))
    assert (alone.top_k, alone.moe_layer_ids) == (6, (13,))
    assert any("top-k is not written down: taken as 6" in w for w in alone.warnings)


def test_original_fingerprint(shared):
    folder = shared("traces/gpt-oss-20b")
    stored = np.load(folder / "decode.npz")
    about = json.loads((folder / "requests.json").read_text())
    (path,) = (folder / "raw").glob("*.json.gz")
    trace = load_trace(path, shape=GPT_OSS)
    cell = ("mmlu_test", "security_studies", False, False)
    names = ("dataset", "category", "finished", "rep")
    (number,) = (int(n) for n, r in about.items() if tuple(r[name] for name in names) == cell)
    np.testing.assert_array_equal(trace.topk_ids, stored["topk_ids"][stored["request"] == number])
    assert trace.position[0] == about[str(number)]["pos0"]
    assert trace.metadata["category"] == "security_studies"
    assert set(trace.phase.tolist()) == {1}


def test_folder_of_originals(shared, tmp_path):
    folder = shared("traces/deepseek-v3-counts")
    trace = load_trace(folder)
    assert trace.counts.shape == (len(list(folder.glob("*.json"))), 58, 256)
    assert trace.metadata["format"] == "sglang-json"
    path = fingerprint(tmp_path)
    (tmp_path / "b.json.gz").write_bytes(path.read_bytes())
    both = load_trace(tmp_path, shape=SHAPE)
    assert both.request.tolist() == [0] * TOKENS + [1] * TOKENS
