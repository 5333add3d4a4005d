"""The kernels of the experts' products, run by the emulator, against float64."""

import functools

import numpy as np
import pytest
from grouped_products import Problem, emulation, error
from grouped_products import run as run_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from moesim.reference.cuda.variants import VARIANTS, bounds, by_name, choose

pytestmark = pytest.mark.emulation

#: One of each shape of code: both orientations, tokens or weight rows split between warpgroups, warps on one
#: or both sides. `benchmarks/reference/compile_all.py` runs all of them.
TESTED = ("sm90_swap_8", "sm90_swap_32", "sm90_64x128", "sm90_128x256", "mma_16x128", "mma_64x128")
ROUTINGS = {
    "ragged": (37, 1, 70, 5),
    "empty experts": (0, 0, 9, 0, 130),
    "one-hot": (0, 0, 150, 0),
    "skewed": (64, 32, 16, 8, 4, 2, 1, 1),
    "no tokens": (0, 0, 0),
}


@functools.cache
def built():
    return emulation({name: by_name(name) for name in TESTED})


def run(name, problem, **options):
    return run_kernel(built(), name, by_name(name), problem, **options)


@pytest.mark.parametrize("name", TESTED)
@pytest.mark.parametrize("routing", list(ROUTINGS))
@pytest.mark.parametrize("gated", [True, False], ids=["up", "down"])
def test_products_match_float64(name, routing, gated):
    problem = Problem(
        ROUTINGS[routing], n=272, k=200, gated=gated
    )  # neither is a whole number of tiles or steps
    got = run(name, problem)
    if problem.pairs == 0:
        assert np.isnan(got).all()  # poison: nothing was written
    else:
        # Both sides are rounded to bf16, so that only sums that lie at the edge of a rounding differ.
        assert error(got, problem.reference()) < 1e-3


@pytest.mark.parametrize("name", ["sm90_swap_8", "sm90_64x128", "mma_64x128"])
@pytest.mark.parametrize("order", [1, 5])
@pytest.mark.parametrize("grid", [1, 40])
def test_any_order_of_threads_and_any_grid_give_the_same_bits(name, order, grid):
    problem = Problem((70, 0, 3), n=144, k=136, gated=True)
    first = run(name, problem)
    again = run(name, problem, grid=grid, order=order)
    np.testing.assert_array_equal(first, again)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(TESTED),
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=20).map(tuple),
    eighths=st.integers(1, 40),
    steps=st.integers(1, 25),
    gated=st.booleans(),
    grid=st.integers(1, 5),
)
def test_any_sizes_in_eights(name, counts, eighths, steps, gated, grid):
    problem = Problem(counts, n=8 * eighths * (1 + gated), k=8 * steps, gated=gated)
    if problem.pairs:
        assert error(run(name, problem, grid=grid), problem.reference()) < 1e-3


def test_more_tiles_than_are_walked_together():
    name = "sm90_swap_8"
    problem = Problem(tuple([1, 17, 0, 8] * 9), n=272, k=64, gated=False)
    count = problem.tiles(by_name(name).rows)[1]
    assert count[0] > 2 * 16  # GROUP
    assert error(run(name, problem, grid=7), problem.reference()) < 1e-3


def test_tiles_may_end_at_their_own_end_or_at_their_group_s(monkeypatch):
    name, problem = "sm90_64x128", Problem((100, 3), n=128, k=64, gated=False)
    whole = Problem.tiles

    def cut(self, rows):
        tiles, count = whole(self, rows)
        tiles[:, 2] = np.minimum(tiles[:, 2], tiles[:, 1] + rows)
        return tiles, count

    before = run(name, problem)
    monkeypatch.setattr(Problem, "tiles", cut)
    np.testing.assert_array_equal(run(name, problem), before)


def test_the_rule_covers_every_count_and_leaves_room():
    for capability in ((9, 0), (8, 0), (12, 0)):
        rule = bounds(capability)
        assert [most for _, most in rule] == sorted(most for _, most in rule)
        assert rule[-1][1] == np.inf
        assert all(variant.tensor_maps <= (capability == (9, 0)) for variant, _ in rule)
    for variant, most in bounds((9, 0))[:4]:
        assert choose(most, (9, 0)) is variant
        assert stats.poisson.sf(variant.rows, most) < 0.01


def test_bounds_on_tiles_hold_and_are_reached():
    variant = by_name("mma_16x128")
    random = np.random.default_rng(0)
    for _ in range(50):
        counts = random.multinomial(random.integers(0, 300), np.ones(7) / 7)
        assert np.sum(-(-counts // 16)) <= variant.max_tiles(int(counts.sum()), 7)
    assert variant.max_tiles(7 + 32, 7) == np.sum(-(-np.array([33, 1, 1, 1, 1, 1, 1]) // 16))
    assert variant.items(4, 129) == 8


def test_names_are_different():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
