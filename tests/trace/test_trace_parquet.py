"""The canonical Parquet: what goes in comes out, in batches, or an error says why not."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_helpers import DEEPSEEK_V3, GPT_OSS, TINY, make_counts, make_trace, random_ids, same

from moesim.errors import ConfigError, TraceError
from moesim.trace import Header, Shape, TraceReader, TraceWriter, load_trace, summarise, write_trace
from moesim.trace import arrow as arrow_module


@st.composite
def shapes(draw):
    layers = draw(st.integers(1, 6))
    moe = draw(st.sets(st.integers(0, layers - 1), min_size=1))
    experts = draw(st.sampled_from([1, 2, 8, 255, 256, 257, 600]))
    return Shape("some", layers, tuple(sorted(moe)), experts, draw(st.integers(1, min(experts, 9))))


@settings(max_examples=30, deadline=None)
@given(shapes(), st.integers(1, 60), st.booleans(), st.booleans(), st.integers(1, 70), st.data())
def test_round_trips(shape, tokens, weights, token_id, rows, data):
    trace = make_trace(tokens, shape, weights=weights, token_id=token_id)
    with tempfile.TemporaryDirectory() as folder:
        a, b, c = (Path(folder) / n for n in ("a.npz", "b.parquet", "c.npz"))
        write_trace(trace, a)
        write_trace(load_trace(a), b)
        write_trace(load_trace(b), c)
        assert same(trace, load_trace(b))
        assert a.read_bytes() == c.read_bytes()
        wanted = data.draw(st.lists(st.sampled_from(shape.moe_layer_ids), min_size=1, unique=True))
        at = [shape.moe_layer_ids.index(i) for i in wanted]
        with TraceReader(b) as reader:
            assert (reader.num_tokens, reader.has_weights, reader.has_token_ids) == (
                tokens,
                weights,
                token_id,
            )
            batches = list(reader.batches(wanted, rows))
    assert all(1 <= len(batch.request) <= rows for batch in batches)
    np.testing.assert_array_equal(np.concatenate([x.topk_ids for x in batches]), trace.topk_ids[:, at])
    np.testing.assert_array_equal(np.concatenate([x.position for x in batches]), trace.position)
    if weights:
        np.testing.assert_array_equal(
            np.concatenate([x.topk_weights for x in batches]), trace.topk_weights[:, at]
        )


@settings(max_examples=15, deadline=None)
@given(shapes(), st.integers(1, 4))
def test_load_counts_round_trip(shape, steps):
    counts = make_counts(steps, shape)
    with tempfile.TemporaryDirectory() as folder:
        write_trace(counts, Path(folder) / "c.parquet")
        assert same(counts, load_trace(Path(folder) / "c.parquet"))


def test_schema_is_as_documented(tmp_path):
    write_trace(make_trace(10, DEEPSEEK_V3, weights=True), tmp_path / "t.parquet")
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.names[:5] == ["request", "position", "phase", "L003", "L004"]
    assert schema.field("L060").type == pa.list_(pa.field("item", pa.uint8(), nullable=False), 8)
    assert schema.field("W003").type.value_type == pa.float16()
    stored = {k.decode(): json.loads(v) for k, v in schema.metadata.items() if k.startswith(b"moesim.")}
    assert stored["moesim.moe_layer_ids"] == list(range(3, 61))
    assert (stored["moesim.num_experts"], stored["moesim.top_k"], stored["moesim.id_space"]) == (
        256,
        8,
        "logical",
    )
    write_trace(make_counts(2), tmp_path / "c.parquet")
    table = pq.read_table(tmp_path / "c.parquet")
    assert table.column("step").to_pylist() == [0, 0, 1, 1]
    assert table.column("layer").to_pylist() == [1, 2, 1, 2]


def writer(path, shape=TINY, **options):
    return TraceWriter(path, Header.of(make_trace(1, shape)), **options)


def append(out, trace, part=slice(None)):
    out.append(trace.topk_ids[part], trace.request[part], trace.position[part], trace.phase[part])


def test_streaming_many_small_appends_makes_few_row_groups(tmp_path):
    trace = make_trace(1000)
    with writer(tmp_path / "t.parquet", rows=400) as out:
        for start in range(0, 1000, 7):
            append(out, trace, slice(start, start + 7))
    assert pq.ParquetFile(tmp_path / "t.parquet").metadata.num_row_groups == 3
    np.testing.assert_array_equal(load_trace(tmp_path / "t.parquet").topk_ids, trace.topk_ids)


def test_reading_in_batches_keeps_memory_small(tmp_path):
    shape, rng = Shape("wide", 12, tuple(range(12)), 64, 8), np.random.default_rng(0)
    block = make_trace(20_000, shape)
    with writer(tmp_path / "t.parquet", shape) as out:
        for _ in range(10):
            append(out, block)
    del rng
    whole_bytes, pool, peak = 200_000 * 12 * 8, pa.default_memory_pool(), 0
    before = pool.bytes_allocated()
    with TraceReader(tmp_path / "t.parquet") as reader:
        for batch in reader.batches(rows=1000):
            assert len(batch.request) <= 1000
            peak = max(peak, pool.bytes_allocated() - before + batch.topk_ids.nbytes)
    assert peak < whole_bytes / 2
    seen = summarise(tmp_path / "t.parquet")
    assert (seen.tokens, seen.counts.sum(axis=1).tolist()) == (200_000, [200_000 * 8.0] * 12)


def test_only_the_wanted_columns_are_read(tmp_path):
    path = tmp_path / "t.parquet"
    write_trace(make_trace(5000, GPT_OSS), path)
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunk = next(
        c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith("L005")
    )
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)
    with TraceReader(path) as reader:
        assert sum(len(b.request) for b in reader.batches([4, 6])) == 5000
        with pytest.raises(TraceError, match="has a damaged page"):
            list(reader.batches([5]))
    with pytest.raises(TraceError, match="has a damaged page"):
        load_trace(path)


def test_nothing_is_left_of_a_failed_write(tmp_path):
    def fail():
        with writer(tmp_path / "t.parquet") as out:
            append(out, make_trace(10))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "t.parquet").write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert (tmp_path / "t.parquet").read_text() == "old"


def test_a_full_disk_is_an_error_of_ours(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    def fail():
        with writer(tmp_path / "t.parquet") as out:
            append(out, make_trace(10))
            monkeypatch.setattr(out._writer, "write_table", full)

    with pytest.raises(ConfigError, match="no space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_every_wrong_array_of_an_append_is_named(tmp_path):
    trace = make_trace(10)
    with writer(tmp_path / "t.parquet", weights=True, token_ids=True) as out:
        with pytest.raises(TraceError) as caught:
            out.append(trace.topk_ids[:, :1], trace.request[:3], trace.position, trace.phase + np.int8(3))
        assert {f.where for f in caught.value.faults} == {
            "topk_ids",
            "request",
            "phase",
            "topk_weights",
            "token_id",
        }
        weights, ids = np.ones(trace.topk_ids.shape), np.arange(10)
        with pytest.raises(TraceError, match="is no expert"):
            out.append(trace.topk_ids + 8, trace.request, trace.position, trace.phase, weights, ids)
        out.append(trace.topk_ids, trace.request, trace.position, trace.phase, weights, ids)
    assert load_trace(tmp_path / "t.parquet").num_tokens == 10


def rewrite(path, change):
    table = pq.read_table(path)
    pq.write_table(change(table), path)
    return path


@pytest.fixture
def stored(tmp_path):
    write_trace(make_trace(30), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def replace_column(name, values):
    def change(table):
        return table.set_column(table.schema.get_field_index(name), name, values)

    return change


def test_missing_and_wrong_columns_are_all_named(stored):
    def change(table):
        table = table.drop_columns(["request", "L002"])
        return replace_column("phase", pa.array(["x"] * 30))(table)

    with pytest.raises(TraceError) as caught:
        load_trace(rewrite(stored, change))
    assert {f.where for f in caught.value.faults} == {"request", "L002", "phase"}


def test_lists_of_another_length(stored):
    ragged = pa.array([[1, 2]] * 29 + [[1, 2, 3]], pa.list_(pa.uint8()))
    with pytest.raises(TraceError, match="has 61 values in 30 rows"):
        load_trace(rewrite(stored, replace_column("L001", ragged)))
    balanced = pa.array([[1, 2]] * 28 + [[1, 2, 3], [1]], pa.list_(pa.uint8()))
    with pytest.raises(TraceError, match="L001: has a list of 3"):
        load_trace(rewrite(stored, replace_column("L001", balanced)))
    wide = pa.array([[1, 2, 3]] * 30, pa.list_(pa.uint8(), 3))
    with pytest.raises(TraceError, match="L001: has lists of 3"):
        load_trace(rewrite(stored, replace_column("L001", wide)))


def test_plain_lists_of_the_right_length_are_read(stored):
    ids = load_trace(stored).topk_ids
    plain = pa.array(ids[:, 0].tolist(), pa.list_(pa.uint8()))
    np.testing.assert_array_equal(load_trace(rewrite(stored, replace_column("L001", plain))).topk_ids, ids)


def test_holes_and_nulls_are_refused(stored):
    hole = pa.array([[1, 2]] * 29 + [[255, 1]], pa.list_(pa.uint8(), 2))
    with pytest.raises(TraceError, match=r"L001: has id 255 in rows 0 to 29.*missing expert is left out"):
        load_trace(rewrite(stored, replace_column("L001", hole)))
    null = pa.array([[1, 2]] * 29 + [[None, 1]], pa.list_(pa.uint8(), 2))
    with pytest.raises(TraceError, match="L001: has 1 nulls"):
        load_trace(rewrite(stored, replace_column("L001", null)))
    gone = pa.array([[1, 2]] * 29 + [None], pa.list_(pa.uint8()))
    with pytest.raises(TraceError, match="L001"):
        load_trace(rewrite(stored, replace_column("L001", gone)))
    signed = pa.array([[1, -1]] * 30, pa.list_(pa.int8(), 2))
    with pytest.raises(TraceError, match="has the wrong type"):
        load_trace(rewrite(stored, replace_column("L001", signed)))


def test_foreign_and_empty_parquet(tmp_path, stored):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "f.parquet")
    with pytest.raises(TraceError) as caught:
        load_trace(tmp_path / "f.parquet")
    assert "moesim.moe_layer_ids" in {f.where for f in caught.value.faults}
    with pytest.raises(TraceError, match="holds no tokens"):
        load_trace(rewrite(stored, lambda t: t.slice(0, 0)))


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9, 0.999])
def test_truncated(stored, keep):
    content = stored.read_bytes()
    stored.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(TraceError):
        load_trace(stored)


def test_row_groups_too_large_are_refused_before_reading(stored, monkeypatch):
    monkeypatch.setattr(arrow_module, "_MAX_ROW_GROUP_BYTES", 100)
    with pytest.raises(TraceError, match="row group 0: needs"):
        load_trace(stored)


def test_a_trace_too_large_for_memory_can_be_streamed(stored, monkeypatch):
    monkeypatch.setattr("moesim.trace.limits.size_fault.__defaults__", (100, None))
    with pytest.raises(TraceError, match="the whole trace: needs"):
        load_trace(stored)
    assert summarise(stored).tokens == 30


def test_layers_that_are_not_there(stored):
    with TraceReader(stored) as reader:
        with pytest.raises(ConfigError, match="no such MoE layers"):
            list(reader.batches([0, 1]))
        with pytest.raises(ConfigError):
            list(reader.batches(rows=0))


def test_the_stored_model_is_checked_against_the_hint(stored):
    with pytest.raises(TraceError, match="trace has 8 experts per layer, gpt-oss-20b has 32"):
        load_trace(stored, shape=GPT_OSS)
    renamed = Shape("tiny-chat", 3, (1, 2), 8, 2)
    trace = load_trace(stored, shape=renamed)
    assert trace.model == "tiny-chat"
    assert any("recorded as tiny, read as tiny-chat" in w for w in trace.warnings)


def test_load_counts_out_of_order_are_refused(tmp_path):
    path = tmp_path / "c.parquet"
    write_trace(make_counts(2), path)
    with pytest.raises(TraceError, match="each step with each layer"):
        load_trace(rewrite(path, lambda t: t.take([1, 0, 2, 3])))
    with pytest.raises(TraceError, match="has 3 rows"):
        load_trace(rewrite(path, lambda t: t.slice(0, 3)))


def test_conservation(tmp_path):
    rng = np.random.default_rng(3)
    trace = make_trace(500, GPT_OSS)
    assert (trace.load_counts().totals.sum(axis=1) == 500 * 4).all()
    shuffled = random_ids(rng, 500, 24, 32, 4)
    assert summarise_counts(tmp_path, shuffled).sum() == shuffled.size


def summarise_counts(folder, ids):
    np.savez(folder / "x.npz", topk_ids=ids)
    return summarise(folder / "x.npz").counts


def test_reading_npz_and_json_needs_neither_pyarrow_nor_pandas(tmp_path):
    write_trace(make_trace(), tmp_path / "t.npz")
    write_trace(make_counts(), tmp_path / "c.json")
    code = (
        "import sys; from moesim.trace import load_trace; "
        f"load_trace({str(tmp_path / 't.npz')!r}); load_trace({str(tmp_path / 'c.json')!r}); "
        "heavy = {'pyarrow', 'pandas', 'numba', 'scipy', 'pickle'} & set(sys.modules); "
        "print(sorted(heavy - {'pickle'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
