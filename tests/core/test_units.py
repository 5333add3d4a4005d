"""Quantities: what is read, what is refused, and that printing and reading agree."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.units import parse, show


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("4.8 TB/s", "bytes_per_s", 4.8e12),
        ("141 GB", "bytes", 141e9),
        ("80 GiB", "bytes", 80 * 2**30),
        ("989 TFLOP/s", "flops_per_s", 989e12),
        ("1979 TOP/s", "flops_per_s", 1979e12),
        ("1.2 us", "s", 1.2e-6),
        ("400 Gbps", "bytes_per_s", 50e9),
        ("3.9 pJ/bit", "j_per_byte", 31.2e-12),
        ("700W", "w", 700.0),
        ("1e9", "bytes", 1e9),
        (12, "bytes", 12.0),
    ],
)
def test_parse(text, kind, value):
    assert parse(text, kind) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("4.8 TB", "bytes_per_s"),
        ("fast", "bytes"),
        ("", "s"),
        ("1 GiBB", "bytes"),
        ("nan", "s"),
        (True, "s"),
        (None, "w"),
        (10**400, "s"),
    ],
)
def test_refused_with_an_example(text, kind):
    with pytest.raises(ValueError, match=r"allowed|finite"):
        parse(text, kind)


def test_decimal_and_binary_prefixes_differ():
    assert parse("80 GiB", "bytes") / parse("80 GB", "bytes") == pytest.approx(2**30 / 1e9)


@given(st.floats(min_value=1e-9, max_value=1e18))
def test_printed_quantities_read_back(value):
    assert parse(show(value, "bytes", digits=17), "bytes") == pytest.approx(value, rel=1e-12)
    assert math.isfinite(parse(show(value, "flops_per_s", digits=17), "flops_per_s"))
