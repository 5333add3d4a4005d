"""How many redundant experts: what is tried, what is chosen, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.placement import Problem, place, solve
from moesim.placement.redundancy import plan_redundancy
from moesim.trace import LoadCounts

LOADS = np.random.default_rng(5).lognormal(0.0, 0.9, (6, 16))


def answer(throughput):
    memory = {"budget_bytes": 10.0, "weights_bytes": 4.0, "workspace_bytes": 1.0, "cache_bytes": 2.5}
    return SimpleNamespace(
        output_throughput=throughput, memory=memory, running=8.0, input_len=100.0, output_len=20.0
    )


def solved(spare):
    return solve(Problem(LOADS, 4, spare), "greedy")


def by_copies(table):
    """A price that looks up the mean number of copies, and interpolates between."""
    spares = sorted(table)

    def price(plan):
        value = np.interp(plan.mean_copies, spares, [table[s] for s in spares])
        return [answer(float(value))]

    return price


def test_the_fastest_number_is_chosen_and_two_failures_end_the_search():
    found = plan_redundancy(16, 4, solved, by_copies({0: 10.0, 4: 12.0, 8: 11.0, 12: 11.0, 16: 99.0}))
    assert [c.redundant for c in found.choices] == [0, 4, 8, 12]
    assert found.best.redundant == 4
    assert found.best.solution.expert_map.redundant == 4


def test_copies_that_gain_less_than_is_noticed_are_not_taken():
    found = plan_redundancy(16, 4, solved, by_copies({0: 10.0, 4: 10.005, 8: 10.008, 12: 10.0}))
    assert found.best.redundant == 0
    assert found.by_layer is None


def test_what_does_not_fit_ends_the_search_and_says_why():
    def price(plan):
        if plan.redundant > 4:
            raise InfeasibleError("no room", resource="memory", needed=2.0, available=1.0)
        return [answer(10.0 + plan.redundant)]

    found = plan_redundancy(16, 4, solved, price)
    assert [c.redundant for c in found.choices] == [0, 4, 8]
    assert found.best.redundant == 4
    assert found.choices[-1].to_dict()["why"] == "no room"
    with pytest.raises(InfeasibleError):
        plan_redundancy(16, 4, solved, lambda _: price(SimpleNamespace(redundant=99)))


def test_layers_that_gain_most_keep_their_copies():
    loads = np.ones((8, 16))
    loads[[1, 6], 3] = 20.0  # only these need copies
    even = {spare: solve(Problem(loads, 4, spare), "greedy") for spare in (0, 4, 8, 12)}

    def price(plan):
        # Copies cost memory in every layer that has them, and gain in the two that need them.
        worst = plan.load_imbalance(loads).sum()
        return [answer(100.0 / (worst + 0.02 * plan.mean_copies))]

    found = plan_redundancy(16, 4, even.__getitem__, price)
    assert found.best.redundant >= 4
    assert found.by_layer is not None
    assert set(found.by_layer.layers) == {1, 6}
    assert found.by_layer.output_throughput > found.best.output_throughput
    assert not found.by_layer.plan.full


def test_cache_shrinks_by_the_bytes_of_the_copies():
    model, hardware = load_model("qwen3-30b-a3b"), load_hardware("h100-sxm-8")
    loads = np.random.default_rng(0).lognormal(0.0, 0.7, (1, 48, 128)) * 1000
    counts = LoadCounts(loads, model.moe_layer_ids, model.top_k)
    placed = place(counts, model, hardware, ep=8, redundant="auto")
    first, second = placed.redundancy.choices[:2]
    one, two = first.answers[0].memory, second.answers[0].memory
    each = 3 * model.hidden * 768 * 2  # gate, up and down projections in 16 bits
    extra = (second.redundant - first.redundant) / 8 * 48 * each
    assert two["weights_bytes"] - one["weights_bytes"] == pytest.approx(extra)
    per_token = first.answers[0].memory["cache_bytes"] * 8 / (first.answers[0].running * (1024 + 512))
    assert first.cache_tokens - second.cache_tokens == pytest.approx(extra * 8 / per_token, rel=1e-6)
    assert placed.redundancy.best.output_throughput == max(
        c.output_throughput for c in placed.redundancy.choices[: 1 + placed.redundancy.best.redundant // 8]
    )
    assert placed.expert_map.redundant == placed.redundancy.best.redundant
    document = placed.to_dict()["redundancy"]
    assert document["best"] == placed.expert_map.redundant
    assert {c["redundant"] for c in document["choices"]} >= {0, 8}


def test_auto_needs_a_price_and_words_are_no_numbers():
    model = load_model("qwen3-30b-a3b")
    counts = LoadCounts(np.ones((1, 48, 128)), model.moe_layer_ids, model.top_k)
    with pytest.raises(ConfigError, match="needs a price"):
        place(counts, model, ep=8, redundant="auto")
    with pytest.raises(ConfigError, match="is no number"):
        place(counts, model, ep=8, redundant="many")
    idle = replace(counts, counts=np.where(np.arange(48)[None, :, None] == 7, 0.0, counts.counts))
    with pytest.raises(ConfigError, match="no load at all"):
        place(idle, model, ep=8)
