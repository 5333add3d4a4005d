"""Fits of processes: effects that were put in are found, strange rows do not bend the others."""

import numpy as np

from moesim.correction import Component
from moesim.learning.process_fit import fit_process

EFFECTS = (Component((), (), 0.01), Component((0,), (), 0.01), Component((), ((0, 2.0),), 0.01))


def rows(seed: int = 0, groups: int = 12, each: int = 8):
    rng = np.random.default_rng(seed)
    labels = [(f"g{g}",) for g in range(groups) for _ in range(each)]
    values = rng.uniform(0, 8, (groups * each, 1))
    own = rng.normal(0, 0.2, groups)
    y = np.repeat(own, each) + 0.1 * np.sin(values[:, 0]) + rng.normal(0, 0.01, groups * each)
    return labels, values, y, own


def test_left_out_rows_are_predicted_by_their_groups():
    labels, values, y, _ = rows()
    fitted = fit_process(EFFECTS, labels, values, y)
    assert np.median(np.abs(fitted.left_out)) < 0.03 < np.median(np.abs(y))


def test_left_out_is_what_a_fit_without_the_row_says():
    labels, values, y, _ = rows(1)
    fitted = fit_process(EFFECTS, labels, values, y)
    rest = [i for i in range(len(y)) if i != 5]
    other = fit_process(
        EFFECTS, [labels[i] for i in rest], values[rest], y[rest], parameters=fitted.parameters
    ).process
    residual = y[5] - other.mean(other.encode([labels[5]]), values[5:6])[0]
    # Weights of strange rows are found again without it, so the two agree nearly, not exactly.
    assert abs(residual - fitted.left_out[5]) < 0.01


def test_a_strange_row_does_not_bend_its_neighbours():
    labels, values, y, _ = rows(2)
    bent = y.copy()
    bent[3] += 3.0
    process = fit_process(EFFECTS, labels, values, bent).process
    straight = fit_process(EFFECTS, labels, values, y).process
    at = process.encode([("g0",)])
    place = np.array([[4.0]])
    # Under Gaussian noise it would take the group along by three over its eight rows.
    assert abs(process.mean(at, place)[0] - straight.mean(at, place)[0]) < 0.5 * 3.0 / 8


def test_equal_rows_equal_fit():
    labels, values, y, _ = rows(3)
    one, two = (fit_process(EFFECTS, labels, values, y).process for _ in range(2))
    assert one.effects_dict() == two.effects_dict()
