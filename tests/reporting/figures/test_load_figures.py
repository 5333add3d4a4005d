"""Loads are drawn relative to their means, sorted, and conserved."""

from __future__ import annotations

import numpy as np
import pytest
from drawing import drawn
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.reporting.figures import DARK, PRINT, expert_load_map, imbalance_by_layer, rank_loads


def _octaves(figure):
    return drawn(figure).axes[0].images[0].get_array()


LOADS = np.array([[1.0, 1.0, 2.0, 4.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 8.0]])


def test_heat_map_is_the_share_of_the_mean():
    figure = expert_load_map(LOADS, [3, 4, 5], ranks=2)
    found = _octaves(figure)
    assert np.allclose(found, [[-1, -1, 0, 1], [0, 0, 0, 0], [-3, -3, -3, 2]])
    assert "The busiest expert, 3 of decoder layer 5, takes 4.0 times its layer's mean." in figure.caption
    assert figure.n == "36 selections, 3 MoE layers x 4 experts"
    assert figure.data["share"] == [0.5, 0.5, 1, 2, 1, 1, 1, 1, 0, 0, 0, 4]
    assert list(zip(figure.data["layer_id"], figure.data["expert"], strict=True))[4:6] == [(4, 0), (4, 1)]
    assert np.allclose(_octaves(expert_load_map(1000 * LOADS, [3, 4, 5])), found)


def test_heat_map_axes_and_ranks():
    axes, bar = drawn(expert_load_map(np.ones((24, 32)), range(3, 27), ranks=8)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "3",
        "6",
        "9",
        "12",
        "16",
        "19",
        "22",
        "26",
    ]
    assert np.allclose(axes.get_xticks(minor=True), np.arange(0, 32, 4) - 0.5)
    assert [label.get_text() for label in bar.get_yticklabels()][3] == "1"
    # Ranks that do not divide are not drawn.
    assert not len(drawn(expert_load_map(np.ones((2, 32)), [0, 1], ranks=5)).axes[0].get_xticks(minor=True))


def test_idle_layers_are_grey():
    figure = expert_load_map([[0.0, 0.0], [1.0, 3.0]], [0, 1], ranks=2)
    found = np.ma.masked_invalid(_octaves(figure))
    assert np.ma.getmaskarray(found).tolist() == [[True, True], [False, False]]
    assert np.allclose(found[1], np.log2([0.5, 1.5]))
    assert "Grey: 1 layer without any load." in figure.caption
    assert figure.data["share"][:2] == [None, None]
    assert "Grey: 1 layer" in expert_load_map([[0.0, 0.0]], [0]).caption


@pytest.mark.parametrize("theme", [PRINT, DARK], ids=lambda theme: theme.name)
def test_colours_of_the_map(theme):
    cmap = theme.diverging
    # Even load is the background, and either way it only gets stronger.
    assert cmap(0.5)[3] < 0.02
    strength = [cmap(x)[3] for x in np.linspace(0, 1, 21)]
    assert np.all(np.diff(strength[:11]) < 0)
    assert np.all(np.diff(strength[10:]) > 0)
    less, more, missing = cmap(0.0), cmap(1.0), cmap(np.ma.masked)
    assert less[2] > 2 * less[0]
    assert more[0] > 2 * more[2]
    assert max(missing[:3]) - min(missing[:3]) < 0.1


def test_a_map_of_any_size_stays_small():
    rng = np.random.default_rng(0)
    loads = rng.gamma(0.5, 10, (600, 5000))
    figure = expert_load_map(loads, range(600))
    share = loads / loads.mean(axis=1, keepdims=True)
    assert "Cells are the busiest of 3 layers x 5 experts." in figure.caption
    cells = np.array(figure.data["share"]).reshape(200, 1000)
    assert np.allclose(cells, share.reshape(200, 3, 1000, 5).max(axis=(1, 3)))
    assert cells.max() == share.max()
    assert len(figure.svg()) < 500_000


def test_maps_of_nothing_are_refused():
    for loads, layers in (([], []), ([[]], [0]), ([1.0, 2.0], [0]), ([[1.0]], [0, 1])):
        with pytest.raises(ConfigError):
            expert_load_map(loads, layers)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_what_is_no_load_is_named(bad):
    with pytest.raises(ConfigError, match="loads: holds what is no load"):
        expert_load_map([[1.0, bad]], [0])
    with pytest.raises(ConfigError) as caught:
        rank_loads([1.0, bad], [bad, 1.0], 0)
    assert [fault.where for fault in caught.value.faults] == ["before", "after"]


