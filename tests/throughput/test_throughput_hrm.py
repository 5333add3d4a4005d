"""The hierarchical roofline: closed forms and turning points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hardware import load_hardware
from moesim.throughput.hrm import Roofline
from moesim.throughput.machine import Machine

RATE = st.floats(1.0, 1e6)
#: L4 and its host as the case study of the paper prints them (section 3.3): FLOP/s and bytes/s.
L4 = Roofline(242e12, 300e9, 1.6e12, 100e9, 16e9)


def made(near_flops: float, near_bytes: float, far_flops: float, far_bytes: float, link: float) -> Roofline:
    return Roofline(near_flops, near_bytes, far_flops, far_bytes, link)


@given(RATE, RATE, RATE, RATE, RATE, st.floats(0.01, 1e4), st.floats(0.01, 1e4))
def test_the_near_level_never_beats_any_of_its_three_roofs(a, b, c, d, link, near, far):
    reached = float(made(a, b, c, d, link).near(near, far))
    assert reached <= a
    assert reached <= b * near * (1 + 1e-12)
    assert reached <= link * far * (1 + 1e-12)
    assert reached in (a, pytest.approx(b * near), pytest.approx(link * far))


@given(RATE, RATE, RATE, RATE, RATE, st.floats(0.01, 1e4))
def test_below_the_first_turn_the_far_level_is_better_and_above_it_is_not(a, b, c, d, link, far):
    """Equation 9: where what the link can feed equals what the far level does itself."""
    roofline = made(a, b, c, d, link)
    turn = roofline.first_turn(far)
    # With as much reuse as one likes on the near level, only the link counts.
    across = link * far
    if far < turn * (1 - 1e-9):
        assert across < float(roofline.far(far))
    if far > turn * (1 + 1e-9):
        assert across > float(roofline.far(far))


@given(RATE, RATE, RATE, RATE, RATE, st.floats(0.01, 1e4))
def test_beyond_the_second_turn_the_link_does_not_bind(a, b, c, d, link, near):
    roofline = made(a, b, c, d, link)
    turn = roofline.second_turn(near)
    assert float(roofline.near(near, turn * 1.001)) == pytest.approx(min(a, b * near))
    assert float(roofline.near(near, turn * 0.5)) == pytest.approx(0.5 * min(a, b * near))


@given(RATE, RATE, RATE, RATE, RATE, st.floats(0.01, 1e4))
def test_at_the_balance_point_link_and_near_memory_bind_alike(a, b, c, d, link, near):
    roofline = made(a, b, c, d, link)
    assert link * roofline.balance(near) == pytest.approx(b * near)


def test_twice_the_link_halves_its_turning_points():
    fast = Roofline(
        *(getattr(L4, name) for name in ("near_flops", "near_bytes", "far_flops", "far_bytes")), 32e9
    )
    assert fast.second_turn(100.0) == pytest.approx(L4.second_turn(100.0) / 2)
    assert fast.first_turn_at_peak() == pytest.approx(L4.first_turn_at_peak() / 2)
    assert fast.balance(5.0) == pytest.approx(L4.balance(5.0) / 2)


def test_attention_belongs_on_the_cpu_of_the_papers_l4():
    """Its case study: decode attention has about 4 FLOP per byte of cache, far below P1."""
    turn = L4.first_turn_at_peak()
    assert turn == pytest.approx(100.0)
    intensity = 4.0
    assert float(L4.near(intensity, intensity)) < float(L4.far(intensity))
    # Experts of a large batch are used by many tokens per byte that crosses: there the GPU wins.
    assert float(L4.near(1e3, 1e3)) > float(L4.far(1e3))


def test_arrays_go_through():
    assert L4.near(np.ones(3), np.ones(3)).shape == (3,)
    assert L4.far([1.0, 2.0]).shape == (2,)


def test_a_box_has_a_roofline():
    roofline = Roofline.of(Machine.of(load_hardware("t4")))
    assert roofline.link_bytes < roofline.far_bytes < roofline.near_bytes
