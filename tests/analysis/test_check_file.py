"""Checks of files: what a reader refuses is a finding, real traces raise no false alarm, streams bounded."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from check_traces import LENGTH, SHAPE, TOKENS, clean, clean_counts, planted
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.analysis import check_scan, check_sequences
from moesim.analysis.check import check_file, check_trace
from moesim.analysis.check_types import ERROR
from moesim.errors import TraceError
from moesim.files import data_dir
from moesim.model import load_model, names
from moesim.trace import Header, TraceWriter, load_trace, write_trace

CLEAN = clean()


def catalogue():
    return map(load_model, names())


def spoilt(trace):
    """A trace with one duplicate, one strange id and a template."""

    def plant(ids):
        ids[20, 0, 1] = ids[20, 0, 0]
        ids[100, 2, 0] = 200
        ids[LENGTH : LENGTH + 9] = ids[:9]

    return planted(trace, plant)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_file_says_what_the_trace_in_memory_says(tmp_path, suffix):
    def plant(ids):
        ids[3, 0, 1] = ids[3, 0, 0]
        ids[2 * LENGTH : 3 * LENGTH] = ids[:LENGTH]

    trace = planted(CLEAN, plant)
    write_trace(trace, tmp_path / f"x{suffix}")
    report = check_file(tmp_path / f"x{suffix}", ranks=[8])
    assert report.findings == check_trace(trace, ranks=[8]).findings
    assert len(report.findings) == 2
    assert (report.format, report.kind, report.tokens) == (suffix[1:], "routing_trace", TOKENS)


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_batches_do_not_matter(tmp_path, monkeypatch, rows):
    trace = spoilt(replace(CLEAN, num_experts=201))
    with TraceWriter(tmp_path / "x.parquet", Header.of(trace)) as out:
        out.append(trace.topk_ids, trace.request, trace.position, trace.phase)
    whole = check_trace(trace)
    monkeypatch.setattr(check_scan, "_BLOCK", rows)
    assert check_file(tmp_path / "x.parquet").findings == whole.findings
    order = np.lexsort((trace.request, trace.position))
    mixed = replace(
        trace,
        topk_ids=trace.topk_ids[order],
        request=trace.request[order],
        position=trace.position[order],
        phase=trace.phase[order],
    )
    found = check_trace(mixed)
    assert found.find("template-prefix").count == whole.find("template-prefix").count == 9
    assert found.find("position-gap") is None


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_ids_that_the_reader_refuses_are_counted(tmp_path, suffix):
    """The header says 32 experts; the ids say otherwise."""
    trace, path = spoilt(replace(CLEAN, num_experts=32)), tmp_path / f"x{suffix}"
    write_trace(replace(trace, num_experts=256), path)
    _say_32_experts(path)
    with pytest.raises(TraceError):
        load_trace(path)
    report = check_file(path)
    assert [f.code for f in report.of(ERROR)] == ["refused", "id-out-of-range", "duplicate-ids"]
    assert report.find("id-out-of-range").count == 1
    assert str(report.find("id-out-of-range").example) == "request 2, position 20, layer 4: id 200"
    assert report.find("template-prefix").count == 9


def _say_32_experts(path):
    if path.suffix == ".npz":
        with np.load(path) as archive:
            arrays = dict(archive)
        header = json.loads(str(arrays["moesim"]))
        header["num_experts"] = 32
        np.savez(path, **arrays | {"moesim": np.array(json.dumps(header))})
        return
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"moesim.num_experts": b"32"}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=200)


def test_physical_ids_of_a_file_against_its_model(tmp_path):
    def plant(ids):
        ids += np.where((ids < 4) & (np.random.default_rng(1).random(ids.shape) < 0.5), 32, 0).astype(
            np.uint8
        )

    ids = planted(CLEAN, plant).topk_ids
    np.savez(tmp_path / "x.npz", topk_ids=ids, request=CLEAN.request)
    report = check_file(tmp_path / "x.npz", shape=SHAPE)
    assert [f.code for f in report.of(ERROR)] == ["refused", "physical-ids"]
    assert report.find("physical-ids").count == int((ids >= 32).sum())
    assert report.find("unknown-layer") is None


def test_counts_wider_than_the_model(tmp_path):
    loads = clean_counts()
    wide = np.concatenate([loads.counts[0], loads.counts[0, :, :4]], axis=1)
    (tmp_path / "x.json").write_text(json.dumps({"logical_count": wide.tolist()}))
    report = check_file(tmp_path / "x.json", shape=SHAPE)
    assert [f.code for f in report.of(ERROR)] == ["refused", "physical-ids"]


def test_a_value_no_reader_takes_is_a_finding(tmp_path):
    (tmp_path / "x.json").write_text('{"logical_count": [[1, -2], [3, 4]]}')
    report = check_file(tmp_path / "x.json")
    assert [f.code for f in report.findings] == ["refused"]
    assert "-2" in report.findings[0].message
    assert not report.ok


def test_the_model_a_trace_names_is_looked_up(tmp_path):
    trace = load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz")
    fewer = replace(trace, topk_ids=trace.topk_ids[:, :20], moe_layer_ids=tuple(range(20)))
    write_trace(fewer, tmp_path / "x.npz")
    found = check_file(tmp_path / "x.npz", candidates=catalogue).find("missing-layer")
    assert found.layers == (20, 21, 22, 23)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(check_sequences, "MAX_TOKENS", 100)
    monkeypatch.setattr(check_scan, "WINDOW", 50)
    monkeypatch.setattr(check_scan, "_BLOCK", 64)

    def plant(ids):
        ids[-1, 0, 1] = ids[-1, 0, 0]

    report = check_trace(planted(CLEAN, plant))
    assert (report.tokens, report.examined_tokens) == (TOKENS, 100)
    assert report.find("duplicate-ids").count == 1  # counting goes on to the end


@pytest.mark.parametrize("name", ["gpt-oss-20b-synthetic.npz", "deepseek-v3-synthetic.json"])
def test_bundled_traces_are_in_order(name):
    report = check_file(data_dir("traces") / name, candidates=catalogue, ranks=[8, 32])
    assert [f.code for f in report.findings if f.code != "note"] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepseek-v3-counts/decode_in1000out1000.json", {}),
        ("deepseek-v3-counts/decode_in1800out100.json", {}),
        ("deepseek-v3-counts/prefill_in1000out1000.json", {"uneven-layers": 57}),
        ("deepseek-v3-counts/prefill_in1024.json", {}),
        ("deepseek-v3-counts/prefill_in1800out100.json", {"uneven-layers": 57}),
        ("deepseek-v3-counts/prefill_in4096.json", {}),
        ("olmoe-counts/raw/olmoe_expert_counts_c4.pkl", {}),
        (
            "esft-deepseek-v2-lite/raw/intent/expert_weights_1.txt",
            {"template-prefix": 2173, "phase-missing": 127},
        ),
        (
            "gpt-oss-20b/raw/mmlu_test__security_studies__False_False.json.gz",
            {"unused-expert": 121, "idle-rank": 1, "phase-missing": 1},
        ),
        ("esft-deepseek-v2-lite/intent.npz", {"template-prefix": 2083, "phase-missing": 127}),
        ("esft-deepseek-v2-lite/summary.npz", {"template-prefix": 168, "phase-missing": 13}),
        ("gpt-oss-20b/decode.npz", {"template-prefix": 1973, "phase-missing": 437}),
    ],
)
def test_real_traces_raise_no_false_alarm(shared, name, expected):
    path = shared("traces") / name
    start = time.process_time()
    report = check_file(path, candidates=catalogue, ranks=[8])
    assert time.process_time() - start < 3
    assert report.ok
    assert {f.code: f.count for f in report.findings if f.code != "note"} == expected


@pytest.mark.parametrize(("task", "share"), [("intent", 0.253), ("summary", 0.020)])
def test_shared_templates_of_esft(shared, task, share):
    """Routing prefixes find the share of repeated prefix tokens that was counted independently."""
    path = shared(f"traces/esft-deepseek-v2-lite/{task}.npz")
    report = check_file(path, shape=load_model("deepseek-v2-lite"))
    assert report.find("template-prefix").count / report.tokens == pytest.approx(share, abs=5e-4)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A folder, and files to mutate by name."""
    folder = tmp_path_factory.mktemp("samples")
    write_trace(clean(requests=3), folder / "x.npz")
    write_trace(clean(requests=3), folder / "x.parquet")
    write_trace(clean_counts(), folder / "x.json", num_layers=8)
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["x.npz", "x.parquet", "x.json"]), st.data())
def test_mutated_files_give_a_report_or_a_trace_error(samples, name, data):
    folder, contents = samples
    content = bytearray(contents[name])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.integers(0, 9)):
            content[at] = data.draw(st.integers(0, 255))
        else:
            del content[at : at + data.draw(st.integers(1, 400))]
            content = content or bytearray(b"x")
    path = folder / f"mutated-{name}"
    path.write_bytes(content)
    with contextlib.suppress(TraceError):
        check_file(path, shape=SHAPE if data.draw(st.booleans()) else None)


