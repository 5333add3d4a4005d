"""Advice: the search finds what trying everything finds, sees nothing held out, and its ladder adds up."""

from __future__ import annotations

import json

import numpy as np
import pytest

import moesim as ms
from moesim.cli.replay_advice import box_of
from moesim.errors import ConfigError, InfeasibleError
from moesim.offload import Box
from moesim.policy import Composition, Executor, Residency, Transfer
from moesim.policy.batchers import Batches, ModuleBatches, UnionMinimising, ZigZag
from moesim.policy.gates import EqualWeights, FewerExperts
from moesim.policy.placements import Popular
from moesim.policy.predictors import Markov, NextGate, NoisyOracle
from moesim.policy.split import overlap, split
from moesim.systems.optimise import Option, Scorer, described, optimise, options_of, search
from moesim.systems.optimise.advice import some
from moesim.systems.optimise.describe import changes_results, needs_future, with_slot
from moesim.systems.optimise.ladder import differing, reverted, simplified, upward
from moesim.systems.optimise.scoring import sequences_of

TRACE = "traces/gpt-oss-20b-synthetic.npz"


@pytest.fixture(scope="module")
def parts():
    train, rest = split(ms.load_trace(TRACE), 0.5)
    seen, held = split(rest, 0.5)
    return train, some(seen, 300, 0), some(held, 300, 0)


@pytest.fixture(scope="module")
def box():
    return box_of(ms.load_hardware("rtx-4090-64core"), ms.load_model("gpt-oss-20b"), 0.25)


def small(trace):
    """Some options of two slots, enough to have an interplay."""
    every = options_of(trace)
    return {"memory": every["memory"][:4], "executor": every["executor"][:3]}


def test_the_search_finds_what_trying_everything_finds(parts, box):
    train, seen, _ = parts
    options = small(seen)
    found = search(Scorer(seen, train, box), [Composition()], options)
    apart = Scorer(seen, train, box)
    every = [
        apart(executor.on(memory.on(Composition())))
        for memory in options["memory"]
        for executor in options["executor"]
    ]
    assert found.settled
    assert found.best.value == min(scored.value for scored in every)
    assert found.evaluations <= len(every) + 1


def test_the_same_search_ends_the_same(parts, box):
    train, seen, _ = parts
    one, two = (search(Scorer(seen, train, box), [Composition()], small(seen)) for _ in range(2))
    assert one.best.value == two.best.value
    assert described(one.best.composition) == described(two.best.composition)


def test_the_search_keeps_to_its_replays(parts, box):
    train, seen, _ = parts
    scorer = Scorer(seen, train, box)
    seen_best = []
    found = search(
        scorer,
        [Composition()],
        small(seen),
        evaluations=5,
        progress=lambda n, s: seen_best.append((n, s.value)),
    )
    assert found.evaluations == scorer.evaluations == 5
    assert not found.settled
    values = [value for _, value in seen_best]
    assert values == sorted(values, reverse=True)
    assert values[-1] == found.best.value


def test_throughput_counts_upwards_and_batches_take_memory(parts, box):
    train, seen, _ = parts
    options = {"batcher": options_of(seen, batch=True, requests=8)["batcher"][:3]}
    scorer = Scorer(seen, train, box, "throughput")
    found = search(scorer, [Composition(residency=Residency(lookup="token_batch"))], options)
    values = [
        scorer(option.on(Composition(residency=Residency(lookup="token_batch")))).value
        for option in options["batcher"]
    ]
    assert found.best.value == max(values)
    assert box(8).slots < box(1).slots
    with pytest.raises(InfeasibleError):
        box(1000)


def test_sequences_that_a_batcher_holds():
    assert sequences_of(Composition().batcher) == 1
    assert sequences_of(Batches(4)) == 4
    assert sequences_of(ZigZag(4, 3)) == 12
    assert sequences_of(ModuleBatches(9, 3)) == 9
    assert sequences_of(UnionMinimising(5)) == 10


def test_a_ladder_leads_from_one_composition_to_the_other(parts, box):
    train, seen, held = parts
    scorer, apart = Scorer(seen, train, box), Scorer(held, train, box)
    start = Composition(residency=Residency("lru", lookup="token_batch"))
    winner = Composition(
        residency=Residency("lfu", lookup="token_batch"),
        predictor=Markov(4),
        transfer=Transfer(width=4),
        executor=Executor("cheapest"),
    )
    up, down = upward(start, winner, scorer, apart), reverted(winner, start, scorer, apart)
    assert sorted(rung.slot for rung in up) == sorted(differing(start, winner))
    assert {rung.slot for rung in down} == {"residency", "prefetch", "executor"}
    assert up[-1].scored == scorer(winner).value
    assert up[-1].held == apart(winner).value
    first = min(scorer(with_slot(start, slot, winner)).value for slot in differing(start, winner))
    assert up[0].scored == first
    for rung in down:
        assert rung.held == apart(with_slot(winner, rung.slot, start)).value


def test_changes_that_bring_nothing_are_taken_back(parts, box):
    train, seen, _ = parts
    scorer = Scorer(seen, train, box)
    start = Composition(
        residency=Residency("static", lookup="token_batch", start="popular"), executor=Executor("mask")
    )
    # The same experts are resident, said in other words.
    winner = scorer(
        Composition(
            residency=Residency("static", lookup="token_batch"),
            placement=Popular(across=False),
            executor=Executor("mask"),
        )
    )
    assert differing(start, winner.composition) == ["residency", "placement"]
    assert described(simplified(winner, scorer(start), scorer).composition) == described(start)


