"""Named systems are compositions that can be replayed, and say what they assume."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moesim.errors import ConfigError, InfeasibleError, UnknownNameError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.offload import Box
from moesim.policy import Composition, split, taken
from moesim.policy.precisions import RankedPrecision
from moesim.systems.compositions import Shape, compositions, named
from moesim.systems.compositions.compare import compare
from moesim.trace import RoutingTrace, load_trace

VARIANTS = [
    (s.name, v) for s in compositions() for v in ("paper", "code") if v == "paper" or s.code is not None
]


def trace_of(top_k=2, layers=4, experts=8, weights=True, tokens=60):
    rng = np.random.default_rng(0)
    keys = rng.gumbel(size=(tokens, layers, experts)) + 2 * rng.random((layers, experts))
    ids = np.argsort(-keys, axis=2)[..., :top_k].astype(np.uint8)
    values = -np.sort(-rng.dirichlet(np.ones(top_k), (tokens, layers)), axis=2)
    return RoutingTrace(
        topk_ids=ids,
        request=np.repeat(np.arange(6, dtype=np.int32), tokens // 6),
        num_experts=experts,
        moe_layer_ids=tuple(range(layers)),
        position=np.tile(np.arange(tokens // 6, dtype=np.int32), 6),
        phase=np.ones(tokens, np.int8),
        topk_weights=values.astype(np.float16) if weights else None,
    )


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_system_can_be_asked(name, variant, top_k, weights):
    train, trace = split(trace_of(top_k, weights=weights), 0.5)
    found = named(name, trace, 8, variant)
    assert isinstance(found.composition, Composition)
    taught = found.composition.fit(train, trace)
    steps = taught.steps(trace)
    assert steps.num_steps == trace.num_tokens
    if taught.predictor is not None:
        guesses = taught.predictor.guess(steps)
        assert len(guesses.experts) > 0
        assert taught.transfer.width > 0
    if taught.precision is not None:
        levels = taught.precision.levels(steps)
        assert len(levels.wanted) == steps.accesses
        assert levels.wanted.max() < len(levels.bits)
    for assumption in found.assumed:
        assert assumption.low <= assumption.value <= assumption.high
        assert assumption.why


def test_paper_and_code_differ_where_both_are_given():
    trace = trace_of()
    for system in compositions():
        if system.code is None:
            continue
        paper, code = (named(system.name, trace, 8, v).composition for v in ("paper", "code"))
        slots = ("residency", "transfer", "gate", "executor")
        differs = [s for s in slots if getattr(paper, s) != getattr(code, s)]
        differs += [s for s in ("predictor", "precision")
                    if repr(getattr(paper, s)) != repr(getattr(code, s))]  # fmt: skip
        assert differs, system.name


def test_without_weights_rules_that_need_them_are_left_out_and_named():
    with_weights, ids_only = (named("hobbit", trace_of(weights=w), 8) for w in (True, False))
    assert isinstance(with_weights.composition.precision, RankedPrecision)
    assert ids_only.composition.precision is None
    assert any("router weights" in text for text in ids_only.lacks)
    assert not any("router weights" in text for text in with_weights.lacks)


def test_assumed_values_are_set_by_name():
    trace = trace_of()
    found = named("adapmoe", trace, 8, values={"next_gate_recall": 0.5})
    assert found.composition.predictor.recall == 0.5
    assert found.assumed[0].value != 0.5  # what would be assumed is told all the same
    with pytest.raises(ConfigError, match="is no assumption of adapmoe"):
        named("adapmoe", trace, 8, values={"recall": 0.5})


def test_names_are_found_however_they_are_written():
    trace = trace_of()
    assert named("MoE Infinity", trace, 8).system.name == "moe-infinity"
    assert named("llamacpp", trace, 8).system.name == "llama.cpp"
    with pytest.raises(UnknownNameError, match="nearest: hybrimoe"):
        named("hybridmoe", trace, 8)
    with pytest.raises(ConfigError, match="--variant"):
        named("fmoe", trace, 8, "draft")


def test_a_ring_has_as_many_layers_as_fit():
    trace = trace_of()
    rings = [named("se-moe", trace, slots).composition.predictor for slots in (8, 16, 24, 99)]
    assert [ring.distance for ring in rings] == [1, 1, 2, 3]


def test_llama_cpp_keeps_the_last_layers_whole():
    placement = named("llama.cpp", trace_of(), 20).composition.placement
    quota = placement.quota(20, trace_of())
    assert quota.tolist() == [0, 0, 8, 8]
    assert placement.resident(quota, trace_of()).sum(axis=1).tolist() == [0, 0, 8, 8]


def test_a_system_that_learns_is_marked():
    trace = trace_of()
    for system in compositions():
        taught = {v: named(system.name, trace, 8, v).composition for v in ("paper", "code")}
        needs = any(_learns(c) for c in taught.values())
        assert system.learns == needs, system.name


def _learns(composition):
    """Whether it cannot do without a trace to learn from."""
    from moesim.policy import token_steps

    trace = trace_of()
    if composition.residency.start == "popular" or composition.placement is not None:
        return True
    try:
        composition.steps(trace)
        if composition.predictor is not None:
            composition.predictor.guess(token_steps(trace))
        if composition.precision is not None:
            composition.precision.levels(token_steps(trace))
    except ConfigError:
        return True
    return False


def test_a_shape_is_that_of_the_trace():
    assert Shape.of(trace_of(), 9) == Shape(4, 8, 2, True, 9)
    assert Shape.of(trace_of(weights=False), 9).weights is False
    assert Shape(4, 8, 2, True, 9).per_layer == 2


@pytest.fixture(scope="module")
def outcomes():
    """Every system on the bundled trace, one box and memory."""
    trace = load_trace("traces/gpt-oss-20b-synthetic.npz")
    train, rest = split(trace, 0.5)
    box = Box.of(load_hardware("rtx-4090-workstation"), load_model("gpt-oss-20b"))
    names = [s.name for s in compositions()]
    return compare(names, taken(rest, slice(60)), box, 192, train=train, variants=("paper", "code"))


def test_every_system_is_replayed_and_keeps_its_bounds(outcomes):
    assert {o.named.system.name for o in outcomes} == {s.name for s in compositions()}
    for outcome in outcomes:
        name, timed = outcome.named.system.name, outcome.timed
        if name in ("duplex", "monde"):
            assert "no near-data unit" in outcome.refused
            continue
        assert timed is not None, (name, outcome.refused)
        assert 0 <= timed.hits <= timed.accesses <= 60 * 24 * 4
        assert timed.seconds >= timed.bounds["no_stall"] * (1 - 1e-9), name
        if timed.bounds["link"] is not None:
            assert timed.seconds >= timed.bounds["link"] * (1 - 1e-9), name
        assert timed.slots.sum() <= 192 or outcome.named.composition.precision is not None


def test_the_future_known_is_not_beaten_by_its_equals(outcomes):
    # One pool, on demand, experts in the model's own bits, all of them computed on the GPU.
    by = {(o.named.system.name, o.named.variant): o.timed for o in outcomes if o.timed is not None}
    best = by["belady-oracle", "paper"]
    for key in (("lru", "paper"), ("moe-infinity", "code"), ("towards-moe-deployment", "paper")):
        assert best.loads <= by[key].loads
        assert best.hits >= by[key].hits
    assert by["on-demand", "paper"].hits == 0
    assert by["read-me", "paper"].hits >= best.hits  # the same knowledge, and fetched ahead


def test_outcomes_are_plain_values(outcomes):
    for outcome in outcomes:
        document = outcome.to_dict()
        assert document["system"] == outcome.named.system.name
        json.dumps(document, allow_nan=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e9])
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_wild_values_are_taken_or_refused(name, variant, value):
    train, trace = split(trace_of(), 0.5)
    for assumption in named(name, trace, 8, variant).assumed:
        try:
            found = named(name, trace, 8, variant, {assumption.name: value})
            taught = found.composition.fit(train, trace)
            if taught.predictor is not None:
                taught.predictor.guess(taught.steps(trace))
        except (ConfigError, InfeasibleError):
            continue
        assert np.isfinite(value)
