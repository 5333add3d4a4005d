"""The draw: exact where it can be computed, distinct always."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.synthesis.kernel import SCALE, draw_layer, stream_of


def draw(logs, tokens, k, *, seed=0, coupling=None, before=None, memory=None, recency=(0,), position=None,
         groups=1, top_groups=1, kinds=None, kind=None):  # fmt: skip
    """Octaves in, ids out."""
    E = len(logs)
    none = np.zeros((0, E), np.int16)
    fixed = lambda a: none if a is None else np.rint(np.asarray(a) * SCALE).astype(np.int16)  # noqa: E731
    out = np.empty((tokens, k), np.uint8 if E <= 256 else np.uint16)
    draw_layer(
        out if before is None else np.asarray(before, out.dtype),
        np.zeros(tokens, np.uint8) if kind is None else np.asarray(kind, np.uint8),
        fixed([logs]),
        fixed(kinds),
        np.zeros(tokens, np.int64),
        np.zeros(tokens, np.int64) if position is None else np.asarray(position, np.int64),
        fixed(coupling),
        fixed(memory),
        np.rint(np.asarray(recency) * SCALE).astype(np.int16),
        np.zeros((len(recency), k), out.dtype),
        groups,
        top_groups,
        stream_of(seed, 0),
        0,
        out,
    )
    return out.astype(int)


def test_sequences_have_plackett_luce_probabilities():
    logs = np.array([0.0, 1.0, 2.0, -1.0])
    weights = 2.0**logs
    n = 200_000
    ids = draw(logs, n, 2)
    for a, b in permutations(range(4), 2):
        exact = weights[a] / weights.sum() * weights[b] / (weights.sum() - weights[a])
        seen = ((ids[:, 0] == a) & (ids[:, 1] == b)).mean()
        assert abs(seen - exact) < 5 * np.sqrt(exact * (1 - exact) / n)


def test_weights_interpolate_powers_of_two():
    # Between whole octaves below the heaviest, a weight is linear: at most 6.2 % from the power of two.
    n = 200_000
    share = (draw([0.5, 0.0], n, 1) == 0).mean()
    assert abs(share - 1 / 1.75) < 0.006


@pytest.mark.parametrize(("E", "k"), [(2, 1), (8, 2), (17, 16), (32, 4), (256, 8), (300, 10), (4096, 64)])
def test_every_row_is_distinct_and_whole(E, k):
    ids = draw(np.random.default_rng(1).normal(0, 6, E), 500, k)
    assert (np.diff(np.sort(ids), axis=1) > 0).all()
    assert ids.min() >= 0
    assert ids.max() < E


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.data())
def test_distinct_whatever_the_weights(seed, E, data):
    k = data.draw(st.integers(1, E - 1))
    logs = np.random.default_rng(seed).choice([-20.0, 0.0, 20.0], E)
    ids = draw(logs, 50, k, seed=seed)
    assert (np.diff(np.sort(ids), axis=1) > 0).all()
    assert ids.max() < E


def test_coupling_memory_recency_and_kinds_add_up():
    n, E = 100_000, 4
    rng = np.random.default_rng(0)
    before = rng.integers(0, E, (n, 1))
    table = rng.normal(0, 1, (E, E)).round(1)
    kinds = np.array([[0.0, 0, 0, 0], [2.0, 0, 0, -1]])
    kind = rng.integers(0, 2, n)
    ids = draw(np.zeros(E), n, 1, coupling=table, before=before, kinds=kinds, kind=kind)[:, 0]
    for j in range(E):
        for c in range(2):
            rows = (before[:, 0] == j) & (kind == c)
            weights = _interpolated(table[j] + kinds[c])
            seen = np.bincount(ids[rows], minlength=E) / rows.sum()
            assert np.abs(seen - weights / weights.sum()).max() < 0.02


def _interpolated(octaves):
    below = octaves - octaves.max()
    whole = np.floor(below)
    return 2.0**whole * (1 + below - whole)


def test_a_chain_reaches_its_stationary_distribution():
    memory = np.array([[3.0, 0, 0], [0, 1.0, 0], [0, 0, 0.0]])
    n = 200_000
    ids = draw(np.zeros(3), n, 1, memory=memory, position=np.arange(n))[:, 0]
    step = 2.0**memory
    step /= step.sum(axis=1, keepdims=True)
    stationary = np.linalg.matrix_power(step, 200)[0]
    assert np.abs(np.bincount(ids, minlength=3) / n - stationary).max() < 0.01
    kept = (ids[1:] == ids[:-1]).mean()
    assert abs(kept - (stationary * np.diag(step)).sum()) < 0.01


def test_memory_stops_where_a_request_begins():
    n = 60_000
    position = np.arange(n) % 2
    ids = draw(np.zeros(8), n, 2, recency=[6.0], position=position)
    overlap = np.array([len(set(a) & set(b)) / 2 for a, b in zip(ids[1:], ids[:-1], strict=True)])
    assert overlap[position[1:] == 1].mean() > 0.9
    assert abs(overlap[position[1:] == 0].mean() - 0.25) < 0.01


def test_groups_limit_what_a_token_uses():
    ids = draw(np.random.default_rng(0).normal(0, 1, 64), 5000, 6, groups=8, top_groups=3)
    used = np.array([len(set(row // 8)) for row in ids])
    assert used.max() == 3
    assert (np.diff(np.sort(ids), axis=1) > 0).all()


def test_the_seed_decides():
    logs = np.zeros(64)
    assert (draw(logs, 100, 6, seed=1) == draw(logs, 100, 6, seed=1)).all()
    assert (draw(logs, 100, 6, seed=1) != draw(logs, 100, 6, seed=2)).any()
