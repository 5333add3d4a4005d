"""What each format means beyond its layout, and what is refused of it."""

from __future__ import annotations

import base64
import gzip
import json
import struct

import numpy as np
import pytest
from format_samples import (
    REQUESTS,
    SHAPE,
    TOKENS,
    WIDE,
    Tensor,
    all_layers,
    eplb_json,
    esft,
    expected,
    flame,
    gguf,
    imatrix,
    loads,
    logits_folder,
    moe_beyond,
    per_pass,
    route_lines,
    safetensors,
    selection_json,
    slots_of,
    speculative,
    torch_save,
    trtllm_counts,
    trtllm_raw,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_helpers import KNOWN

from moesim.errors import ConfigError, TraceError
from moesim.trace import Shape, load_trace, write_trace
from moesim.trace import peek as peek_module
from moesim.trace.requests_of import Follower
from moesim.trace.safetensors import tensors_of


def refused(path, match, **hints):
    with pytest.raises(TraceError, match=match):
        load_trace(path, **hints)


# SGLang's recordings.


def test_ranks_must_agree_on_the_map(tmp_path):
    folder = per_pass(tmp_path)
    other = {"records": [], "last_physical_to_logical_map": Tensor(slots_of(SHAPE)[:, ::-1].copy())}
    torch_save(other, folder / "expert_distribution_recorder_1750000000.5_2.pt")
    refused(folder, "differs from the map")


def test_one_rank_is_a_part_of_the_load(tmp_path):
    folder = per_pass(tmp_path)
    parts = [load_trace(path, shape=SHAPE).counts for path in sorted(folder.iterdir())]
    np.testing.assert_array_equal(sum(parts), loads(steps=3).counts)


def test_a_rank_twice_is_refused(tmp_path):
    folder = per_pass(tmp_path)
    first = sorted(folder.iterdir())[0]
    (folder / "expert_distribution_recorder_1750000001.5_0.pt").write_bytes(first.read_bytes())
    refused(folder, "forward pass 10 of rank 0: is there twice")


def test_ranks_that_saw_the_same_tokens_count_once(tmp_path):
    slots = slots_of(SHAPE)
    unused = [-1] * 6
    ids = np.array([[[-1] * 8] * 2, [[1, 2, *unused]] * 2, [[3, 4, *unused]] * 2])
    record = {
        "forward_pass_id": 0,
        "input_ids": [5, 6],
        "positions": [0, 1],
        "extend_seq_lens": [2],
        "forward_mode": 1,
        "topk_ids_of_layer": Tensor(ids),
    }
    for rank in range(2):
        saved = {"records": [{**record, "rank": rank}], "last_physical_to_logical_map": Tensor(slots)}
        torch_save(saved, tmp_path / f"expert_distribution_recorder_1_{rank}.pt")
    trace = load_trace(tmp_path, shape=SHAPE)
    # Of eight slots in the file, the model fills two.
    assert (trace.num_tokens, trace.top_k) == (2, 2)
    assert trace.topk_ids[0].tolist() == [slots[1][[1, 2]].tolist(), slots[2][[3, 4]].tolist()]
    assert any("left out 1 passes" in w for w in trace.warnings)
    other = {**record, "rank": 1, "input_ids": [5, 7]}
    saved = {"records": [other], "last_physical_to_logical_map": Tensor(slots)}
    torch_save(saved, tmp_path / "expert_distribution_recorder_1_1.pt")
    assert load_trace(tmp_path, shape=SHAPE).request.tolist() == [0, 0, 1, 1]


def test_load_in_an_empty_slot_is_refused(tmp_path):
    slots = slots_of(SHAPE)
    slots[:, 3] = -1
    counts = np.ones(slots.shape, np.int32)
    record = {"forward_pass_id": 0, "rank": 0, "global_physical_count": Tensor(counts)}
    path = torch_save({"records": [record], "last_physical_to_logical_map": Tensor(slots)}, tmp_path / "r.pt")
    refused(path, "load in slots without an expert")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=6))
