"""Compiled loops one by one."""

from __future__ import annotations

import ctypes
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.compiled import compiled
from moesim.reference.cpu import kernels, native
from moesim.reference.exact import bf16_bits, bf16_round


@settings(max_examples=100)
@given(
    tokens=st.integers(1, 20),
    experts=st.integers(1, 40),
    k=st.integers(1, 40),
    levels=st.sampled_from([2, 5, 10**6]),
    renormalise=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_top_k(tokens, experts, k, levels, renormalise, seed):
    """Few levels make many ties."""
    k = min(k, experts)
    rng = np.random.default_rng(seed)
    logits = (rng.integers(0, levels, (tokens, experts)) * (10.0 / levels)).astype(np.float32)
    ids, weights = np.full((tokens, k), 77, np.int32), np.full((tokens, k), 7e7, np.float32)
    kernels.top_k(logits, renormalise, ids, weights)
    wanted = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, wanted)
    p = np.exp(logits.astype(np.float64))
    p /= (np.take_along_axis(p, wanted, axis=1) if renormalise else p).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights, np.take_along_axis(p, wanted, axis=1), rtol=1e-5)


@settings(max_examples=100)
@given(tokens=st.integers(1, 50), experts=st.integers(1, 20), seed=st.integers(0, 10**6), data=st.data())
def test_sort_pairs(tokens, experts, seed, data):
    k = data.draw(st.integers(1, experts))
    ids = np.random.default_rng(seed).random((tokens, experts)).argsort(axis=1)[:, :k].astype(np.int32)
    offsets, order = np.full(experts + 1, -1, np.int32), np.full(tokens * k, -1, np.int32)
    place = np.full((tokens, k), -1, np.int32)
    kernels.sort_pairs(ids, offsets, order, place)
    np.testing.assert_array_equal(np.diff(offsets), np.bincount(ids.ravel(), minlength=experts))
    by_expert = np.argsort(ids.ravel(), kind="stable")
    np.testing.assert_array_equal(order, by_expert // k)
    np.testing.assert_array_equal(place.ravel()[by_expert], np.arange(tokens * k))


@compiled
def exponentials(x, out):
    for i in range(len(x)):
        out[i] = kernels.exponential(x[i])


def test_exponential():
    x = np.linspace(-100, 100, 400_001).astype(np.float32)
    out = np.empty_like(x)
    exponentials(x, out)
    np.testing.assert_allclose(out, np.exp(np.clip(x.astype(np.float64), -87, 88)), rtol=2e-7)


def test_swiglu_of_extreme_gates():
    gates = np.array([[0.0, 1.0, -1.0, 30.0, -30.0, 200.0, -200.0]], np.float32)
    out = np.empty_like(gates)
    kernels.swiglu(np.concatenate([gates, np.full_like(gates, 2.0)], axis=1), out)
    wide = gates.astype(np.float64)
    np.testing.assert_allclose(out, 2 * wide / (1 + np.exp(-wide)), rtol=1e-6, atol=1e-35)


def test_rounding_is_that_of_exact():
    values = np.random.default_rng(0).standard_normal((50, 70)).astype(np.float32)
    wanted = bf16_round(values)
    kernels.round_bf16(values)
    np.testing.assert_array_equal(values, wanted)


@compiled
def clocked(pair):
    return native.thread_time_ns(pair)


@compiled
def filled(handle, begin, to):
    return native.read(handle, begin, to)


@compiled
def moved(source, to):
    native.copy(source, to)


def test_clock_is_that_of_python():
    pair = np.empty(2, np.int64)
    clocked(pair)
    before = time.thread_time_ns()
    inside = clocked(pair)
    assert before <= inside <= time.thread_time_ns()


def test_read_and_copy(tmp_path):
    words = np.arange(1000, dtype=np.uint16)
    path = tmp_path / "words"
    path.write_bytes(words.tobytes())
    to = np.zeros(100, np.uint16)
    with path.open("rb") as file:
        assert filled(file.fileno(), 400, to)
        np.testing.assert_array_equal(to, words[200:300])
        assert not filled(file.fileno(), 1900, to)  # beyond the end
    assert not filled(file.fileno() if not file.closed else -1, 0, to)
    moved(words[:100], to)
    np.testing.assert_array_equal(to, words[:100])


def test_stand_ins_where_the_system_has_none(tmp_path):
    path = tmp_path / "words"
    path.write_bytes(bytes(range(200)))
    room, pair = ctypes.create_string_buffer(50), (ctypes.c_int64 * 2)()
    with path.open("rb") as file:
        assert native.python_read(file.fileno(), ctypes.addressof(room), 50, 20) == 50
    assert room.raw == bytes(range(20, 70))
    assert native.python_read(-1, ctypes.addressof(room), 50, 0) == -1
    before = time.thread_time_ns()
    native.python_clock(0, pair)
    assert before <= pair[0] * 10**9 + pair[1] <= time.thread_time_ns()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("rows", [1, 8, 9, 12, 13, 40])
def test_product_of_few_and_many_rows(rows, bf16):
    rng = np.random.default_rng(rows)
    padded = kernels.padded(rows)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((padded, 300), (1000, 300)))
    w = bf16_round(w) if bf16 else w
    out, wide = np.full((padded, 1000), np.nan, np.float32), np.zeros(w.size if bf16 else 0, np.float32)
    multiplied(x, rows, w.ravel(), bf16_bits(w.ravel()), bf16, wide, out)
    wanted = x.astype(np.float64) @ w.T.astype(np.float64)
    np.testing.assert_allclose(out[:rows], wanted[:rows], rtol=1e-4, atol=1e-4)


@compiled
def multiplied(x, n, floats, bits, bf16, wide, out):
    kernels.product(x, n, floats, bits, bf16, wide, out)
