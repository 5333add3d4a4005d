"""SGLang's load counts, as JSON and as ``.pt``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from trace_helpers import DEEPSEEK_V3, KNOWN, TINY, FakeTorch, make_counts, make_trace

from moesim.errors import TraceError
from moesim.trace import LoadCounts, load_trace, write_trace


def dump(path, rows, **more):
    path.write_text(json.dumps({"logical_count": rows, **more}))
    return path


@pytest.fixture
def rows():
    return [[0.0] * 8, *make_counts().counts[0].tolist()]


def test_dense_layers_are_left_out(tmp_path, rows):
    path = dump(tmp_path / "c.json", rows)
    for hints in ({}, {"shape": TINY}, {"candidates": [*KNOWN, TINY]}):
        loads = load_trace(path, **hints)
        assert isinstance(loads, LoadCounts)
        assert loads.moe_layer_ids == (1, 2)
        np.testing.assert_array_equal(loads.counts[0], rows[1:])
    assert (loads.model, loads.top_k) == ("tiny", 2)


def test_moe_layers_alone(tmp_path, rows):
    loads = load_trace(dump(tmp_path / "c.json", rows[1:]), shape=TINY)
    assert loads.moe_layer_ids == (1, 2)


def test_steps(tmp_path, rows):
    empty = [[0] * 8] * 3
    loads = load_trace(dump(tmp_path / "c.json", [rows, empty, rows]), shape=TINY)
    assert loads.counts.shape == (2, 2, 8)
    assert any("dropped 1 of 3 steps" in w for w in loads.warnings)


def test_keys_may_come_in_any_order_and_far_down(tmp_path, rows):
    text = json.dumps({"padding": "x" * 10_000, "logical_count": rows})
    (tmp_path / "c.json").write_text("\n  " + text)
    assert load_trace(tmp_path / "c.json", shape=TINY).counts.shape == (1, 2, 8)


def test_an_moe_layer_without_load_is_kept_with_a_warning(tmp_path, rows):
    rows[2] = [0] * 8
    loads = load_trace(dump(tmp_path / "c.json", rows), shape=TINY)
    assert loads.moe_layer_ids == (1, 2)
    assert any("[2] carry no routing" in w for w in loads.warnings)


def test_load_in_a_dense_layer_is_another_model(tmp_path, rows):
    rows[0][3] = 1
    with pytest.raises(TraceError, match="tiny has no experts in layers"):
        load_trace(dump(tmp_path / "c.json", rows), shape=TINY)


def test_physical_counts_of_a_redundant_deployment_do_not_pass_for_logical(tmp_path):
    rows = [[0] * 288] * 3 + [[1] * 288] * 58
    with pytest.raises(TraceError, match="trace has 288 experts per layer, deepseek-v3 has 256"):
        load_trace(dump(tmp_path / "c.json", rows), shape=DEEPSEEK_V3)


def test_every_bad_value_is_named_with_its_place(tmp_path, rows):
    rows[1][3], rows[1][4], rows[2][0] = -1, "7", None
    text = json.dumps({"logical_count": rows}).replace("null", "NaN")
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(TraceError) as caught:
        load_trace(tmp_path / "c.json")
    where = [f.where for f in caught.value.faults]
    assert where == ["logical_count[1][3]", "logical_count[1][4]", "logical_count[2][0]"]
    assert str(tmp_path / "c.json") in str(caught.value)


@pytest.mark.parametrize("bad", ["Infinity", "1e400", "true", "1" + "0" * 400])
def test_values_that_are_no_loads(tmp_path, rows, bad):
    (tmp_path / "c.json").write_text(json.dumps({"logical_count": rows}).replace("0.0", bad, 1))
    with pytest.raises(TraceError, match=r"logical_count\[0\]\[0\]: is no load"):
        load_trace(tmp_path / "c.json")


def test_many_faults_are_counted_not_listed(tmp_path):
    with pytest.raises(TraceError, match="91 more such faults"):
        load_trace(dump(tmp_path / "c.json", [[-1] * 32] * 3))


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([[1, 2], [1]], r"logical_count\[1\]: has 1 experts, the first row has 2"),
        ([[[1, 2]], [[1, 2], [3, 4]]], r"logical_count\[1\]: has 2 layers, the first step has 1"),
        ([[1, 2], 3], r"logical_count\[1\]: is no list of numbers"),
        ([[]], r"logical_count\[0\]: is no list"),
        ([], "is no list of rows"),
        ({"a": 1}, "is no list of rows"),
        ([[0, 0], [0, 0]], "holds no load at all"),
        ([[[[1]]]], "is no load"),
    ],
)
def test_shapes_that_are_no_counts(tmp_path, rows, match):
    with pytest.raises(TraceError, match=match):
        load_trace(dump(tmp_path / "c.json", rows))


@pytest.mark.parametrize(
    "text",
    [
        '{"logical_count": [[1, 2',
        '{"logical_count": ' + "[" * 100_000,
        '{"a": {"logical_count": [[1]]}}',
        '["logical_count"]',
        '{"logical_count": [[1]]}\xff',
        '{"logical_count": [[' + "1" * 5000 + "]]}",
    ],
)
def test_damaged_documents(tmp_path, text):
    (tmp_path / "c.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TraceError):
        load_trace(tmp_path / "c.json")


def test_a_document_too_large_to_parse(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("moesim.trace.json_text.MAX_JSON_BYTES", 100)
    with pytest.raises(TraceError, match="JSON document: needs"):
        load_trace(dump(tmp_path / "c.json", rows))


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float64, (2, 2, 8), elements=st.floats(1e-9, 1e12)))
def test_json_round_trip(tmp_path_factory, counts):
    path = tmp_path_factory.mktemp("sglang") / "c.json"
    lost = write_trace(LoadCounts(counts, (1, 2), 2, "tiny"), path, num_layers=3)
    back = load_trace(path, shape=TINY)
    np.testing.assert_array_equal(back.counts, counts)
    assert lost == ("top-k", "model")
    assert list(json.loads(path.read_text())) == ["logical_count"]
    assert np.shape(json.loads(path.read_text())["logical_count"]) == (2, 3, 8)


def test_tokens_as_sglang_counts(tmp_path):
    trace = make_trace(80)
    lost = write_trace(trace, tmp_path / "c.json", num_layers=3)
    assert "order of tokens" in lost[0]
    stored = np.array(json.loads((tmp_path / "c.json").read_text())["logical_count"])
    assert stored.sum(axis=1).tolist() == [0, 160, 160]
    np.testing.assert_array_equal(stored[1:], trace.load_counts().totals)


def test_pt(tmp_path, monkeypatch):
    torch = FakeTorch(monkeypatch)
    counts = np.zeros((5, 3, 8), np.int32)
    counts[[1, 3], 1:] = make_counts(2).counts
    saved = {
        "rank": 0,
        "logical_count": torch.tensor(counts),
        "average_utilization_rate_over_window": 0.75,
    }
    path = torch.save(saved, tmp_path / "expert_distribution_recorder_1.pt")
    monkeypatch.undo()
    loads = load_trace(path, shape=TINY)
    np.testing.assert_array_equal(loads.counts, counts[[1, 3], 1:])
    assert any("dropped 3 of 5 steps" in w for w in loads.warnings)
    assert loads.metadata == {"rank": "0", "average_utilization_rate_over_window": "0.75"}


def test_pt_that_is_no_recording(tmp_path, monkeypatch):
    torch = FakeTorch(monkeypatch)
    path = torch.save({"records": [], "last_physical_to_logical_map": None}, tmp_path / "r.pt")
    with pytest.raises(TraceError, match="last_physical_to_logical_map: is missing"):
        load_trace(path)
    path = torch.save({"weights": 1}, tmp_path / "r.pt")
    with pytest.raises(TraceError, match="logical_count: is missing"):
        load_trace(path)


def test_pt_from_before_the_zip_format(tmp_path):
    (tmp_path / "old.pt").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03.")
    with pytest.raises(TraceError, match=r"torch's format before 1\.6"):
        load_trace(tmp_path / "old.pt")


def test_real_dumps(shared):
    folder = shared("traces/deepseek-v3-counts")
    for path in sorted(folder.glob("*.json")):
        loads = load_trace(path, shape=DEEPSEEK_V3)
        assert loads.counts.shape == (1, 58, 256)
        assert loads.moe_layer_ids == tuple(range(3, 61))
        assert loads.warnings == ()
    skew = loads.totals.max(axis=1) / loads.totals.mean(axis=1)
    assert path.name == "prefill_in4096.json"
    assert skew.mean() == pytest.approx(8.12, abs=0.005)