def test_requests_are_followed_through_a_batch_in_order(plan):
    """Requests (prompt, answer, arrival) as an engine runs them, none ending before the last begins."""
    follower, found, truth = Follower(), [], []
    running: list[list[int]] = []
    arrivals = sorted(range(len(plan)), key=lambda r: (plan[r][2], r))
    for step in range(12):
        new = [r for r in arrivals if plan[r][2] == step]
        if new:
            positions = [p for r in new for p in range(plan[r][0])]
            found += follower.prefill(positions, [plan[r][0] for r in new])
            truth += [r for r in new for _ in range(plan[r][0])]
            running += [[r, plan[r][0]] for r in new]
        if running and step > 4:
            found += follower.decode([at for _, at in running])
            truth += [r for r, _ in running]
            running = [[r, at + 1] for r, at in running]
    number = {r: i for i, r in enumerate(arrivals)}
    same_position = len({plan[r][0] for r in arrivals}) < len(arrivals)
    assert found == [number[r] for r in truth]
    assert bool(follower.ambiguous) == (same_position and len(truth) > sum(p for p, _, _ in plan))


def test_chunked_prompts_are_one_request():
    follower = Follower()
    assert follower.prefill([0, 1, 2], [3]) == [0, 0, 0]
    assert follower.prefill([3, 4, 0], [2, 1]) == [0, 0, 1]
    assert follower.decode([5, 1]) == [0, 1]
    assert follower.decode([2]) == [1]
    # Request 0 has ended, so that nothing continues it.
    assert follower.decode([6]) == [2]


# Returned routed experts.


def response(ids, **info):
    text = base64.b64encode(ids.astype("<i4").tobytes()).decode()
    return {"text": "x", "meta_info": {"routed_experts": text, **info}}


def test_responses_as_document_list_or_lines(tmp_path):
    ids = all_layers(expected(), empty=-1)
    path = tmp_path / "r.json"
    for content in (
        json.dumps(response(ids)),
        json.dumps([response(ids)], indent=1),
        json.dumps(response(ids), indent=2),
    ):
        path.write_text(content)
        trace = load_trace(path, shape=SHAPE)
        np.testing.assert_array_equal(trace.topk_ids, expected().topk_ids)
    assert any("does not tell prefill from decode" in w for w in trace.warnings)


def test_the_one_known_model_that_fits_is_taken(tmp_path):
    ids = all_layers(expected(), empty=-1)
    (tmp_path / "r.json").write_text(json.dumps(response(ids, prompt_tokens=6, completion_tokens=7)))
    trace = load_trace(tmp_path / "r.json", candidates=[*KNOWN, SHAPE])
    assert (trace.model, trace.moe_layer_ids) == ("tiny", (1, 2))
    double = Shape("double", 6, (1, 2, 3, 4, 5), 8, 1)
    (tmp_path / "r.json").write_text(json.dumps(response(ids)))
    refused(tmp_path / "r.json", "could be of tiny, double", candidates=[SHAPE, double])
    refused(tmp_path / "r.json", "fits no known model")
    refused(tmp_path / "r.json", "no multiple of wide's 4 layers", shape=WIDE)


@pytest.mark.parametrize(
    ("text", "match"),
    [("@@@@", "is no base64"), ("AAA", "is no base64"), ("AAAA", "has 3 bytes"), ("", "has 0 bytes")],
)
def test_texts_that_are_no_ids(tmp_path, text, match):
    (tmp_path / "r.json").write_text(json.dumps({"meta_info": {"routed_experts": text}}))
    refused(tmp_path / "r.json", match, shape=SHAPE)


# Lines of rows.


def test_holes_are_dropped_and_counted(tmp_path):
    path = speculative(tmp_path)
    lines = path.read_text().splitlines()
    del lines[7], lines[3]
    path.write_text("\n".join(lines))
    trace = load_trace(path, shape=SHAPE)
    assert trace.num_tokens == TOKENS - 2
    assert trace.position.tolist() == [0, 2, 4, 5, 0, 1, 2, 3, 4, 5]
    assert any("dropped 2 of 12 tokens" in w for w in trace.warnings)