def test_a_shifted_copy_of_a_real_trace_is_caught(shared):
    trace = load_trace(shared("traces/gpt-oss-20b/decode.npz"), shape=load_model("gpt-oss-20b"))
    ids = trace.topk_ids[:20_000].copy()
    ids[:, 7] = ids[:, 6]
    ids[:, 12] = 0
    part = replace(
        trace,
        topk_ids=ids,
        request=trace.request[:20_000],
        position=trace.position[:20_000],
        phase=trace.phase[:20_000],
    )
    report = check_trace(part, shape=load_model("gpt-oss-20b"))
    assert {f.code: f.layers for f in report.of(ERROR)} == {"dense-layer": (12,), "copied-layer": (7,)}


def test_command_says_what_to_do(moesim, tmp_path):
    write_trace(spoilt(replace(CLEAN, num_experts=201)), tmp_path / "x.npz")
    code, out, err = moesim("trace", "check", tmp_path / "x.npz")
    assert (code, err) == (1, "")
    assert "error    duplicate-ids: 1 rows" in out
    assert "for example: request 0, position 20, layer 2: [" in out
    assert "what to do: a router never chooses an expert twice" in out


def test_command_json(moesim, tmp_path):
    write_trace(spoilt(replace(CLEAN, num_experts=201)), tmp_path / "x.parquet")
    code, out, _ = moesim("trace", "check", tmp_path / "x.parquet", "--json", "--ep", "3", "--ep", "67")
    document = json.loads(out)
    assert code == 1
    assert (document["ok"], document["errors"], document["tokens"]) == (False, 1, TOKENS)
    first = document["findings"][0]
    assert (first["code"], first["count"], first["unit"]) == ("duplicate-ids", 1, "rows")
    assert first["example"]["request"] == 0
    idle = [f for f in document["findings"] if f["code"] == "idle-rank"]
    assert len(idle) == 2


def test_command_exit_codes(moesim, tmp_path):
    write_trace(CLEAN, tmp_path / "good.npz")
    (tmp_path / "noise.bin").write_bytes(b"\x00\x01nothing known")
    assert moesim("trace", "check", tmp_path / "good.npz", "--ep", "8")[0] == 0
    code, _, err = moesim("trace", "check", tmp_path / "missing.npz")
    assert (code, "cannot be read" in err) == (2, True)
    code, _, err = moesim("trace", "check", tmp_path / "noise.bin")
    assert (code, "no known trace format" in err) == (2, True)
    code, _, err = moesim("trace", "check", tmp_path / "good.npz", "--ep", "5")
    assert (code, "divisor of 32" in err) == (2, True)
    code, out, _ = moesim("trace", "check", tmp_path / "good.npz", "--model", "mixtral-8x7b")
    assert (code, "refused" in out) == (1, True)
    code, _, err = moesim("trace", "check", tmp_path / "good.npz", "--model", "llama-3.1-8b")
    assert code == 2
