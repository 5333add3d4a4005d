"""Figures that are arithmetic: they hold to the digit, or a model file is wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.systems.rows.deployment import buffered_bytes, waste
from moesim.systems.ternary import PAIRS, bits_per_weight, dictionary, entropy_bits


def test_expert_buffering_is_a_memory_identity():
    assert 18.68e9 / (18.68e9 - buffered_bytes(1)) == pytest.approx(1.478, abs=5e-4)
    assert buffered_bytes(10) / 2**30 == pytest.approx(2.25, abs=1e-9)
    assert buffered_bytes(16) == 0


def test_static_gating_wastes_what_the_paper_says():
    assert waste(512, 0.05) == pytest.approx(12.8)
    assert waste(128, 1.0) == 64.0


def test_the_entropy_limit_of_ternary_weights():
    assert 16 / entropy_bits(0.885) == pytest.approx(25.40, abs=0.005)
    assert entropy_bits(1 / 3) == pytest.approx(np.log2(3))


@given(st.floats(0.4, 0.97), st.sampled_from([9, 64, 1000]))
def test_no_code_beats_the_entropy_and_more_entries_never_hurt(zeros, entries):
    # 16 bits are paid for a dictionary that would need fewer.
    bits = bits_per_weight(zeros, entries) * np.log2(entries) / 16
    assert bits >= entropy_bits(zeros) * (1 - 1e-9)
    assert bits_per_weight(zeros, 4 * entries) <= bits_per_weight(zeros, entries) + 1e-9


@pytest.mark.parametrize(("zeros", "entries"), [(0.885, 4096), (0.6, 300)])
def test_the_rate_is_that_of_weights_that_are_drawn_and_written(zeros, entries):
    tree = dictionary(zeros, entries)
    children = {(int(parent), int(pair)): node for node, (parent, pair, _) in enumerate(tree)}
    rng = np.random.default_rng(0)
    one = np.array([zeros, (1 - zeros) / 2, (1 - zeros) / 2])
    drawn = rng.choice(PAIRS, 200_000, p=np.outer(one, one).ravel())
    node, runs = -1, 1
    for pair in drawn:
        following = children.get((node, int(pair)))
        if following is None:
            runs += 1
            following = children[-1, int(pair)]
        node = following
    assert bits_per_weight(zeros, entries) == pytest.approx(16 * runs / (2 * len(drawn)), rel=0.01)
