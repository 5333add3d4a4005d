"""What is drawn of caches is what was replayed."""

import numpy as np
import pytest
from drawing import EVIL, curve, drawn, sound

from moesim.errors import ConfigError
from moesim.reporting.figures import hit_ratio_curves, hits_by_layer

SIZES = np.arange(33)
BEST = np.sqrt(SIZES / 32)


def test_curves_are_the_data_and_belady_bounds_them():
    rules = {"belady": BEST, "lru": SIZES / 32}
    figure = hit_ratio_curves(SIZES, rules, objects=32)
    sound(figure, "2 rules at 33 capacities")
    canvas = drawn(figure)
    for name, ratio in rules.items():
        x, y = curve(canvas, name)
        assert x.tolist() == figure.data["slots"] == SIZES.tolist()
        assert y.tolist() == ratio.tolist() == figure.data[name]
    assert figure.data["share_of_experts"][16] == 0.5
    # The square root is furthest above the line at a quarter.
    assert "25.0 points below the bound (at 8 slots: 25 % against 50 %)" in figure.caption
    shade = canvas.axes[0].collections[0].get_paths()[0].vertices
    assert shade[:, 1].max() == 1.0
    assert curve(canvas, "lru")[0].size == 33
    lines = {line.get_linestyle() + str(line.get_marker()) for line in canvas.axes[0].lines}
    assert len(lines) == 2


def test_a_pool_of_all_layers_is_drawn_by_some_of_its_capacities():
    sizes = np.arange(20_001)
    figure = hit_ratio_curves(sizes, {"lru": sizes / 20_000})
    x, y = curve(drawn(figure), "lru")
    assert len(x) <= 300
    assert (x[0], x[-1]) == (0, 20_000)
    assert np.allclose(y, x / 20_000)
    assert len(figure.data["slots"]) == 20_001


def test_rules_that_were_not_replayed_everywhere_have_gaps():
    figure = hit_ratio_curves([0, 4, 8], {"belady": [0, 0.5, 1], "fifo": [None, 0.4, None]})
    sound(figure)
    x, y = curve(drawn(figure), "fifo")
    assert (x.tolist(), y.tolist()) == ([4], [0.4])
    assert figure.data["fifo"] == [None, 0.4, None]


def test_hostile_rules_are_text():
    figure = hit_ratio_curves(SIZES, {EVIL: BEST, "belady": BEST})
    sound(figure)
    assert "\x00" not in figure.svg()


def test_what_is_no_curve_is_refused():
    for sizes, rules in (([], {"a": []}), ([0, 1], {}), ([1, 0], {"a": [0, 1]}), ([0, 1], {"a": [0, 2]})):
        with pytest.raises(ConfigError):
            hit_ratio_curves(sizes, rules)


def test_layers_are_drawn_where_they_are():
    ratios = {"lru": [0.4, None, 0.2], "belady": [0.5, 0.6, 0.7], EVIL: [0.3, 0.3, 0.3]}
    figure = hits_by_layer(ratios, [3, 5, 9], seed=4)
    sound(figure, "3 rules in 3 layers", "seed 4")
    x, y = curve(drawn(figure), "lru")
    assert x.tolist() == figure.data["layer_id"] == [3, 5, 9]
    assert (y[0], np.isnan(y[1]), y[2]) == (0.4, True, 0.2)
    assert figure.data["lru"] == ratios["lru"]
    assert "lru: from 20 % (layer 9) to 40 % (layer 3)" in figure.caption
    with pytest.raises(ConfigError) as raised:
        hits_by_layer({"lru": [0.4], "fifo": [2.0, 0.0]}, [4, 3])
    assert len(raised.value.faults) == 3
