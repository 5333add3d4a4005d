"""A small valid file of every format that moesim reads, built byte by byte from its description.

`SAMPLES` maps the name of a reader to a function that writes a sample into a folder and returns its path;
`expected` is what all samples of tokens hold. The benchmark that damages files uses them too.
"""

from __future__ import annotations

import base64
import csv
import gzip
import json
import pickle
import struct
import types
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
from trace_helpers import STORAGES, TINY, make_counts, make_trace

from moesim.trace import LoadCounts, RoutingTrace, Shape, write_trace

#: TINY has layers 1 and 2 of 3, 8 experts, top-2.
SHAPE = TINY
#: A model whose top-k is that of SGLang's fixed eight slots.
WIDE = Shape("wide", 4, (1, 2, 3), 16, 8)
TOKENS, REQUESTS = 12, 2


def expected(shape: Shape = SHAPE, requests: int = REQUESTS) -> RoutingTrace:
    """The trace that samples hold: half of each request prompt, half decoded."""
    trace = make_trace(TOKENS, shape, seed=7, weights=True, token_id=True, requests=1)
    each = TOKENS // requests
    position = np.tile(np.arange(each), requests).astype(np.int32)
    return RoutingTrace(
        topk_ids=trace.topk_ids,
        request=np.repeat(np.arange(requests), each).astype(np.int32),
        num_experts=shape.num_experts,
        moe_layer_ids=shape.moe_layer_ids,
        position=position,
        phase=(position >= each // 2).astype(np.int8),
        topk_weights=trace.topk_weights,
        token_id=trace.token_id,
        model=shape.name,
    )


def loads(shape: Shape = SHAPE, steps: int = 1) -> LoadCounts:
    return make_counts(steps, shape, seed=7)


def all_layers(trace: RoutingTrace, shape: Shape = SHAPE, empty: int = 0) -> np.ndarray:
    """Ids with a row for every decoder layer."""
    ids = np.full((trace.num_tokens, shape.num_layers, shape.top_k), empty, np.int32)
    ids[:, list(shape.moe_layer_ids)] = trace.topk_ids
    return ids


class _Named:
    """A stand-in for what torch's pickles name; it is pickled as ``module.name`` and never loaded."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class _Pickler(pickle._Pickler):
    storages: list[bytes]

    def save_named(self, obj):
        self.write(f"c{obj.module}\n{obj.name}\n".encode())

    dispatch = {**pickle._Pickler.dispatch, _Named: save_named}  # noqa: RUF012

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            self.storages.append(obj.content)
            return "storage", _Named("torch", obj.kind), str(len(self.storages) - 1), "cpu", obj.length
        return None

    def reducer_override(self, obj):
        if not isinstance(obj, Tensor):
            return NotImplemented
        return _Rebuild(), (Storage(obj), 0, obj.array.shape, obj.strides, False, OrderedDict())


def _save_rebuild(self, obj):  # noqa: ARG001
    self.write(b"ctorch._utils\n_rebuild_tensor_v2\n")


class _Rebuild:
    def __call__(self, *_):
        raise AssertionError("a pickle of torch was really unpickled")


_Pickler.dispatch[_Rebuild] = _save_rebuild


class Tensor:
    """An array that is saved as torch saves tensors; as bfloat16 if so wanted."""

    def __init__(self, array: np.ndarray, bf16: bool = False):
        self.array = np.ascontiguousarray(array, np.float32 if bf16 else None)
        self.bf16 = bf16
        self.strides = tuple(s // self.array.itemsize for s in self.array.strides)


class Storage:
    def __init__(self, tensor: Tensor):
        flat = tensor.array.ravel()
        self.kind = ("BFloat16" if tensor.bf16 else STORAGES[flat.dtype.str[1:]]) + "Storage"
        self.content = (flat.view(np.uint32) >> 16).astype("<u2").tobytes() if tensor.bf16 else flat.tobytes()
        self.length = flat.size


def torch_save(value: object, path: Path) -> Path:
    """Write a file as ``torch.save`` does."""
    import io

    stream = io.BytesIO()
    pickler = _Pickler(stream, 2)
    pickler.storages = []
    pickler.dump(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", b"little")
        for i, content in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{i}", content)
        archive.writestr("archive/version", b"3\n")
    return path


def safetensors(tensors: dict[str, np.ndarray], path: Path) -> Path:
    """Write a ``.safetensors`` file."""
    names = {"int32": "I32", "int64": "I64", "float32": "F32"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        content = array.tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def gguf(values: dict[str, object], tensors: dict[str, np.ndarray], path: Path, version: int = 3) -> Path:
    """Write a GGUF file with texts, lists of texts and whole numbers, and tensors of 32-bit floats."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    for key, value in values.items():
        out += text(key)
        if isinstance(value, str):
            out += struct.pack("<I", 8) + text(value)
        elif isinstance(value, list):
            out += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        else:
            out += struct.pack("<II", 4, value)
    data = b""
    for name, array in tensors.items():
        axes = array.shape[::-1]  # fastest first
        out += text(name) + struct.pack("<I", len(axes)) + b"".join(struct.pack("<Q", n) for n in axes)
        out += struct.pack("<IQ", 0, len(data))
        content = array.astype("<f4").tobytes()
        data += content + b"\0" * (-len(content) % 32)
    out += b"\0" * (-len(out) % 32)
    path.write_bytes(out + data)
    return path


def imatrix(folder: Path) -> Path:
    tensors = {}
    for layer, counts in zip(SHAPE.moe_layer_ids, loads().totals, strict=True):
        for matrix in ("gate", "up", "down"):
            name = f"blk.{layer}.ffn_{matrix}_exps.weight"
            tensors[f"{name}.in_sum2"] = np.ones((SHAPE.num_experts, 4))
            tensors[f"{name}.counts"] = counts[:, None]
        tensors[f"blk.{layer}.attn_q.weight.counts"] = np.full((1, 1), 5.0)
    values = {
        "general.type": "imatrix",
        "imatrix.datasets": ["wiki.txt", "code.txt"],
        "imatrix.chunk_count": 5,
        "imatrix.chunk_size": 512,
    }
    return gguf(values, tensors, folder / "imatrix.gguf")


def slots_of(shape: Shape, spare: int = 2) -> np.ndarray:
    """A map of slots to experts in which slot and expert differ: reversed, then a few copies."""
    order = np.r_[np.arange(shape.num_experts)[::-1], np.arange(spare)]
    return np.stack([np.roll(order, layer) for layer in range(shape.num_layers)]).astype(np.int64)


def per_pass(folder: Path) -> Path:
    """Two ranks' files of three passes; together they are `loads(steps=3)`."""
    target, slots = folder / "per_pass", slots_of(SHAPE)
    target.mkdir()
    rng = np.random.default_rng(3)
    want = loads(steps=3).counts.astype(np.int64)
    physical = np.zeros((3, SHAPE.num_layers, slots.shape[1]), np.int64)
    for i, layer in enumerate(SHAPE.moe_layer_ids):
        for expert in range(SHAPE.num_experts):
            places = np.flatnonzero(slots[layer] == expert)
            for step in range(3):
                part = rng.multinomial(want[step, i, expert], np.full(len(places), 1 / len(places)))
                physical[step, layer, places] = part
    share = rng.binomial(physical, 0.5)
    for rank, counts in enumerate((share, physical - share)):
        records = [
            {
                "forward_pass_id": 10 + step,
                "rank": rank,
                "gatherer_key": "primary",
                "global_physical_count": Tensor(counts[step].astype(np.int32)),
            }
            for step in range(3)
        ]
        saved = {"records": records, "last_physical_to_logical_map": Tensor(slots)}
        torch_save(saved, target / f"expert_distribution_recorder_1750000000.5_{rank}.pt")
    return target


def per_token(folder: Path) -> Path:
    """One rank: both prompts in one pass, then three decoding passes of both requests."""
    trace, slots = expected(WIDE), slots_of(WIDE)
    physical = np.full((WIDE.num_layers, TOKENS, 8), -1, np.int32)
    for i, layer in enumerate(WIDE.moe_layer_ids):
        slot_of = {int(e): s for s, e in enumerate(slots[layer])}
        for t in range(TOKENS):
            physical[layer, t] = [slot_of[int(e)] for e in trace.topk_ids[t, i]]
    each, prompt = TOKENS // REQUESTS, TOKENS // REQUESTS // 2
    steps = [[r * each + p for r in range(REQUESTS) for p in range(prompt)]]
    steps += [[r * each + p for r in range(REQUESTS)] for p in range(prompt, each)]
    shared: list[object] = []
    records = [
        {
            "forward_pass_id": n,
            "rank": 0,
            "gatherer_key": "primary",
            "input_ids": trace.token_id[rows].tolist(),
            "positions": trace.position[rows].tolist(),
            "extend_seq_lens": [prompt] * REQUESTS if n == 0 else None,
            "forward_mode": 1 if n == 0 else 2,
            "topk_ids_of_layer": Tensor(physical[:, rows]),
            "misc_objects": shared,
            "global_physical_count": Tensor(np.zeros(slots.shape, np.int32)),
        }
        for n, rows in enumerate(steps)
    ]
    saved = {"records": records, "last_physical_to_logical_map": Tensor(slots)}
    return torch_save(saved, folder / "expert_distribution_recorder_1750000000.5_0.pt")


def sglang_stat(folder: Path) -> Path:
    counts = np.zeros((4, SHAPE.num_layers, SHAPE.num_experts), np.int32)
    counts[1, list(SHAPE.moe_layer_ids)] = loads().counts[0]
    saved = {"rank": 0, "logical_count": Tensor(counts), "average_utilization_rate_over_window": None}
    return torch_save(saved, folder / "expert_distribution_recorder_1750000000.5.pt")


def sglang_routed(folder: Path) -> Path:
    trace = expected()
    each = TOKENS // REQUESTS
    lines = []
    for r in range(REQUESTS):
        part = all_layers(trace, empty=-1)[r * each : (r + 1) * each]
        text = base64.b64encode(part.astype("<i4").tobytes()).decode()
        info = {"id": str(r), "prompt_tokens": each // 2, "completion_tokens": each - each // 2 + 1}
        lines.append(json.dumps({"text": "é", "meta_info": {**info, "routed_experts": text}}))
    path = folder / "responses.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def route_lines(trace: RoutingTrace, dummies: int = 0) -> list[str]:
    lines = [json.dumps({"type": "meta", "model_id": "x", "top_k": 2})]
    for t in range(dummies):
        for layer in trace.moe_layer_ids:
            row = {"type": "route", "req_id": "warm", "token_idx": t, "layer": layer, "topk_ids": [0, 1]}
            lines.append(json.dumps({**row, "topk_weights": [0.5, 0.5]}))
    for t in range(trace.num_tokens):
        for i, layer in enumerate(trace.moe_layer_ids):
            row = {
                "type": "route",
                "req_id": f"r{trace.request[t]}",
                "token_idx": int(trace.position[t]),
                "layer": layer,
                "topk_ids": trace.topk_ids[t, i].tolist(),
                "topk_weights": trace.topk_weights[t, i].tolist(),
            }
            lines.append(json.dumps(row))
    return lines


def route_jsonl(folder: Path) -> Path:
    path = folder / "routes.jsonl"
    path.write_text("\n".join(route_lines(expected(), dummies=6)) + "\n")
    return path


def trtllm_counts(folder: Path) -> Path:
    """Two ranks, three iterations."""
    target = folder / "counts"
    target.mkdir()
    (target / "meta_info.json").write_text(json.dumps({"num_experts": 8, "num_experts_per_token": 2}))
    want = loads(steps=3).counts.astype(np.int32)
    share = np.random.default_rng(4).binomial(want, 0.4).astype(np.int32)
    for rank, counts in enumerate((share, want - share)):
        tensors = {
            f"{100 + step}_{layer}": counts[step, i]
            for step in range(3)
            for i, layer in enumerate(SHAPE.moe_layer_ids)
        }
        safetensors(tensors, target / f"rank{rank}.safetensors")
    return target


def trtllm_raw(folder: Path) -> Path:
    """Two ranks, one iteration: each rank has one request."""
    trace, target = expected(), folder / "raw"
    target.mkdir()
    (target / "meta_info.json").write_text(json.dumps({"num_experts": 8, "num_experts_per_token": 2}))
    for rank in range(2):
        own = trace.topk_ids[trace.request == rank].astype(np.int32)
        tensors = {f"100_{layer}": own[:, i].copy() for i, layer in enumerate(SHAPE.moe_layer_ids)}
        safetensors(tensors, target / f"rank{rank}_raw.safetensors")
        counts = {k: np.bincount(v.ravel(), minlength=8).astype(np.int32) for k, v in tensors.items()}
        safetensors(counts, target / f"rank{rank}.safetensors")
    return target


def balance_jsonl(folder: Path) -> Path:
    trace, lines = expected(), []
    for r in range(REQUESTS):
        own = trace.request == r
        for i, layer in enumerate(SHAPE.moe_layer_ids):
            batch = {
                "layer": layer,
                "batch_id": 0,
                "origin_rows": trace.position[own].tolist(),
                "topk_experts": trace.topk_ids[own, i].tolist(),
                "topk_weights": trace.topk_weights[own, i].tolist(),
                "request_id": f"r{r}",
                "source_file": "a.npz",
            }
            lines.append(json.dumps(batch))
    path = folder / "balance.jsonl"
    path.write_text("\n".join(lines))
    return path


def selection(trace: RoutingTrace, path: Path) -> Path:
    """One request: its prompt is one entry, its other tokens one each."""
    prompt = int((trace.phase == 0).sum())
    groups = [list(range(prompt)), *([t] for t in range(prompt, trace.num_tokens))]
    moe = {layer: i for i, layer in enumerate(trace.moe_layer_ids)}
    entries = [
        {str(n): trace.topk_ids[rows, moe[n]].tolist() if n in moe else None for n in range(SHAPE.num_layers)}
        for rows in groups
    ]
    path.write_text(json.dumps(entries))
    return path


def selection_json(folder: Path) -> Path:
    return selection(expected(requests=1), folder / "0.json")


def flame(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    trace, target = expected(), folder / "flame-moe-tiny"
    (target / "samples").mkdir(parents=True)
    (target / "actives" / "iter_0100").mkdir(parents=True)
    for n, rows in enumerate((slice(0, 7), slice(7, None))):
        table = pa.table({"token_id": pa.array(trace.token_id[rows], pa.int32())})
        pq.write_table(table, target / "samples" / f"{n:03d}.parquet")
    for i, layer in enumerate(SHAPE.moe_layer_ids):
        columns = {
            "scores": pa.array(list(trace.topk_weights[:, i]), pa.list_(pa.float16())),
            "indices": pa.array(trace.topk_ids[:, i].tolist(), pa.list_(pa.int16())),
        }
        pq.write_table(pa.table(columns), target / "actives" / "iter_0100" / f"layer_{layer:02d}.parquet")
    return target


def esft(folder: Path) -> Path:
    trace, target = expected(), folder / "esft"
    target.mkdir()
    for i, layer in enumerate(SHAPE.moe_layer_ids):
        lines = []
        for r in range(REQUESTS):
            own = trace.request == r
            ids, weights = trace.topk_ids[own, i].ravel(), trace.topk_weights[own, i].ravel()
            lines.append("\t".join(map(str, ids)) + "\t\t" + "\t".join(map(str, weights.astype(float))))
        (target / f"expert_weights_{layer}.txt").write_text("\n".join(lines) + "\n")
    (target / "summary.json").write_text('{"token_scores": {}}')
    return target


def fingerprint(folder: Path) -> Path:
    trace, tokens = expected(requests=1), []
    for t in range(TOKENS):
        layers = {
            f"layer_{layer}": {
                "selected_experts": trace.topk_ids[t, i].tolist(),
                "selected_probs": trace.topk_weights[t, i].tolist(),
            }
            for i, layer in enumerate(SHAPE.moe_layer_ids)
        }
        tokens.append({f"token_{100 + t}": layers})
    document = {"row_index": 3, "dataset": "d", "full_text": ["a", "b"], "router_data": tokens}
    path = folder / "False_False.json.gz"
    path.write_bytes(gzip.compress(json.dumps(document, indent=2).encode(), mtime=0))
    return path


def moe_beyond(folder: Path) -> Path:
    trace, path = expected(), folder / "x.csv"
    words = ["a,b", 'say "x"', "two\nlines", "", "é", "[1, 2]"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["Layer ID", "Batch Number", "Token", "Activated Expert IDs"])
        for i, layer in enumerate(SHAPE.moe_layer_ids):
            for t in range(TOKENS):
                listed = str(trace.topk_ids[t, i].tolist())
                rows.writerow([layer, int(trace.request[t]), words[t % len(words)], listed])
    return path


def speculative(folder: Path) -> Path:
    trace, path = expected(), folder / "s.jsonl"
    lines = [
        json.dumps(
            {
                "dataset": "gsm8k",
                "problem_id": int(trace.request[t]),
                "layer": layer,
                "experts": trace.topk_ids[t, i].tolist(),
                "gating_probs": trace.topk_weights[t, i].tolist(),
                "token_idx": int(trace.position[t]),
            }
        )
        for t in range(TOKENS)
        for i, layer in enumerate(SHAPE.moe_layer_ids)
    ]
    path.write_text("\n".join(lines))
    return path


def scores_of(trace: RoutingTrace, layer: int, each: int) -> np.ndarray:
    """Scores ``[samples, tokens, experts]`` whose largest are the trace's experts, in order."""
    scores = -1 - np.random.default_rng(layer).random((trace.num_tokens, trace.num_experts)).astype(
        np.float32
    )
    for slot in range(trace.top_k):
        scores[np.arange(trace.num_tokens), trace.topk_ids[:, layer, slot]] = 2.0 - slot
    return scores.reshape(-1, each, trace.num_experts)


def logits_folder(folder: Path) -> Path:
    trace, target = expected(), folder / "logits"
    target.mkdir()
    for i, layer in enumerate(SHAPE.moe_layer_ids):
        tensor = Tensor(scores_of(trace, i, TOKENS // REQUESTS), bf16=True)
        torch_save(tensor, target / f"tiny-2x8b_{layer:02d}_c4.pt")
    return target


def logits_npy(folder: Path) -> Path:
    path = folder / "layer_01_prompt.npy"
    np.save(path, scores_of(expected(), 0, TOKENS // REQUESTS))
    return path


def infinity_npy(folder: Path) -> Path:
    counts = np.zeros((5, SHAPE.num_layers, SHAPE.num_experts), np.float32)
    counts[:3, list(SHAPE.moe_layer_ids)] = loads(steps=3).counts
    np.save(folder / "trace_collection.npy", counts)
    return folder / "trace_collection.npy"


def eplb_npz(folder: Path) -> Path:
    write_trace(loads(), folder / "weight.npz", "eplb")
    return folder / "weight.npz"


def eplb_json(folder: Path) -> Path:
    (folder / "weight.json").write_text(json.dumps(loads().totals.tolist()))
    return folder / "weight.json"


def vllm_npz(folder: Path) -> Path:
    trace = expected(requests=1)
    prompt = int((trace.phase == 0).sum())
    np.savez(
        folder / "r.npz",
        routed_experts=all_layers(trace),
        prompt_token_ids=trace.token_id[:prompt],
        output_token_ids=np.r_[trace.token_id[prompt:], 5],
    )
    return folder / "r.npz"


def npz(folder: Path) -> Path:
    write_trace(expected(), folder / "t.npz")
    return folder / "t.npz"


def parquet(folder: Path) -> Path:
    write_trace(expected(), folder / "t.parquet")
    return folder / "t.parquet"


def parquet_loads(folder: Path) -> Path:
    write_trace(loads(), folder / "c.parquet")
    return folder / "c.parquet"


def sglang_json(folder: Path) -> Path:
    write_trace(loads(), folder / "c.json", num_layers=3)
    return folder / "c.json"


def olmoe_pkl(folder: Path) -> Path:
    counters = [Counter({np.int64(e): int(v) for e, v in enumerate(row)}) for row in loads().totals]
    (folder / "c.pkl").write_bytes(pickle.dumps(counters, 4))
    return folder / "c.pkl"


def olmoe_npz(folder: Path) -> Path:
    np.savez(folder / "c.npz", tiny__c4__counts=loads().totals.astype(np.int64))
    return folder / "c.npz"


def ids_npy(folder: Path) -> Path:
    np.save(folder / "ids.npy", all_layers(expected()))
    return folder / "ids.npy"


def selection_folder(folder: Path) -> Path:
    trace, target = expected(), folder / "many"
    target.mkdir(parents=True)
    each = TOKENS // REQUESTS
    for r in range(REQUESTS):
        rows = slice(r * each, (r + 1) * each)
        part = types.SimpleNamespace(
            topk_ids=trace.topk_ids[rows],
            phase=trace.phase[rows],
            num_tokens=each,
            moe_layer_ids=trace.moe_layer_ids,
        )
        selection(part, target / f"{r}.json")
    (target / "README.md").write_text("a note\n")
    return target


#: Reader, a word for the case, and what writes it.
SAMPLES = {
    ("npz", ""): npz,
    ("npy", "ids"): ids_npy,
    ("npy", "scores"): logits_npy,
    ("npy", "loads"): infinity_npy,
    ("parquet", "tokens"): parquet,
    ("parquet", "loads"): parquet_loads,
    ("sglang-json", ""): sglang_json,
    ("sglang-pt", ""): sglang_stat,
    ("vllm-npz", ""): vllm_npz,
    ("olmoe-pkl", ""): olmoe_pkl,
    ("olmoe-npz", ""): olmoe_npz,
    ("sglang-records", "per_pass"): per_pass,
    ("sglang-records", "per_token"): per_token,
    ("sglang-routed", ""): sglang_routed,
    ("route-jsonl", ""): route_jsonl,
    ("trtllm", "counts"): trtllm_counts,
    ("trtllm", "raw"): trtllm_raw,
    ("balance-jsonl", ""): balance_jsonl,
    ("eplb", "npz"): eplb_npz,
    ("eplb", "json"): eplb_json,
    ("selection-json", ""): selection_json,
    ("flame", ""): flame,
    ("esft", ""): esft,
    ("fingerprint-json", ""): fingerprint,
    ("moe-beyond-csv", ""): moe_beyond,
    ("speculative-jsonl", ""): speculative,
    ("imatrix", ""): imatrix,
    ("router-logits", ""): logits_folder,
    ("folder", ""): selection_folder,
}
#: The model a sample is of, where it is not `SHAPE`.
SHAPES = {("sglang-records", "per_token"): WIDE}