def test_rows_in_any_order(tmp_path):
    path = speculative(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    trace = load_trace(path, shape=SHAPE)
    np.testing.assert_array_equal(trace.topk_ids, expected().topk_ids)


def test_a_row_twice_is_refused(tmp_path):
    path = speculative(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[4]]))
    refused(path, r"token 2, layer 1: is there 2 times")


def test_all_wrong_rows_are_named(tmp_path):
    path = speculative(tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["experts"], rows[2]["layer"], rows[3]["token_idx"] = [1], -4, 1.5
    rows[4]["experts"], rows[5]["gating_probs"], rows[6]["experts"] = (
        [1, 10**9],
        [0.5, float("nan")],
        [True, 2],
    )
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(TraceError) as caught:
        load_trace(path)
    named = [fault.where.split(",")[0] for fault in caught.value.faults]
    assert named == ["line 2", "line 3", "line 4", "line 5", "line 6", ""]
    assert "1 more such faults" in str(caught.value)


def test_warm_up_needs_a_run(tmp_path):
    for dummies, dropped in ((3, 0), (4, 4), (40, 40)):
        (tmp_path / "r.jsonl").write_text("\n".join(route_lines(expected(), dummies)))
        trace = load_trace(tmp_path / "r.jsonl", shape=SHAPE)
        assert trace.num_tokens == TOKENS + dummies - dropped
        assert any("warm-up" in w for w in trace.warnings) == bool(dropped)


def test_a_scattered_table_is_refused(tmp_path):
    rows = [
        {"dataset": "d", "problem_id": i, "layer": i, "token_idx": 0, "experts": [0, 1]} for i in range(9_000)
    ]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    refused(tmp_path / "s.jsonl", "9000 rows for 9000 tokens in 9000 layers")


def test_csv_that_lost_a_row(tmp_path):
    path = moe_beyond(tmp_path)
    text = path.read_text(encoding="utf-8")
    cut = text[: text.rindex("2,1,")]
    path.write_text(cut, encoding="utf-8")
    refused(path, "batch 1 has 5 tokens in layer 2, 6 in layer 1")
    path.write_text(text.replace("2,1,", "2,one,", 1), encoding="utf-8")
    refused(path, "is no row of layer, batch, token, experts")
    path.write_text(text + '2,1,"never closed', encoding="utf-8")
    refused(path, "is no CSV")


# Folders of engines and papers.


def test_trtllm_that_lacks_an_iteration(tmp_path):
    folder = trtllm_counts(tmp_path)
    safetensors({"100_1": np.zeros(8, np.int32)}, folder / "rank1.safetensors")
    refused(folder, r"rank1\.safetensors: lacks 5")
    safetensors({"first": np.zeros(8, np.int32)}, folder / "rank1.safetensors")
    refused(folder, "is no iteration and layer")
    (folder / "meta_info.json").write_text('{"num_experts": 0}')
    with pytest.raises(TraceError) as caught:
        load_trace(folder)
    assert {f.where for f in caught.value.faults} == {"num_experts", "num_experts_per_token"}


def test_trtllm_ranks_of_one_tensor_parallel_group(tmp_path):
    folder = trtllm_raw(tmp_path)
    (folder / "rank1_raw.safetensors").write_bytes((folder / "rank0_raw.safetensors").read_bytes())
    trace = load_trace(folder, shape=SHAPE)
    assert trace.num_tokens == TOKENS // REQUESTS
    assert any("left out 1 iterations" in w for w in trace.warnings)


@pytest.mark.parametrize(
    ("offsets", "match"),
    [
        ([0, 64], "is no tensor inside"),
        ([0, 31], "is no tensor inside"),
        ([1000, 1032], "is no tensor inside"),
    ],
)
def test_safetensors_that_lie(tmp_path, offsets, match):
    header = json.dumps({"a": {"dtype": "I32", "shape": [8], "data_offsets": offsets}}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(TraceError, match=match):
        tensors_of(tmp_path / "x")


def test_safetensors_that_overlap_or_are_cut(tmp_path):
    entry = {"dtype": "I32", "shape": [8], "data_offsets": [0, 32]}
    header = json.dumps({str(i): entry for i in range(100)}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(TraceError, match="overlap"):
        tensors_of(tmp_path / "x")
    for length in (2**63, 10**6):
        (tmp_path / "x").write_bytes(struct.pack("<Q", length) + bytes(64))
        with pytest.raises(TraceError, match="truncated"):
            tensors_of(tmp_path / "x")


def test_flame_checkpoints_are_traces_of_their_own(tmp_path):
    folder = flame(tmp_path)
    alone = load_trace(folder / "actives" / "iter_0100", shape=SHAPE)
    np.testing.assert_array_equal(alone.topk_ids, expected().topk_ids)
    np.testing.assert_array_equal(alone.token_id, expected().token_id)
    (folder / "actives" / "iter_0100").rename(folder / "actives" / "iter_0200")
    again = flame(tmp_path / "second")
    (again / "actives" / "iter_0100").rename(folder / "actives" / "iter_0100")
    refused(folder, "holds 2 checkpoints.*iter_0100, iter_0200")


def test_flame_of_unequal_layers(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = flame(tmp_path)
    table = pa.table({"indices": pa.array([[0, 1]], pa.list_(pa.int16())), "scores": pa.array([[0.5, 0.5]])})
    pq.write_table(table, folder / "actives" / "iter_0100" / "layer_02.parquet")
    refused(folder, "has 1 rows, layer 1 has 12")


def test_esft_of_unequal_layers(tmp_path):
    folder = esft(tmp_path)
    lines = (folder / "expert_weights_2.txt").read_text().splitlines()
    (folder / "expert_weights_2.txt").write_text(lines[0])
    refused(folder, "other requests, or of other lengths")
    refused(folder / "expert_weights_1.txt", "no multiple of top-k 8", top_k=8)


def test_folders_of_several_formats(tmp_path):
    speculative(tmp_path)
    eplb_json(tmp_path)
    refused(tmp_path, "holds files of several formats: 1 of speculative-jsonl; 1 of eplb")
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "notes.md").write_text("x")
    refused(tmp_path, "is a folder in no known trace format")


def test_folder_of_requests_with_other_layers(tmp_path):
    path = selection_json(tmp_path)
    entries = json.loads(path.read_text())
    path.with_name("1.json").write_text(
        json.dumps([{k: v for k, v in e.items() if k != "2"} for e in entries])
    )
    refused(tmp_path, r"1\.json: is \[tokens, layers, top_k\]")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda e: e[1].update({"1": [[True, 2]]}), r"\[1\]\.1\[0\]: is no row of expert ids"),
        (lambda e: e[1].update({"1": [[1.0, 2]]}), r"\[1\]\.1\[0\]: is no row of expert ids"),
        (lambda e: e[1].update({"1": [[1, 70000]]}), r"\[1\]\.1\[0\]: is no row of expert ids"),
        (lambda e: e[1].update({"1": [[1, 10**12]]}), r"\[1\]\.1\[0\]: is no row of expert ids"),
        (lambda e: e[1].update({"1": [[1, 2, 3]]}), r"\[1\]\.1\[0\]: is no row of experts"),
        (lambda e: e[1].update({"1": ["ab"]}), r"\[1\]\.1\[0\]: is no row of experts"),
        (lambda e: e[1].update({"1": None}), r"\[1\]\.1: has no experts in an MoE layer"),
        (lambda e: e[1].pop("2"), r"\[1\]\.2: has no experts in an MoE layer"),
        (lambda e: e[1].update({"2": [[0, 1], [1, 2]]}), r"\[1\]: has 1 to 2 tokens"),
        (lambda e: e[1].update({"x": None}), r"\[1\]: is no layer"),
    ],
)
def test_selections_that_are_wrong(tmp_path, change, match):
    path = selection_json(tmp_path)
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))
    refused(path, match)


