"""Batches under each rule of choosing replicas: what is conserved, what is expected, and where it travels."""

from __future__ import annotations

import numpy as np
import pytest

import moesim as ms
from moesim.engine.dispatch import Replicas, direct, dispatch, homes, two_level
from moesim.engine.routing import DECODE, TOKEN_BUDGET, Draw, LoadSource
from moesim.errors import ConfigError
from moesim.layout import DISPATCH, ExpertMap, slot_shares
from moesim.layout.sharing import FIXED, rank_loads_lp
from moesim.placement import Problem, greedy
from moesim.placement.solvers.under import search_under
from moesim.trace.types import LoadCounts

LAYERS, EXPERTS, RANKS, NODES, TOP_K = 3, 32, 8, 2, 4


def counts_of(seed=0):
    loads = np.random.default_rng(seed).lognormal(0.0, 0.8, (1, LAYERS, EXPERTS))
    return LoadCounts(loads, tuple(range(LAYERS)), top_k=TOP_K)


def plan_of(loads, redundant=8):
    return ExpertMap(greedy(loads, RANKS, redundant), EXPERTS, RANKS)


def draw_of(tokens, seed=0):
    return LoadSource.of(counts_of(), TOP_K).draw(tokens, DECODE, np.random.default_rng(seed))


@pytest.mark.parametrize("rule", DISPATCH)
@pytest.mark.parametrize("tokens", [1, 64, TOKEN_BUDGET])
def test_every_pair_goes_to_a_slot_of_its_expert(rule, tokens):
    plan, draw = plan_of(counts_of().totals), draw_of(tokens)
    sent = dispatch(draw, plan, Replicas.of(plan, rule, NODES), np.random.default_rng(1))
    total = np.zeros((LAYERS, EXPERTS))
    slots = sent.slot_tokens.reshape(LAYERS, -1)
    np.add.at(total, (np.arange(LAYERS)[:, None], plan.physical_to_logical), slots)
    np.testing.assert_allclose(total, draw.counts)
    np.testing.assert_allclose(sent.pairs.sum(axis=1), sent.slot_tokens.sum(axis=2))
    # Each home sends its part: homes hold equal blocks of tokens.
    mine = np.bincount(homes(tokens, RANKS), minlength=RANKS) * TOP_K
    np.testing.assert_allclose(sent.pairs.sum(axis=2), np.tile(mine, (LAYERS, 1)), atol=TOP_K)


@pytest.mark.parametrize("rule", [rule for rule in DISPATCH if rule != "lp"])
@pytest.mark.parametrize("tokens", [25_000, TOKEN_BUDGET])
def test_large_batches_are_shared_as_the_layout_says(rule, tokens):
    """Of single tokens (25,000 fit the budget) as of counts."""
    plan, draw = plan_of(counts_of().totals), draw_of(tokens)
    assert (draw.ids is None) == (tokens == TOKEN_BUDGET)
    sent = dispatch(draw, plan, Replicas.of(plan, rule, NODES), np.random.default_rng(1))
    wanted = plan.slot_loads(draw.counts, slot_shares(plan, rule, NODES))
    slots = sent.slot_tokens.reshape(LAYERS, -1)
    assert np.abs(slots - wanted).max() < (0.03 if draw.ids is None else 0.08) * wanted.max()


