"""Quantities: text, bare numbers and mappings."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hardware.quantity import Quantity, read_curve, read_quantity

POSITIVE = st.floats(1e-6, 1e6, allow_nan=False)


@given(POSITIVE, st.sampled_from(["k", "M", "G", "T", ""]))
def test_text_mapping_and_si_agree(number, prefix):
    text = f"{number!r} {prefix}B/s"
    plain = read_quantity(text, "bytes_per_s")
    mapped = read_quantity({"value": text, "source": "s", "status": "recalled", "note": "n"}, "bytes_per_s")
    bare = read_quantity(plain.value, "bytes_per_s")
    assert plain.value == mapped.value == bare.value
    assert math.isclose(plain.value, number * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix])
    assert (mapped.source, mapped.status, mapped.note) == ("s", "recalled", "n")
    assert (plain.source, plain.status) == (None, None)


@given(st.one_of(st.text(), st.none(), st.booleans(), st.lists(st.integers()), st.floats(), st.integers()))
def test_anything_is_a_positive_quantity_or_a_value_error(raw):
    for kind in ("bytes", "s", "count", "fraction", "number"):
        with contextlib.suppress(ValueError):
            value = read_quantity(raw, kind).value
            assert math.isfinite(value)
            assert value >= 0


@pytest.mark.parametrize(
    ("raw", "kind", "message"),
    [
        ("4.8 TB", "bytes_per_s", "unknown unit 'TB'"),
        ("-1 GB", "bytes", "not positive"),
        ("0 GB", "bytes", "not positive"),
        (0, "bytes", "not positive"),
        (10**400, "bytes", "not finite"),
        (float("inf"), "bytes", "not finite"),
        (True, "bytes", "no quantity"),
        ([1], "bytes", "no quantity"),
        (2.5, "count", "not a whole number"),
        (0, "count", "not a whole number"),
        ("8", "count", "not a whole number"),
        (True, "count", "not a whole number"),
        (1.2, "fraction", "at most 1"),
        (0.0, "fraction", "above 0"),
        (float("nan"), "number", "positive"),
        ({"value": "1 GB", "sauce": "x"}, "bytes", "unknown key 'sauce'"),
        ({"source": "x"}, "bytes", "no 'value'"),
        ({"value": "1 GB", "status": "rumour"}, "bytes", "unknown status 'rumour'"),
        ({"value": "1 GB", "source": 3}, "bytes", "must be text"),
    ],
)
def test_wrong_quantities_say_what_is_allowed(raw, kind, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_quantity(raw, kind)
    assert "allowed" in str(caught.value) or "not finite" in str(caught.value)


def test_latency_may_be_zero():
    assert read_quantity("0 s", "s").value == 0


def test_curves():
    assert read_curve(0.5, "flops") == ((1.0, 0.5),)
    assert read_curve([["1 MB", 0.1], ["1 GiB", 0.9]], "bytes") == ((1e6, 0.1), (2.0**30, 0.9))
    for wrong in (
        [],
        [[1]],
        [["1 MB", 0.1], ["1 MB", 0.2]],
        [["2 MB", 0.1], ["1 MB", 0.2]],
        [["1 MB", 2]],
        "x",
    ):
        with pytest.raises(ValueError, match="allowed"):
            read_curve(wrong, "bytes")


def test_text_for_people():
    assert Quantity(1.6e12, "bytes_per_s").text == "1.6 TB/s"
    assert Quantity(0.88, "fraction").text == "0.88"