# Counts.


def test_imatrix_that_says_nothing_of_experts(tmp_path):
    path = gguf({"general.type": "imatrix"}, {"blk.0.ffn_up.weight.counts": np.ones((1, 1))}, tmp_path / "i")
    refused(path, "no counts of experts")
    refused(gguf({"general.type": "model"}, {}, tmp_path / "m"), "is no imatrix")
    refused(gguf({}, {}, tmp_path / "v", version=1), "GGUF version")
    name = b"blk.0.ffn_gate_exps.weight"
    (tmp_path / "old.dat").write_bytes(struct.pack("<ii", 3, len(name)) + name + bytes(40))
    refused(tmp_path / "old.dat", r"old \.dat format, which has no counts per expert")


def test_imatrix_whose_matrices_disagree(tmp_path):
    tensors = {
        "blk.1.ffn_gate_exps.weight.counts": np.arange(1, 9)[:, None],
        "blk.1.ffn_down_exps.weight.counts": np.arange(2, 10)[:, None],
    }
    trace = load_trace(gguf({"general.type": "imatrix"}, tensors, tmp_path / "i"))
    assert trace.counts[0, 0].tolist() == list(range(1, 9))
    assert any("disagree" in w for w in trace.warnings)
    assert load_trace(imatrix(tmp_path), shape=SHAPE).metadata == {"chunk_count": "5", "chunk_size": "512"}