@pytest.mark.parametrize("ranks", [4, 64, 65, 500])
def test_rank_loads_are_sorted_and_conserved(ranks):
    rng = np.random.default_rng(ranks)
    before, after = rng.gamma(2, 10, ranks), rng.gamma(90, 0.2, ranks)
    figure = rank_loads(before, after, 9)
    (axes,) = drawn(figure).axes
    if ranks <= 64:
        heights = np.array([bar.get_height() for bar in axes.patches]).reshape(2, ranks)
    else:
        heights = np.array([outline.get_data().values for outline in axes.patches])
    assert np.allclose(heights[0], np.sort(before)[::-1] / before.mean())
    assert np.allclose(heights[1], np.sort(after)[::-1] / before.mean())
    assert heights[0].sum() == pytest.approx(ranks)
    assert figure.data["contiguous"] == np.sort(before)[::-1].tolist()
    assert f"{before.max() / before.mean():.2f} times the mean with contiguous" in figure.caption
    assert figure.title == "Ranks of decoder layer 9"


def test_ranks_without_number_stay_small():
    loads = np.arange(65_536.0)
    figure = rank_loads(loads, loads / 2, 0)
    assert "Each step is the busiest of 66 ranks." in figure.caption
    assert figure.data["contiguous"] == loads[::-1][::66].tolist()
    assert figure.data["place"][:2] == [1, 67]
    before = drawn(figure).axes[0].patches[0].get_data()
    assert before.edges[0] == -0.5
    assert before.edges[-1] == 65_535.5
    assert len(figure.svg()) < 100_000


def test_idle_ranks():
    figure = rank_loads([0.0, 0.0], [0.0, 0.0], 1)
    assert len(drawn(figure).axes[0].patches) == 4
    with pytest.raises(ConfigError, match="before"):
        rank_loads([1.0], [1.0, 2.0], 1)


def test_layers_figure_draws_every_placement_and_the_bound(placed):
    layers = list(range(len(placed.lower_bound)))
    curves = {name: judged.fitted.per_layer for name, judged in placed.judged.items()}
    figure = imbalance_by_layer(curves, layers, bound=placed.lower_bound, seed=0)
    whole, near = drawn(figure).axes
    lines = {line.get_label(): line.get_ydata() for line in whole.lines}
    for name, values in curves.items():
        assert np.array_equal(lines[name], values)
    assert np.array_equal(lines["lower bound"], placed.lower_bound)
    assert all(np.all(lines["lower bound"] <= lines[name] * (1 + 1e-12)) for name in curves)
    low, high = near.get_ylim()
    assert low < lines["lower bound"].min()
    assert lines["greedy"].max() < high < lines["contiguous"].max()
    assert figure.facts == f"largest over mean rank load [ratio]; n = {len(layers)} MoE layers; seed 0"


def test_panels_are_those_there_is_data_for():
    curves = {"contiguous": [2.0, None], "plan": [1.0, None]}
    for bound, elsewhere, panels in (
        (None, None, 1),
        ([1.0, None], None, 2),
        ([None, None], {"plan": [1.5, None]}, 3),
    ):
        canvas = drawn(imbalance_by_layer(curves, [0, 1], bound=bound, elsewhere=elsewhere))
        assert len(canvas.axes) == panels
    assert [line.get_label() for line in canvas.axes[-1].lines] == ["plan"]
    assert canvas.axes[0].get_title(loc="left") == "load the plan was fitted to"


def test_a_curve_alone_is_of_no_placement():
    figure = imbalance_by_layer({"routing": [2.0, 1.0]}, [0, 1])
    assert drawn(figure).axes[0].get_title(loc="left") == ""
    assert "placement" not in figure.caption
    assert figure.caption.endswith("On average 1.500.")


@given(st.dictionaries(st.sampled_from(["contiguous", "greedy", "plan", "x"]), st.integers(0, 4), min_size=1))
def test_curves_of_another_length_are_all_named(lengths):
    curves = {name: [1.0] * length for name, length in lengths.items()}
    wrong = {name for name, length in lengths.items() if length != 3}
    if wrong:
        with pytest.raises(ConfigError) as caught:
            imbalance_by_layer(curves, [0, 1, 2])
        assert {fault.where for fault in caught.value.faults} == wrong
    else:
        assert list(imbalance_by_layer(curves, [0, 1, 2]).data) == ["layer_id", *curves]
