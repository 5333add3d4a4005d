"""Held-out predictions have not seen what they predict."""

from dataclasses import replace

import numpy as np
import pytest
from known_runs import MODELS, probes, table

from moesim.correction import CATEGORIES
from moesim.learning.effects import effect
from moesim.learning.held_out import fit_pair, held_out, sides
from moesim.learning.traits_fit import fit_traits
from moesim.validate import group_of

EFFECTS = (
    effect("model"),
    effect("system"),
    effect("model system", "concurrency tp"),
    effect("model system backend dtype layout campaign", "concurrency"),
)
KINDS = ("sweep", "layout", "system", "model")


def predictions(found, kind, parameters):
    own = probes(found)

    def traits(by, groups):
        return fit_traits([own], lambda row: group_of(row, by) not in groups)

    return held_out(EFFECTS, own, kind, traits, parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_held_out_once_and_groups_stay_whole(kind):
    found = table()
    parts = sides(found, kind)
    assert (np.sum(parts, axis=0) == 1).all()
    for part in parts:
        inside = {group_of(found.rows[i], kind) for i in np.flatnonzero(part)}
        outside = {group_of(found.rows[i], kind) for i in np.flatnonzero(~part)}
        assert not inside & outside


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nested", [False, True])
def test_measurements_of_a_group_do_not_change_its_own_predictions(kind, nested):
    found = table(1)
    pair = fit_pair(EFFECTS, found)
    parameters = None if nested else (pair.tpot.parameters, pair.ttft.parameters)
    side = sides(found, kind)[0]
    rows = tuple(
        replace(row, tpot_ms=3.0 * row.tpot_ms, ttft_ms=0.2 * row.ttft_ms) if held else row
        for row, held in zip(found.rows, side, strict=True)
    )
    changed = replace(
        found,
        rows=rows,
        tpot=np.where(side, 3.0 * found.tpot, found.tpot),
        ttft=np.where(side, 0.2 * found.ttft, found.ttft),
    )
    before, after = (predictions(t, kind, parameters)["campaign"].predicted() for t in (found, changed))
    for old, new in zip(before, after, strict=True):
        assert new[side].tolist() == old[side].tolist()
        # They do change those of the others, so that the test can tell.
        assert new[~side].tolist() != old[~side].tolist()


def test_relabelling_a_model_changes_nothing():
    found = table(2)
    names = dict(zip(MODELS, ("w", "z", "a", "m"), strict=True))
    column = CATEGORIES.index("model")
    labels = tuple(tuple(names[v] if i == column else v for i, v in enumerate(row)) for row in found.labels)
    pairs = [fit_pair(EFFECTS, t) for t in (found, replace(found, labels=labels))]
    old, new = (
        pair.means(t).predicted()
        for pair, t in zip(pairs, (found, replace(found, labels=labels)), strict=True)
    )
    assert new[0] == pytest.approx(old[0], rel=1e-9)
    assert new[1] == pytest.approx(old[1], rel=1e-9)


def test_known_layouts_are_predicted_within_their_noise():
    found = table(3, own=0.3, noise=0.01)
    pair = fit_pair(EFFECTS, found)
    tpot, ttft = pair.means(found).predicted()
    assert np.median(np.abs(tpot / found.tpot - 1.0)) < 0.01
    assert np.median(np.abs(ttft / found.ttft - 1.0)) < 0.02


def test_nobody_knows_the_campaign_of_an_anonymous_row():
    found = table().anonymous()
    for name in ("source", "campaign"):
        assert {row[CATEGORIES.index(name)] for row in found.labels} == {""}


def test_trust_of_none_is_physics():
    found = table(4)
    means = fit_pair(EFFECTS, found).means(found)
    tpot, ttft = means.predicted(0.0, 0.0)
    assert tpot.tolist() == found.physics.tpot_s.tolist()
    expected = found.physics.ttft_fixed_s + found.physics.ttft_steps * found.physics.tpot_s
    assert ttft == pytest.approx(expected)
