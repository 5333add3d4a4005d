"""The oracle itself: rounding bit by bit, inputs, the layer token by token."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.reference import exact
from moesim.reference.layer import Case, LayerShape

SMALL = LayerShape("small", 6, 2, 16, 8)


def nearest(bits: int) -> int:
    """Bits of the bf16 nearest to a finite float32 by its bits, ties to the even one; by exact fractions."""

    def value(word: int) -> Fraction:
        exponent, mantissa = word >> 23 & 0xFF, word & 0x7FFFFF
        whole = mantissa + (1 << 23 if exponent else 0)
        return Fraction(whole) * Fraction(2) ** (max(exponent, 1) - 150)

    sign, size = bits & 0x80000000, bits & 0x7FFFFFFF
    low = size >> 16
    below, above = (value(low << 16), value((low + 1) << 16))  # infinity counts as the next power of two
    middle = (below + above) / 2
    up = value(size) > middle or (value(size) == middle and low % 2 == 1)
    return (sign >> 16) | (low + up)


@given(st.integers(0, 2**32 - 1))
def test_rounding_bit_by_bit(bits):
    (value,) = struct.unpack("<f", struct.pack("<I", bits))
    got = int(exact.bf16_bits(np.array([bits], np.uint32).view(np.float32))[0])
    if value != value:
        assert got & 0x7F80 == 0x7F80
        assert got & 0x7F  # still not a number
    elif abs(value) == float("inf"):
        assert got == bits >> 16
    else:
        assert got == nearest(bits)


@given(st.integers(0, 2**16 - 1))
def test_values_of_bits_are_fixed_points(bits):
    word = np.array([bits], np.uint16)
    value = exact.bf16_values(word)
    if not np.isnan(value[0]):
        assert exact.bf16_bits(value)[0] == bits
        np.testing.assert_array_equal(exact.bf16_round(value), value)


@given(st.integers(0x0080, 0x7F00), st.sampled_from([0x7FFF, 0x8000, 0x8001]))
def test_rounding_around_the_middle(high, low):
    got = exact.bf16_bits(np.array([high << 16 | low], np.uint32).view(np.float32))[0]
    assert got == high + (low > 0x8000 or (low == 0x8000 and high % 2 == 1))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_inputs(dtype):
    case = Case(LayerShape("some", 8, 2, 128, 96), 300, dtype=dtype)
    one, other = exact.inputs(case), exact.inputs(replace(case, tokens=7, routing="one-hot", offloaded=0.5))
    kind = np.uint16 if dtype == "bf16" else np.float32
    shapes = {"x": (300, 128), "router": (8, 128), "gate_up": (8, 192, 128), "down": (8, 128, 96)}
    for name, shape in shapes.items():
        array = getattr(one, name)
        assert (array.shape, array.dtype) == (shape, kind)
        scale = {"x": 1.0, "down": 96**-0.5}.get(name, 128**-0.5)
        assert exact.values(array).std() == pytest.approx(scale, rel=0.05)
        # Weights do not depend on tokens or routing.
        assert name == "x" or getattr(other, name).tobytes() == array.tobytes()
    assert exact.inputs(replace(case, seed=1)).down.tobytes() != one.down.tobytes()
    light = exact.inputs(case, weights=False)
    assert light.gate_up.shape == (0, 192, 128)
    assert light.x.tobytes() == one.x.tobytes()
    out = exact.reference(one, *exact.router(one, 2, True))
    assert 0.1 < out.std() < 3.0


def test_bf16_inputs_are_the_fp32_ones_rounded():
    case = Case(SMALL, 5)
    one, two = exact.inputs(case), exact.inputs(replace(case, dtype="bf16"))
    for name in ("x", "router", "gate_up", "down"):
        np.testing.assert_array_equal(exact.bf16_bits(getattr(one, name)), getattr(two, name))


def test_inputs_take_no_second_copy():
    case = Case(LayerShape("wide", 16, 1, 512, 512), 1, dtype="bf16")
    tracemalloc.start()
    made = exact.inputs(case)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < made.gate_up.nbytes + made.down.nbytes + 16 * exact.DRAWN + 16 * exact.PIECE


@pytest.mark.parametrize("renormalise", [True, False])
def test_reference_token_by_token(renormalise):
    case = Case(replace(SMALL, renormalise=renormalise), 9)
    inputs = exact.inputs(case)
    ids, weights = exact.router(inputs, 2, renormalise)
    out = exact.reference(inputs, ids, weights)
    for t, x in enumerate(inputs.x.astype(float)):
        logits = [float(x @ row) for row in inputs.router.astype(float)]
        order = sorted(range(6), key=lambda e: (-logits[e], e))[:2]
        assert ids[t].tolist() == order
        total = sum(np.exp(logits[e]) for e in (order if renormalise else range(6)))
        wanted = np.zeros(16)
        for e in order:
            gate, up = np.split(inputs.gate_up[e].astype(float) @ x, 2)
            share = np.exp(logits[e]) / total
            wanted += share * (inputs.down[e].astype(float) @ (gate / (1 + np.exp(-gate)) * up))
        np.testing.assert_allclose(out[t], wanted, rtol=1e-6, atol=1e-8)


def test_reference_of_huge_gates_is_finite():
    inputs = exact.inputs(Case(SMALL, 4))
    big = replace(inputs, gate_up=inputs.gate_up * np.float32(1e4))
    ids, weights = exact.router(big, 2, True)
    assert np.isfinite(exact.reference(big, ids, weights)).all()


def test_expert_named_twice_counts_twice():
    inputs = exact.inputs(Case(SMALL, 3))
    ids = np.full((3, 2), 4, np.int32)
    half = exact.reference(inputs, ids, np.full((3, 2), 0.5, np.float32))
    np.testing.assert_allclose(half, exact.reference(inputs, ids[:, :1], np.ones((3, 1), np.float32)))
