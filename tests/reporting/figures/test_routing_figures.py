"""What is drawn of routing is what is given."""

import numpy as np
import pytest
from drawing import curve, drawn, sound

from moesim.errors import ConfigError
from moesim.reporting.figures import expert_affinity, token_reuse


def test_affinity_has_every_pair_and_puts_what_belongs_together_on_the_diagonal():
    follows = np.array([4, 2, 0, 5, 1, 3])
    table = np.full((6, 6), 0.5)
    table[range(6), follows] = 3.0
    table[range(5), follows[1:]] = 2.0
    figure = expert_affinity(table, (3, 4), seed=7)
    sound(figure, "seed 7")
    for i, j, value in zip(*figure.data.values(), strict=True):
        assert value == table[i, j]
    image = drawn(figure).axes[0].images[0]
    drawn_table = image.get_array()
    assert sorted(drawn_table.ravel()) == sorted(table.ravel())
    # Each is beside what it goes with: within one place, around the circle.
    away = (np.argmax(drawn_table, axis=1) - np.arange(6)) % 6
    assert set(away) <= {0, 1, 5}
    kept = drawn(expert_affinity(table, (3, 4), by_id=True)).axes[0].images[0]
    assert (np.argmax(kept.get_array(), axis=1) == follows).all()
    assert "30.6 % of pairs" in figure.caption


def test_affinity_of_unused_experts_is_left_out_and_said():
    table = np.ones((5, 5))
    table[1], table[:, 2] = np.nan, np.nan
    figure = expert_affinity(table, (0, 1))
    sound(figure)
    assert "9 pairs" in figure.caption
    assert figure.data["over_independence"].count(None) == 9
    assert drawn(figure).axes[0].images[0].get_array().mask.sum() == 9


def test_affinity_of_some_experts_has_their_ids():
    figure = expert_affinity([[2.0, 0.5, 1.0], [0.5, 1.0, 3.0]], (7, 9), experts=([5, 8], [1, 40, 41]))
    sound(figure, "2 x 3 experts")
    assert figure.data["expert_layer_7"] == [5, 5, 5, 8, 8, 8]
    assert figure.data["expert_layer_9"] == [1, 40, 41] * 2
    axes = drawn(figure).axes[0]
    assert sorted(tick.get_text() for tick in axes.get_xticklabels()) == ["1", "40", "41"]
    assert sorted(tick.get_text() for tick in axes.get_yticklabels()) == ["5", "8"]
    assert "8 and 41 (3 times)" in figure.alt
    with pytest.raises(ConfigError):
        expert_affinity([[1.0, 1.0]], (7, 9), experts=([5, 8], [1]))


def test_affinity_of_many_experts_stays_small():
    table = np.exp(np.random.default_rng(0).normal(0, 1, (128, 128)))
    sound(expert_affinity(table, (3, 4)))


def test_affinity_refuses_what_is_no_table_of_ratios():
    for wrong in (np.ones((2, 3)), np.zeros((0, 0)), -np.ones((2, 2)), np.full((2, 2), np.nan), [["a"]]):
        with pytest.raises(ConfigError):
            expert_affinity(wrong, (0, 1))


def test_reuse_draws_the_mean_of_layers_and_their_spread():
    table = np.array([[0.5, 0.3, np.nan], [0.3, 0.2, np.nan]])
    figure = token_reuse([1, 4, 64], table, random=0.1)
    sound(figure, "no randomness")
    canvas = drawn(figure)
    x, y = curve(canvas, "mean")
    assert x.tolist() == figure.data["lag_tokens"] == [1, 4]
    assert y.tolist() == pytest.approx([0.4, 0.25]) == figure.data["mean"]
    assert curve(canvas, "two tokens at random")[1][0] == 0.1
    assert figure.data["least"] == [0.3, 0.2]
    assert figure.data["most"] == [0.5, 0.3]
    assert "1 lag that no request is long enough for" in figure.caption
    assert "10 % of two tokens at random" in figure.caption


def test_reuse_names_every_fault_at_once():
    with pytest.raises(ConfigError) as raised:
        token_reuse([4, 1], [0.5, 1.5], random=-1.0)
    assert len(raised.value.faults) == 3