def test_fixed_rules_leave_nothing_to_chance_and_random_ones_do():
    plan, draw = plan_of(counts_of().totals), draw_of(256)
    for rule in DISPATCH[1:]:
        replicas = Replicas.of(plan, rule, NODES)
        one, same, other = (
            dispatch(draw, plan, replicas, np.random.default_rng(seed)).slot_of for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(one, same)
        assert (one == other).all() == (rule in FIXED)


def test_each_batch_is_split_for_itself():
    """A batch unlike what the plan was made for is far better balanced than by even shares."""
    plan = plan_of(counts_of().totals)
    draw = LoadSource.of(counts_of(seed=9), TOP_K).draw(TOKEN_BUDGET, DECODE, np.random.default_rng(0))
    busiest = {
        rule: dispatch(draw, plan, Replicas.of(plan, rule), np.random.default_rng(0))
        .slot_tokens.sum(axis=2)
        .max(axis=1)
        for rule in ("even", "lp")
    }
    np.testing.assert_allclose(busiest["lp"], rank_loads_lp(plan, draw.counts).max(axis=1), rtol=0.01)
    assert (busiest["lp"] <= busiest["even"]).all()
    assert (busiest["lp"] < busiest["even"]).any()


@pytest.mark.parametrize("tokens", [512, TOKEN_BUDGET])
def test_the_nearest_replica_spares_the_network(tokens):
    loads = counts_of().totals
    problem = Problem(loads, RANKS, 8, nodes=NODES, dispatch="static")
    plan, draw = problem.plan(search_under(problem, greedy(loads, RANKS, 8))), draw_of(tokens)
    out = {}
    for rule in ("even", "sglang-static"):
        sent = dispatch(draw, plan, Replicas.of(plan, rule, NODES), np.random.default_rng(1))
        near, far = two_level(sent, plan, RANKS // NODES), direct(sent, RANKS // NODES)
        assert (near.out.sum(axis=(1, 2)) <= far.out.sum(axis=(1, 2)) + 1e-6).all()
        out[rule] = np.array([near.out.sum(), far.out.sum()])
    assert (out["sglang-static"] < 0.85 * out["even"])[1]
    assert (out["sglang-static"] <= out["even"]).all()


def test_tokens_and_counts_agree_on_traffic():
    """Counts leave out that a token's experts differ, which is the same part under every rule."""
    plan, draw = plan_of(counts_of().totals), draw_of(20_000)
    ratios = []
    for rule in ("even", "sglang-static", "sglang-dynamic", "vllm-ascend"):
        replicas = Replicas.of(plan, rule, NODES)
        exact, expected = (
            two_level(dispatch(d, plan, replicas, np.random.default_rng(0)), plan, RANKS // NODES)
            for d in (draw, Draw(None, draw.counts, draw.tokens))
        )
        ratios.append((expected.out.sum() / exact.out.sum(), expected.up.sum() / exact.up.sum()))
    np.testing.assert_allclose(ratios, np.broadcast_to(ratios[0], (4, 2)), rtol=0.03)
    assert np.min(ratios) > 0.85


def test_empty_slots_get_nothing():
    plan = ExpertMap(np.array([[0, 1, -1, 0, 2, -1, 1, 0, 3]]), 4, 3)
    counts = np.array([[30.0, 20.0, 5.0, 1.0]])
    for rule in DISPATCH:
        sent = dispatch(Draw(None, counts, 30), plan, Replicas.of(plan, rule), np.random.default_rng(0))
        assert sent.slot_tokens.ravel()[[2, 5]].tolist() == [0.0, 0.0]
        assert sent.slot_tokens.sum() == pytest.approx(56.0)


@pytest.fixture(scope="module")
def deployed():
    """A plan of a small model over two nodes, and its price under a rule."""
    model = ms.load_model("deepseek-v2-lite")
    hardware = ms.load_hardware("h100-sxm-8", nodes=2)
    experts, layers = model.num_experts, len(model.moe_layer_ids)
    loads = np.random.default_rng(0).lognormal(0.0, 0.8, (1, layers, experts))
    counts = LoadCounts(loads, tuple(model.moe_layer_ids), top_k=model.top_k)
    greedily = ExpertMap(greedy(loads[0], 16, 16), experts, 16)

    def predict(plan=greedily, dp=16, **engine):
        layout = ms.Parallelism(tp=16 // dp, dp=dp, ep=16)
        workload = ms.Workload(512, 512, 512)
        return ms.predict(
            model, hardware, layout, workload, trace=counts, plan=plan, engine=ms.Engine(**engine)
        )

    return predict, loads[0], model


def test_a_prediction_follows_the_rule(deployed):
    predict, loads, model = deployed
    even, static, lp = (predict(dispatch=rule) for rule in ("even", "static", "lp"))
    assert predict() == even or predict().tpot_s == even.tpot_s
    assert lp.load_imbalance < even.load_imbalance < static.load_imbalance
    assert static.tpot_s > even.tpot_s
    problem = Problem(loads, 16, 16, nodes=2, dispatch="static")
    table = search_under(problem, greedy(loads, 16, 16), rows=model.moe_layer_ids)
    searched = predict(plan=problem.plan(table), dispatch="static")
    assert searched.load_imbalance < static.load_imbalance
    assert searched.tpot_s < static.tpot_s
    # Where every rank has every token, all must agree on a replica.
    assert predict(dp=1, dispatch="static").tpot_s == predict(dp=1).tpot_s


def test_an_unknown_rule_is_named(deployed, moesim):
    predict, _, _ = deployed
    with pytest.raises(ConfigError, match="sglang-static"):
        predict(dispatch="sglang-statik")
    asked = ("predict", "--model", "deepseek-v2-lite", "--hardware", "h100-sxm-8", "--concurrency", 64)
    layout = ("--dp", 8, "--ep", 8, "--redundant", 8, "--json")
    code, out, _ = moesim(*asked, *layout, "--ep-dispatch-algorithm", "static")
    assert code == 0
    assert out != moesim(*asked, *layout)[1]
    code, _, err = moesim(*asked, *layout, "--dispatch", "satic")
    assert code == 2
    assert "is no dispatch rule" in err
