"""Loads with their slots, followed on a memory that holds what was written last."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.offload import Box, run
from moesim.offload.pools import RULES
from moesim.policy import Composition, Constant, Executor, Residency, Transfer
from moesim.policy.predictors import NoisyOracle, oracle
from moesim.reference.layer import Case, LayerShape
from moesim.reference.placed import placed, placed_case, warm_up_tokens
from moesim.residency import replay
from moesim.trace import RoutingTrace
from tests.residency.oracles import make_steps


def follow(found, steps, quota, spares):
    """Write every load into a memory; whoever runs must lie where it is said to, alone and once."""
    memory = np.full(found.slots, -1)
    pool_of = np.arange(found.layers) if len(quota) == found.layers else np.zeros(found.layers, int)
    resident, loads = {}, 0
    assert found.slots == quota.sum() + spares

    def write(load):
        if load.victim >= 0:
            assert resident.pop(load.victim) is not None
            assert pool_of[load.victim // found.num_experts] == pool_of[load.expert // found.num_experts]
        assert load.slot not in resident.values(), "the slot of somebody who stays"
        assert load.expert not in resident
        memory[load.slot] = load.expert
        if load.stays:
            resident[load.expert] = load.slot
            held = [pool_of[x // found.num_experts] for x in resident]
            assert (np.bincount(held, minlength=len(quota)) <= quota).all()

    for number, cell in enumerate(found.cells):
        base = number % found.layers * found.num_experts
        if cell.fill is not None:
            resident.clear()
        if steps.num_steps * steps.layers < 40:
            before = found.before(number).ravel()
            assert {int(x): int(before[x]) for x in np.flatnonzero(before >= 0)} == (
                {load.expert: load.slot for load in cell.fill} if cell.fill is not None else resident
            )
        for load in (*(cell.fill or ()), *cell.ahead):
            write(load)
        asked = steps.experts[steps.starts[number] : steps.starts[number + 1]].tolist()
        ran, there = [], {x - base for x in resident}
        for part in cell.rounds:
            for load in part.loads:
                write(load)
                assert load.expert - base in part.runs
            slots = part.slot_of_expert
            for e in np.flatnonzero(slots >= 0):
                assert memory[slots[e]] == base + e
            assert (slots[part.runs] >= 0).all()
            assert len(set(slots[slots >= 0].tolist())) == (slots >= 0).sum()
            waiting = set(asked) - set(ran) - set(part.runs.tolist())
            assert (slots[[*ran, *waiting]] == -1).all()
            ran += part.runs.tolist()
        assert sorted(ran) == sorted(asked)
        assert cell.loads == sum(len(part.loads) for part in cell.rounds) == len(asked) - cell.hits
        assert len(there & set(asked)) >= cell.hits
        loads += cell.loads
    assert loads == found.loads


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25)
@given(data=st.data())
def test_counts_are_those_of_the_cache_replay_and_memory_holds_what_runs(rule, data):
    layers, experts, steps = (data.draw(st.integers(1, most)) for most in (3, 6, 10))
    cell = st.lists(st.integers(0, experts - 1), min_size=1, max_size=min(3, experts), unique=True)
    asked = [[data.draw(cell) for _ in range(layers)] for _ in range(steps)]
    one_pool = data.draw(st.booleans())
    lookup = data.draw(st.sampled_from(("sequential", "token_batch")))
    pools = 1 if one_pool else layers
    quota = np.full(pools, data.draw(st.integers(0, experts * layers // pools)))
    request = sorted(data.draw(st.lists(st.integers(0, 2), min_size=steps, max_size=steps)))
    weights = [1 / 4] * sum(len(c) for step in asked for c in step)
    of = make_steps(asked, experts, request, weights)
    residency = Residency(
        rule,
        pool="global" if one_pool else "layer",
        lookup=lookup,
        reset=data.draw(st.sampled_from(("never", "request"))),
    )
    spares = data.draw(st.integers(1, 3))
    found = placed(Composition(residency), of, quota, spares=spares)
    follow(found, of, quota, spares)
    assert sum(len(c.ahead) for c in found.cells) == 0
    if lookup == "sequential" or quota.min() >= 3 or quota.max() == 0:
        # A cell that does not fit: the cache lets through what passes through a spare slot here.
        expected = replay(of, residency, quota)
        assert found.counts["hits"].tolist() == expected.hits.tolist()
        assert found.counts["loads"].tolist() == expected.misses.tolist()


@settings(max_examples=50)
@given(data=st.data())
def test_with_copies_ahead_too(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    layers, experts, steps = 3, 8, 12
    rows = [[rng.permutation(experts)[:2].tolist() for _ in range(layers)] for _ in range(steps)]
    of = make_steps(rows, experts)
    one_pool = data.draw(st.booleans())
    quota = np.full(1 if one_pool else layers, data.draw(st.integers(1, 5)) * (layers if one_pool else 1))
    residency = Residency(
        data.draw(st.sampled_from(("lru", "fifo", "lfu", "belady"))),
        pool="global" if one_pool else "layer",
        lookup=data.draw(st.sampled_from(("sequential", "token_batch"))),
        start=data.draw(st.sampled_from(("empty", "first", "random"))),
    )
    guess = NoisyOracle(
        recall=data.draw(st.sampled_from((0.5, 1.0))), precision=0.7, horizon=2, wrap=True, seed=steps
    )
    transfer = Transfer(width=data.draw(st.integers(1, 3)), distance=data.draw(st.integers(1, 2)))
    found = placed(Composition(residency, transfer, predictor=guess), of, quota, spares=2)
    follow(found, of, quota, 2)
    fetched = sum(len(cell.ahead) for cell in found.cells)
    assert fetched == found.counts["prefetched"].sum()
    assert found.counts["hits"].sum() == sum(cell.hits for cell in found.cells)


def test_all_that_fits_is_fetched_where_the_next_layer_is_known():
    rng = np.random.default_rng(0)
    rows = [[rng.permutation(8)[:2].tolist() for _ in range(4)] for _ in range(20)]
    of = make_steps(rows, 8)
    residency = Residency("lru", lookup="token_batch")
    exact = NoisyOracle(wrap=True)
    found = placed(Composition(residency, Transfer(width=2), predictor=exact), of, 16)
    assert [cell.loads for cell in found.cells] == [2] + [0] * 79
    assert placed(Composition(residency), of, 16).loads > 80
    half = placed(Composition(residency, Transfer(width=1), predictor=exact), of, 16)
    assert max(len(cell.ahead) for cell in half.cells) == 1


def test_victims_are_those_of_a_dictionary_in_order_of_use():
    rng = np.random.default_rng(1)
    rows = [[rng.permutation(12)[:3].tolist() for _ in range(2)] for _ in range(60)]
    found = placed(Composition(Residency("lru")), make_steps(rows, 12), np.array([4, 6]))
    for layer, room in ((0, 4), (1, 6)):
        held, victims = OrderedDict(), []
        for row in rows:
            for e in row[layer]:
                if e not in held and len(held) == room:
                    victims.append(held.popitem(last=False)[0])
                held[e] = None
                held.move_to_end(e)
        loads = [load for cell in found.cells[layer::2] for part in cell.rounds for load in part.loads]
        assert [load.victim - 12 * layer for load in loads if load.victim >= 0] == victims


@pytest.mark.parametrize("ahead", [0, 3])
def test_on_a_box_the_decisions_are_those_of_the_timed_replay(ahead):
    box = Box.of(load_hardware("rtx-4090-workstation"), load_model("gpt-oss-20b"))
    rng = np.random.default_rng(2)
    ids = np.argsort(rng.random((12, 24, 32)) + np.arange(32) / 20, axis=2)[:, :, :4].astype(np.uint8)
    place = np.arange(12, dtype=np.int32)
    trace = RoutingTrace(ids, place * 0, 32, tuple(range(24)), place, np.ones(12, np.int8))
    made = Composition(
        Residency("lru", lookup="token_batch"), Transfer(width=ahead, distance=2), predictor=NoisyOracle(0.8)
    )
    timed = run(made, trace, box, slots=192)
    found = placed(made, trace, 192, box=box)
    for name, counted in timed.counts.items():
        assert found.counts[name].tolist() == counted.tolist(), name
    fetched = sum(len(cell.ahead) for cell in found.cells)
    assert fetched == timed.total("prefetched")
    assert (fetched > 0) == (ahead > 0)
    if ahead:  # the link has no time for what copies without time would bring
        assert fetched < placed(made, trace, 192).counts["prefetched"].sum()


def case_of(**changes) -> Case:
    return Case(LayerShape("small", 16, 2, 64, 64), **{"tokens": 4, **changes})


def drawn(case: Case, seed: int = 0):
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((case.tokens, case.shape.num_experts)), axis=1)[
        :, : case.shape.top_k
    ].astype(np.int32)


def test_with_everything_on_the_device_a_run_loads_nothing():
    case = case_of()
    found = placed_case(case, drawn(case))
    assert (found.loads, len(found.cell.rounds)) == (0, 1)
    assert found.resident.tolist() == found.cell.rounds[0].slot_of_expert.tolist() == list(range(16))


def test_on_demand_every_expert_passes_through_the_spare_slots():
    case = case_of(offloaded=0.25)
    ids = drawn(case)
    found = placed_case(case, ids, rule="on-demand", spares=3)
    asked = len(np.unique(ids))
    assert (found.loads, found.hits, found.slots) == (asked, 0, 3)
    assert len(found.cell.rounds) == -(-asked // 3)


def test_what_is_static_stays_and_everything_else_passes():
    case = case_of(offloaded=0.5, tokens=64)
    found = placed_case(case, drawn(case), rule="static")
    assert (found.hits, found.loads) == (8, 8)
    assert not any(load.stays for part in found.cell.rounds for load in part.loads)
    assert len(found.cell.rounds) == 4


def test_a_run_for_all_experts_cannot_push_out_what_it_needs_itself():
    case = case_of(offloaded=0.75, tokens=64)
    found = placed_case(case, drawn(case), rule="lru")
    assert (found.hits, found.loads) == (4, 12)
    assert found.cell.rounds[0].runs[:4].tolist() == sorted(np.flatnonzero(found.resident >= 0).tolist())


def test_the_same_experts_for_all_tokens_are_there_after_the_first_step():
    case = case_of(offloaded=0.75, routing="one-hot")
    same = np.tile(np.array([[5, 9]], np.int32), (case.tokens, 1))
    before = np.tile(same[:1], (warm_up_tokens(case), 1))
    found = placed_case(case, same, before=before)
    assert (found.hits, found.loads) == (2, 0)


def test_a_run_is_the_same_from_the_same_seed_and_another_from_another():
    def loads(seed):
        case = case_of(offloaded=0.5, seed=seed)
        found = placed_case(case, drawn(case))
        return [load for part in found.cell.rounds for load in part.loads], found.resident.tolist()

    assert loads(1) == loads(1)
    assert len({str(loads(seed)) for seed in range(8)}) > 4


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from((0.25, 0.5, 0.75)), st.sampled_from((1, 4, 16)))
def test_a_run_begins_from_what_lies_there(seed, offloaded, tokens):
    case = case_of(offloaded=offloaded, tokens=tokens, seed=seed)
    ids = drawn(case, seed)
    found = placed_case(case, ids)
    there = set(np.flatnonzero(found.resident >= 0).tolist())
    assert len(there) == 16 - round(16 * offloaded)
    assert found.hits == len(there & set(ids.ravel().tolist()))
    memory = {int(found.resident[e]): e for e in there}
    for part in found.cell.rounds:
        memory |= {load.slot: load.expert for load in part.loads}
        assert all(memory[int(part.slot_of_expert[e])] == e for e in part.runs.tolist())


def test_a_predictor_may_fetch_for_the_run():
    case = case_of(offloaded=0.5)
    made = Composition(
        Residency("lru", lookup="token_batch", start="first"), Transfer(width=4), predictor=oracle(1)
    )
    found = placed_case(case, drawn(case), rule=made)
    assert found.hits + found.loads == len(np.unique(drawn(case)))


def test_faults_are_all_told():
    of = make_steps([[[0]]], 2)
    made = Composition(
        transfer=Transfer(preemptible=True), executor=Executor("mask"), precision=Constant(4.0)
    )
    with pytest.raises(ConfigError) as caught:
        placed(made, of, 1, spares=0)
    assert {"executor", "precision", "transfer.preemptible", "spares"} <= {
        fault.where for fault in caught.value.faults
    }
    with pytest.raises(ConfigError, match="on-demand"):
        placed_case(case_of(), drawn(case_of()), rule="newest")
    with pytest.raises(ConfigError, match="weights"):
        placed_case(case_of(), drawn(case_of()), rule="mrs")
