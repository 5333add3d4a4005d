"""The layout of weights, against a loop over features, and back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moesim.reference.cuda.layout import deinterleave, interleave


@given(
    experts=st.lists(st.integers(1, 3), max_size=2),
    groups=st.integers(1, 5),
    hidden=st.integers(1, 9),
)
def test_interleaving_is_undone_either_way(experts, groups, hidden):
    shape = (*experts, 16 * groups, hidden)
    weights = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    assert (deinterleave(interleave(weights)) == weights).all()
    assert (interleave(deinterleave(weights)) == weights).all()


def test_rows_are_where_the_kernels_look():
    width, hidden = 24, 4
    gate_up = np.random.default_rng(0).standard_normal((2, 2 * width, hidden))
    w13 = interleave(gate_up)
    for feature in range(width):
        gate_row = feature // 8 * 16 + feature % 8
        assert (w13[:, gate_row] == gate_up[:, feature]).all()
        assert (w13[:, gate_row + 8] == gate_up[:, width + feature]).all()