def test_what_a_search_may_not_take_is_told_apart():
    assert needs_future(Composition(residency=Residency("belady")))
    assert needs_future(Composition(predictor=NoisyOracle()))
    assert not needs_future(Composition(predictor=NextGate(2, 0.9)))
    assert not needs_future(Composition(predictor=NoisyOracle(0.9, 0.9)))
    assert changes_results(Composition(executor=Executor("defer")))
    assert not changes_results(Composition())
    # Weights that a rule reads and the trace lacks do not change what the model computes.
    assert not changes_results(Composition(gate=EqualWeights()))
    assert changes_results(Composition(gate=FewerExperts(1)))


def test_options_keep_results_unless_lossy(parts):
    _, seen, _ = parts
    for lossy in (False, True):
        every = [o for some_ in options_of(seen, lossy=lossy, batch=True).values() for o in some_]
        assert any(changes_results(o.on(Composition())) for o in every) == lossy
        assert not any(needs_future(o.on(Composition())) for o in every)
        names = [tuple(described(o.on(Composition())).values()) for o in every if o.slot != "batcher"]
        assert all(isinstance(o, Option) for o in every)
        assert len(set(names)) >= len(names) - 3  # what each slot has by default is in all of them


def test_advice_beats_the_named_systems_and_says_by_what(moesim):
    status, out, err = moesim(
        "replay", TRACE, "--optimise", "--model", "gpt-oss-20b", "--hardware", "rtx-4090-64core",
        "--system", "lru,mixtral-offloading,fiddler,belady-oracle,qmoe", "--tokens", 200,
        "--evaluations", 40, "--json",
    )  # fmt: skip
    assert status == 0
    found = json.loads(out)
    assert "named systems; best" in err
    assert found["provenance"]["seed"] == 0
    names = {(row["system"], row["variant"]): row for row in found["systems"]}
    assert ("fiddler", "code") in names
    assert names["qmoe", "paper"]["changes_results"]
    assert names["belady-oracle", "paper"]["needs_future"]
    fair = [row for row in found["systems"] if not (row["changes_results"] or row["needs_future"])]
    assert found["best"]["scored"] <= min(row["scored"] for row in fair)
    against = names[found["against"]["system"], found["against"]["variant"]]
    assert found["gain"] == pytest.approx(against["held"] / found["best"]["value"])
    assert found["best"]["bounds"]["tpot_s"] <= found["best"]["value"]
    if found["up"]:
        assert found["up"][-1]["held"] == found["best"]["value"]
    assert found["best"]["slots"]["gate"] == "as routed"


def test_the_table_of_advice(moesim):
    status, out, _ = moesim(
        "replay", TRACE, "--optimise", "--model", "gpt-oss-20b", "--hardware", "rtx-4090-64core",
        "--system", "lru,fiddler", "--tokens", 200, "--evaluations", 20,
    )  # fmt: skip
    assert status == 0
    for text in ("Best composition", "slot by slot", "gain on held-out requests", "executor"):
        assert text in out


def test_lossy_advice_may_change_results_and_ttft_is_of_prompts(moesim):
    values = {}
    for name, more in (("exact", ()), ("lossy", ("--lossy",)), ("ttft", ("--objective", "ttft"))):
        status, out, _ = moesim(
            "replay", TRACE, "--optimise", "--model", "gpt-oss-20b", "--hardware", "rtx-4090-64core",
            "--system", "fiddler", "--tokens", 100, "--evaluations", 12, "--json", *more,
        )  # fmt: skip
        assert status == 0
        found = json.loads(out)
        values[name] = found["best"]
        assert found["best"]["scored"] <= min(row["scored"] for row in found["systems"])
        assert found["best"]["slots"]["batcher"] == "Batches"  # prompts are taken whole
    assert values["exact"]["slots"]["precision"] == "the model's"
    assert values["lossy"]["slots"]["precision"] != "the model's"
    assert values["ttft"]["value"] == values["ttft"]["ttft_s"]


def test_parts_share_no_text():
    trace = ms.load_trace(TRACE)
    train, rest = split(trace, 0.5, 0)
    seen, held = split(rest, 0.5, 1)
    assert not overlap(train, seen).leaked
    assert not overlap(seen, held).leaked
    part = some(held, 100, 3)
    assert 0 < part.num_tokens < held.num_tokens
    assert np.isin(part.request, held.request).all()


def test_faults_are_told_together(moesim):
    trace, box = (
        ms.load_trace(TRACE),
        box_of(ms.load_hardware("rtx-4090-64core"), ms.load_model("gpt-oss-20b"), 0.3),
    )
    with pytest.raises(ConfigError) as caught:
        optimise(trace, box, objective="speed", tokens=0, evaluations=0)
    assert len(caught.value.faults) == 3
    assert isinstance(box(1), Box)
    for arguments in (
        ("--objective", "speed"),
        ("--cache-fraction", "1.5"),
        ("--model", "mixtral-8x7b"),
        ("--system", "fidler"),
        ("--train", TRACE, "--assume", "recall=1"),
        ("--system", "qmoe"),
    ):
        status, _, err = moesim(
            "replay", TRACE, "--optimise", "--model", "gpt-oss-20b", "--tokens", 50, *arguments
        )
        assert status == 2, arguments
        assert err
