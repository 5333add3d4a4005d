"""Numpy files: what is read, what is refused."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from trace_helpers import DEEPSEEK_LITE, GPT_OSS, TINY, make_counts, make_trace, same

from moesim.errors import TraceError
from moesim.trace import LoadCounts, load_trace, write_trace
from moesim.trace import limits as limits_module
from moesim.trace.arrays import read_npy

DTYPES = st.sampled_from(["u1", "i4", ">i2", "f4", "f2", "?"])


@settings(max_examples=40, deadline=None)
@given(
    DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, max_side=5))),
    st.booleans(),
)
def test_npy_agrees_with_numpy(array, fortran):
    array = np.asfortranarray(array) if fortran and array.ndim else array
    stream = io.BytesIO()
    np.save(stream, array)
    size = stream.tell()
    stream.seek(0)
    got = read_npy(stream, size, "x")
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    np.testing.assert_array_equal(got, array)


def test_npz_with_all_it_may_hold(tmp_path):
    trace = make_trace(weights=True, token_id=True)
    write_trace(trace, tmp_path / "t.npz")
    assert same(trace, load_trace(tmp_path / "t.npz"))


def test_load_counts_as_npz(tmp_path):
    counts = make_counts(steps=3)
    write_trace(counts, tmp_path / "c.npz")
    assert same(counts, load_trace(tmp_path / "c.npz"))


def test_bare_arrays(tmp_path):
    ids = make_trace(20, TINY).topk_ids
    np.savez(tmp_path / "prefill_then_decode.npz", topk_ids=ids.astype(np.int64))
    trace = load_trace(tmp_path / "prefill_then_decode.npz", shape=TINY)
    np.testing.assert_array_equal(trace.topk_ids, ids)
    assert trace.topk_ids.dtype == np.uint8
    assert trace.request.tolist() == [0] * 20
    assert trace.position.tolist() == list(range(20))
    assert trace.phase.tolist() == [0] * 20
    assert any("one request" in w for w in trace.warnings)


@pytest.mark.parametrize(("name", "phase"), [("decode.npz", 1), ("x_prefill.npz", 0), ("other.npz", 0)])
def test_phase_from_the_name_is_a_warning(tmp_path, name, phase):
    np.savez(tmp_path / name, topk_ids=make_trace().topk_ids)
    trace = load_trace(tmp_path / name, shape=TINY)
    assert set(trace.phase.tolist()) == {phase}
    assert any("prefill from decode" in w for w in trace.warnings)


def test_npy_of_ids_drops_layers_that_are_zero_throughout(tmp_path):
    ids = make_trace(30, TINY).topk_ids.astype(np.int32)
    every = np.concatenate([np.zeros_like(ids[:, :1]), ids], axis=1)
    np.save(tmp_path / "ids.npy", every)
    for hints in ({}, {"shape": TINY}, {"candidates": [TINY]}):
        trace = load_trace(tmp_path / "ids.npy", **hints)
        assert trace.moe_layer_ids == (1, 2)
        np.testing.assert_array_equal(trace.topk_ids, ids)


def test_npy_of_counts(tmp_path):
    np.save(tmp_path / "c.npy", np.arange(1, 17).reshape(2, 8))
    loads = load_trace(tmp_path / "c.npy", shape=TINY)
    assert isinstance(loads, LoadCounts)
    assert loads.counts.shape == (1, 2, 8)
    np.save(tmp_path / "s.npy", np.ones((3, 2, 8)))
    assert load_trace(tmp_path / "s.npy", shape=TINY).counts.shape == (3, 2, 8)


def test_holes(tmp_path):
    ids = make_trace(30, TINY).topk_ids.astype(np.int32)
    padded = np.concatenate([ids, np.full_like(ids[:, :, :1], -1)], axis=2)
    dense = np.full_like(padded[:, :1], -1)
    every = np.concatenate([dense, padded], axis=1)
    every[4, 2, 1] = -1
    for array in (every, every.astype(np.uint8), np.where(every < 0, 255, every)):
        np.save(tmp_path / "holes.npy", array)
        trace = load_trace(tmp_path / "holes.npy", shape=TINY)
        np.testing.assert_array_equal(trace.topk_ids, np.delete(ids, 4, axis=0))
        assert trace.position.tolist() == [i for i in range(30) if i != 4]
        assert any("dropped 1 of 30 tokens" in w for w in trace.warnings)


def test_255_is_an_expert_where_there_are_256(tmp_path):
    big = make_trace(300, GPT_OSS)
    ids = big.topk_ids.copy()
    ids[0, 0, 0] = 255
    np.save(tmp_path / "ids.npy", ids)
    assert load_trace(tmp_path / "ids.npy", num_experts=256).num_tokens == 300
    assert load_trace(tmp_path / "ids.npy", num_experts=32).num_tokens == 299


def test_every_wrong_array_is_named(tmp_path):
    good = make_trace(20)
    np.savez(
        tmp_path / "w.npz",
        topk_ids=good.topk_ids,
        request=np.zeros(19, np.int32),
        phase=np.full(20, 7),
        token_id=np.zeros(20),
        topk_weights=np.zeros((20, 2, 3), np.float16),
    )
    with pytest.raises(TraceError) as caught:
        load_trace(tmp_path / "w.npz", shape=TINY)
    assert {f.where for f in caught.value.faults} == {"request", "phase", "token_id", "topk_weights"}


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((4, 2, 2), np.float32), "float32"),
        (np.zeros((0, 2, 2), np.uint8), "empty"),
        (np.zeros((4, 2), np.uint8), "whole numbers"),
        (np.full((4, 2, 2), 70000), "too large"),
    ],
)
def test_arrays_that_are_no_ids(tmp_path, array, match):
    np.savez(tmp_path / "w.npz", topk_ids=array)
    with pytest.raises(TraceError, match=match):
        load_trace(tmp_path / "w.npz")


def test_objects_are_refused(tmp_path):
    np.savez(tmp_path / "o.npz", topk_ids=np.array([[1], [2, 3]], dtype=object))
    with pytest.raises(TraceError, match="Python objects"):
        load_trace(tmp_path / "o.npz")
    np.save(tmp_path / "o.npy", np.array({"a": 1}, dtype=object))
    with pytest.raises(TraceError, match="Python objects"):
        load_trace(tmp_path / "o.npy")


def npy_header(shape, descr="|u1"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_sizes_are_checked_before_anything_is_allocated(tmp_path):
    (tmp_path / "huge.npy").write_bytes(npy_header((2**40, 8, 8)) + b"\0" * 64)
    with pytest.raises(TraceError, match=r"at most 8\.59 GB"):
        load_trace(tmp_path / "huge.npy")
    (tmp_path / "short.npy").write_bytes(npy_header((2**20, 8, 8)) + b"\0" * 64)
    with pytest.raises(TraceError, match="is truncated: shape"):
        load_trace(tmp_path / "short.npy")


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("topk_ids.npy", npy_header((2**20, 2, 2)) + b"\0" * 2**22)
    assert (tmp_path / "bomb.npz").stat().st_size < 2**22 / limits_module.MAX_RATIO
    monkeypatch.setattr(limits_module, "FREE_BYTES", 2**20)
    with pytest.raises(TraceError, match="as no real trace does"):
        load_trace(tmp_path / "bomb.npz")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95, 0.99])
def test_truncated_archives(tmp_path, keep):
    write_trace(make_trace(200), tmp_path / "t.npz")
    content = (tmp_path / "t.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(TraceError):
        load_trace(tmp_path / "cut.npz")


def test_damaged_bytes_inside_an_archive(tmp_path):
    write_trace(make_trace(2000), tmp_path / "t.npz")
    content = bytearray((tmp_path / "t.npz").read_bytes())
    middle = content.index(b"topk_ids.npy") + 200
    content[middle : middle + 40] = b"\xff" * 40
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(TraceError, match=r"topk_ids\.npy: is damaged"):
        load_trace(tmp_path / "bad.npz")


def test_a_header_that_contradicts_the_arrays(tmp_path):
    write_trace(make_trace(shape=TINY), tmp_path / "t.npz")
    arrays = dict(np.load(tmp_path / "t.npz"))
    np.savez(tmp_path / "w.npz", **arrays | {"topk_ids": arrays["topk_ids"][:, :1]})
    with pytest.raises(TraceError, match=r"is \[50, 1, 2\], the header says \[\.\.\., 2, 2\]"):
        load_trace(tmp_path / "w.npz")
    np.savez(tmp_path / "v.npz", **arrays | {"topk_ids": arrays["topk_ids"] + np.uint8(8)})
    with pytest.raises(TraceError, match="ids up to 15"):
        load_trace(tmp_path / "v.npz")
    np.savez(tmp_path / "u.npz", **arrays | {"moesim": np.array('{"kind": "x", "num_experts": -1}')})
    with pytest.raises(TraceError) as caught:
        load_trace(tmp_path / "u.npz")
    wrong = {f.where for f in caught.value.faults}
    assert wrong == {"moesim.kind", "moesim.num_experts", "moesim.moe_layer_ids", "moesim.schema_version"}


def test_real_token_traces(shared):
    gpt = load_trace(shared("traces/gpt-oss-20b/decode.npz"), shape=GPT_OSS)
    assert gpt.topk_ids.shape == (138673, 24, 4)
    assert gpt.load_counts().totals.sum(axis=1).tolist() == [138673 * 4] * 24
    lite = load_trace(shared("traces/esft-deepseek-v2-lite/intent.npz"), shape=DEEPSEEK_LITE)
    assert (lite.num_tokens, lite.moe_layer_ids[0], lite.topk_weights.shape) == (8222, 1, (8222, 26, 6))
    skew = (lite.load_counts().totals.max(axis=1) / lite.load_counts().totals.mean(axis=1)).mean()
    assert skew == pytest.approx(3.81, abs=0.005)
