"""Profiles: designed, fitted, generated from, written and read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthesis_helpers import SMALL, designed, fitted, relabelled, trace

from moesim.errors import ConfigError, TraceError, UnknownNameError
from moesim.synthesis import generate, generate_to, load_profile, profile_names, read_profile
from moesim.synthesis.check import Row, compare, measure
from moesim.synthesis.design import Shape, Traits, capped, design, lognormal_loads
from moesim.synthesis.fitting import fit
from moesim.synthesis.moments import moments, mutual_information, pair_counts
from moesim.synthesis.requests import plan
from moesim.synthesis.sampling import runs
from moesim.synthesis.solve import Block, one_hot, solve
from moesim.trace import count_ids, load_trace


def test_a_design_has_the_traits_asked_for():
    made = trace()
    found = moments(made.topk_ids, made.position, 32, debias=True)
    assert found.lag[:, 0].mean() == pytest.approx(0.4, rel=0.1)
    assert found.information[1:].mean() == pytest.approx(0.5, rel=0.2)
    wanted = lognormal_loads(SMALL, 0.6, 0)
    assert np.abs(found.load - wanted).sum(axis=1).max() / 4 < 0.12
    # Persistence is lowest where routing follows the token's identity.
    assert found.lag[0, 0] < found.lag[1:3, 0].min()


def test_conservation_and_distinctness():
    made = generate(designed()[0], 5001, requests=77, phase="both", seed=3)
    assert made.num_tokens == 5001
    assert (np.diff(np.sort(made.topk_ids.astype(int), axis=2), axis=2) > 0).all()
    assert (count_ids(made.topk_ids, 32).sum(axis=1) == 5001 * 4).all()
    assert len(np.unique(made.request)) == 77
    starts = np.flatnonzero(made.position == 0)
    assert len(starts) == 77
    for start, end in zip(starts, np.append(starts[1:], 5001), strict=True):
        assert (made.position[start:end] == np.arange(end - start)).all()
        assert (np.diff(made.phase[start:end]) >= 0).all()
    assert 0.45 < made.phase.mean() < 0.5


def test_the_same_seed_gives_the_same_trace_in_runs_of_any_length():
    profile = fitted()
    wanted = plan(profile, 3000, seed=9)
    whole, pieces = (list(runs(profile, wanted, 9, run=n)) for n in (10_000, 37))
    for column in range(4):
        a, b = (np.concatenate([part[column] for part in parts]) for parts in (whole, pieces))
        assert (a == b).all()
    other = generate(profile, 3000, seed=10)
    assert (other.topk_ids != whole[0][0]).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.data())
def test_plans_add_up(tokens, data):
    requests = data.draw(st.integers(1, tokens))
    wanted = plan(designed()[0], tokens, requests, "both", 1, prompt_share=data.draw(st.floats(0, 1)))
    assert wanted.tokens == tokens
    assert len(wanted.lengths) == requests
    assert wanted.lengths.min() >= 1
    assert (wanted.prompts <= wanted.lengths).all()


def test_a_fit_reproduces_what_it_was_fitted_to():
    target = measure(trace())
    made = generate(fitted(), 12_000, requests=200, seed=21)
    off = [row for row in compare(target, measure(made)) if abs(row.error) > 2 * row.tolerance]
    assert not off, off
    passing = [row.passes for row in compare(target, measure(made))]
    assert np.mean(passing) > 0.8


def test_a_fit_tells_persistent_from_forgetful():
    forgetful = generate(design(SMALL, Traits(0.6, 0.22, 0.3), rounds=8)[0], 6000, requests=100, seed=1)
    again = generate(fit(forgetful, kinds=32, steps=40, rounds=6), 6000, requests=100, seed=2)
    before, after = (measure(t)["consecutive_overlap"] for t in (forgetful, again))
    assert after == pytest.approx(before, rel=0.1)
    assert after < 0.75 * measure(trace())["consecutive_overlap"]


def test_relabelling_experts_relabels_the_fit():
    renamed, order = relabelled(trace())
    profile = fit(renamed, kinds=48, steps=60, rounds=10)
    made, base = (generate(p, 12_000, requests=200, seed=4) for p in (profile, fitted()))
    load, straight = (count_ids(t.topk_ids, 32) / 12_000 for t in (made, base))
    moved = np.take_along_axis(load, order, axis=1)
    assert np.abs(moved - straight).sum(axis=1).max() / 4 < 0.1
    for name in ("consecutive_overlap", "next_layer_information_bits", "gini"):
        assert measure(made)[name] == pytest.approx(measure(base)[name], rel=0.15)


def test_the_solver_finds_known_log_odds():
    rng = np.random.default_rng(0)
    feature = rng.integers(0, 3, 20_000)
    truth = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]))
    chosen = np.array([rng.choice(3, p=np.exp(truth[f])) for f in feature])
    weights, _ = solve(
        [Block("f", feature[:, None], 3, 0.1)], one_hot(chosen[:, None], 3), [], 1, steps=200, seed=0
    )
    logs = weights["base"] + weights["f"]
    shares = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    assert np.abs(shares - np.exp(truth)).max() < 0.02


def test_moments_by_hand():
    ids = np.array([[[0, 1], [0, 1]], [[0, 1], [2, 3]], [[2, 3], [0, 1]], [[2, 3], [2, 3]]], np.uint8)
    found = moments(ids, np.array([0, 1, 2, 3]), 4)
    assert found.load.tolist() == [[0.5] * 4] * 2
    assert found.lag[:, 0].tolist() == [2 / 3, 0.0]
    assert found.information.tolist() == [0.0, 0.0]
    same = pair_counts(ids[:, 0], ids[:, 0], 4)
    assert mutual_information(same) == 1.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40), st.floats(0, 3))
def test_capped_loads_sum_and_stay_below_one(seed, E, skew):
    k = 1 + seed % (E - 1)
    loads = capped(np.exp(skew * np.random.default_rng(seed).standard_normal((2, E))), k)
    assert loads.sum(axis=1) == pytest.approx(k)
    assert loads.max() < 1


def test_designs_of_any_shape():
    for shape in (Shape((0,), 2, 1), Shape((0, 1), 300, 6), Shape((3, 4), 64, 8, 8, 4)):
        profile, _ = design(shape, Traits(0.4, coupling=0.0), rounds=2)
        made = generate(profile, 600, seed=1)
        assert (np.diff(np.sort(made.topk_ids.astype(int), axis=2), axis=2) > 0).all()
        if shape.groups > 1:
            assert max(len(set(row // 8)) for row in made.topk_ids.reshape(-1, 8)) <= 4


def test_loads_can_be_given_by_phase():
    loads = np.stack([lognormal_loads(SMALL, 0.6, seed) for seed in (11, 12)])
    profile, _ = design(SMALL, Traits(), loads=loads)
    for phase, name in enumerate(("prefill", "decode")):
        made = generate(profile, 20_000, requests=1000, phase=name, seed=2)
        share = count_ids(made.topk_ids, 32) / 20_000
        distance = np.abs(share - loads[phase]).sum(axis=1) / 8
        other = np.abs(share - loads[1 - phase]).sum(axis=1) / 8
        assert distance.max() < 0.06 < 0.15 < other.min()


def test_every_fault_of_a_design_at_once():
    with pytest.raises(ConfigError) as caught:
        design(Shape((), 1, 9))
    assert [f.where for f in caught.value.faults] == ["--layers", "--experts", "--top-k"]
    with pytest.raises(ConfigError) as caught:
        design(SMALL, Traits(-1, 2, 9))
    assert [f.where for f in caught.value.faults] == ["--skew", "--persistence", "--coupling"]
    with pytest.raises(ConfigError, match="below chance"):
        design(SMALL, Traits(persistence=0.01))
    with pytest.raises(ConfigError) as caught:
        plan(designed()[0], 0, 5, "later", -1)
    assert len(caught.value.faults) == 4


def test_what_cannot_be_fitted_is_named():
    short = trace(60)
    mixed = replace(short, request=np.tile([0, 1], 30).astype(np.int32))
    with pytest.raises(TraceError) as caught:
        fit(mixed, kinds=999)
    assert {f.where for f in caught.value.faults} == {"tokens", "requests", "kinds"}


def test_profiles_round_trip(tmp_path):
    path = tmp_path / "p.npz"
    profile = fitted()
    profile.save(path)
    back = read_profile(path)
    for name in type(profile).__dataclass_fields__:
        before, after = getattr(profile, name), getattr(back, name)
        assert np.array_equal(before, after), name
    assert (generate(back, 200).topk_ids == generate(profile, 200).topk_ids).all()


def test_damaged_profiles(tmp_path):
    path = tmp_path / "p.npz"
    path.write_bytes(b"no profile")
    with pytest.raises(TraceError, match="no readable profile"):
        read_profile(path)
    profile = fitted()
    replace(profile, base=profile.base[:, :-1], share=profile.share * np.float32("nan")).save(path)
    with pytest.raises(TraceError) as caught:
        read_profile(path)
    assert {f.where for f in caught.value.faults} == {"base", "share"}
    np.savez(path, base=profile.base)
    with pytest.raises(TraceError):
        read_profile(path)


def test_streaming_writes_what_memory_holds(tmp_path):
    path = tmp_path / "t.parquet"
    generate_to(path, fitted(), 2000, seed=8)
    back, made = load_trace(path), generate(fitted(), 2000, seed=8)
    for name in ("topk_ids", "request", "position", "phase"):
        assert (getattr(back, name) == getattr(made, name)).all()
    assert back.metadata["synthetic"] == "true"
    assert "synthetic: no model was run" in back.warnings


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles(name):
    profile = load_profile(name)
    assert profile.source
    assert profile.licence
    made = generate(profile, 4000, requests=60, seed=1)
    assert (np.diff(np.sort(made.topk_ids.astype(int), axis=2), axis=2) > 0).all()
    found = measure(made)
    for statistic in ("entropy_normalised", "consecutive_overlap", "gini"):
        assert found[statistic] == pytest.approx(profile.targets[statistic], rel=0.2)


def test_unknown_profile():
    with pytest.raises(UnknownNameError, match="gpt-oss"):
        load_profile("gpt-os")


def test_rows_of_a_check():
    row = Row("gini", 0.4, 0.43, 0.1)
    assert row.passes
    assert row.error == pytest.approx(0.075)
    assert not Row("gini", 0.4, 0.45, 0.1).passes