def test_a_placement_is_no_load(tmp_path):
    plan = slots_of(WIDE).tolist()
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    refused(tmp_path / "plan.json", "a placement")
    np.savez(tmp_path / "plan.npz", weight=np.array(plan))
    refused(tmp_path / "plan.npz", "a placement")


def test_weights_under_a_key(tmp_path):
    (tmp_path / "w.json").write_text(json.dumps({"weight": loads().totals.tolist()}))
    np.testing.assert_array_equal(load_trace(tmp_path / "w.json", shape=SHAPE).counts, loads().counts)


# Scores.


def test_scores_need_a_top_k(tmp_path):
    folder = logits_folder(tmp_path)
    refused(folder, "how many experts are chosen must be said")
    assert load_trace(folder, candidates=[*KNOWN, SHAPE]).top_k == 2
    for k in (1, 3):
        assert load_trace(folder, top_k=k).top_k == k
    np.testing.assert_array_equal(load_trace(folder, top_k=1).topk_ids, expected().topk_ids[:, :, :1])
    refused(folder, "scores of 8 experts", top_k=9)
    refused(folder, "is no number of experts per token", top_k=0)


def test_equal_scores_go_to_the_lower_id(tmp_path):
    np.save(tmp_path / "s.npy", np.array([[-1.0, 2, 2, -1, 2, -1]]))
    assert load_trace(tmp_path / "s.npy", top_k=4).topk_ids.tolist() == [[[1, 2, 4, 0]]]


def test_scores_of_unequal_layers(tmp_path):
    folder = logits_folder(tmp_path)
    torch_save(Tensor(-np.ones((2, 5, 8), np.float32)), folder / "tiny-2x8b_02_c4.pt")
    refused(folder, r"layer 1: is \[2, 5, 8\]", top_k=2)
    torch_save(Tensor(np.full((2, 6, 8), np.nan, np.float32)), folder / "tiny-2x8b_02_c4.pt")
    refused(folder, "NaN or infinity", top_k=2)


# Writing, and bounds.


def test_loads_are_no_tokens(tmp_path):
    for to in ("route", "vllm"):
        with pytest.raises(ConfigError, match="is a format of tokens"):
            write_trace(loads(), tmp_path / "x", to)
    assert list(tmp_path.iterdir()) == []


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(peek_module, "FREE_BYTES", 1 << 16)
    bomb = b'{"logical_count": [[' + b" " * (1 << 22) + b"1]]}"
    (tmp_path / "c.json").write_bytes(gzip.compress(bomb))
    refused(tmp_path / "c.json", "unpacks to more than any real trace")
    (tmp_path / "c.json").write_bytes(gzip.compress(b'{"logical_count": [[1, 2]]}')[:-9])
    refused(tmp_path / "c.json", "damaged or truncated gzip")


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(peek_module, "MAX_LINE_BYTES", 1000)
    path = speculative(tmp_path)
    assert load_trace(path, shape=SHAPE).num_tokens == TOKENS
    path.write_text('{"experts": [0], "token_idx": 0, "layer": 0, "x": "' + "x" * 2000)
    refused(path, "line 1: needs")
