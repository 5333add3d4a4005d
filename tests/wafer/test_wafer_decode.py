"""Decode steps on a wafer: conservation, copies, leaks, and real traces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost import ExpertShape
from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.hardware.types import Cache
from moesim.model import load_model
from moesim.policy import split
from moesim.trace import RoutingTrace, load_trace
from moesim.wafer import (
    POLICIES,
    Forecast,
    Wafer,
    copy_slots,
    layer_cost,
    learn,
    replay,
    spread,
    step_counts,
    streams,
)
from moesim.wafer import shared as over_all
from moesim.wafer.forecast import keep

SHAPE = ExpertShape(2048, 1408, 3, "bf16")


def wafer(rows=2, columns=3):
    cache = Cache(64e6, 100e-9, 110e-9, 30e-9)
    return Wafer((rows, columns), 1e15, 3e12, 300e-9, 80e9, 1e12, 200e-9, cache)


def some_counts(steps=3, layers=2, experts=12, tokens=600, top_k=2, seed=0):
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0, 0.8, (layers, experts))
    share /= share.sum(axis=1, keepdims=True)
    return np.array([[rng.multinomial(tokens * top_k, p) for p in share] for _ in range(steps)])


def knows_all(layers=2, experts=12):
    even = np.full((layers, experts, experts), 1.0 / experts)
    return Forecast(even, even[:, 0])


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_reads_each_expert_once_at_least_and_counts_its_tokens(policy):
    counts = some_counts()
    found = replay(wafer(), SHAPE, counts, 2, policy, forecast=knows_all(), slots=3)
    assert found.tokens == 3 * 600
    least = (counts > 0).sum() * SHAPE.weight_bytes
    assert found.local_bytes + found.remote_bytes >= least * (1 - 1e-9)
    assert found.tokens_per_s == pytest.approx(1800 / found.seconds)


def test_experts_at_home_move_nothing_and_base_moves_all_but_its_own_part():
    counts = some_counts()
    home, base = (replay(wafer(), SHAPE, counts, 2, policy) for policy in ("ep", "base"))
    assert home.remote_bytes == home.hops == home.byte_hops == 0
    assert base.remote_bytes == pytest.approx(5 * base.local_bytes)
    assert base.local_bytes + base.remote_bytes == pytest.approx(home.local_bytes)


def test_base_is_one_layer_after_the_other():
    counts = some_counts()
    machine, owner = wafer(), spread(12, 6)
    seconds = sum(
        layer_cost(machine, SHAPE, over_all(load.astype(float), 6), owner, in_order=True).seconds
        for step in counts
        for load in step
    )
    assert replay(machine, SHAPE, counts, 2, "base").seconds == pytest.approx(seconds)


def test_copies_of_everything_leave_only_the_first_step_remote():
    counts = some_counts() + 1
    first = replay(wafer(), SHAPE, counts[:1], 2, "base")
    found = replay(wafer(), SHAPE, counts, 2, "pred", forecast=knows_all(), candidates=12, slots=12)
    assert found.remote_bytes == pytest.approx(first.remote_bytes)
    assert found.written_bytes == pytest.approx(found.remote_bytes)
    later = replay(wafer(), SHAPE, counts, 2, "pred", forecast=knows_all(), candidates=12, slots=12, warm=1)
    assert later.remote_bytes == later.hops == 0
    assert later.seconds < replay(wafer(), SHAPE, counts, 2, "base", warm=1).seconds


@given(st.integers(0, 12), st.integers(0, 1000))
@settings(max_examples=15)
def test_more_room_never_moves_more(slots, seed):
    counts = some_counts(seed=seed)
    less, more = (
        replay(wafer(), SHAPE, counts, 2, "pred", forecast=knows_all(), candidates=12, slots=n, warm=1)
        for n in (slots, slots + 1)
    )
    assert more.remote_bytes <= less.remote_bytes * (1 + 1e-9)


def test_without_room_a_forecast_changes_nothing():
    counts = some_counts()
    none = replay(wafer(), SHAPE, counts, 2, "pred", forecast=knows_all(), slots=0)
    assert none == replay(wafer(), SHAPE, counts, 2, "base")


@given(st.integers(0, 5), st.integers(0, 10_000))
def test_keeping_follows_room_and_score(slots, seed):
    rng = np.random.default_rng(seed)
    copies, read = rng.random((8, 3)) < 0.3, rng.random((8, 3)) < 0.5
    score = rng.random((8, 3)) * (rng.random((8, 3)) < 0.7)
    kept = keep(copies, read, score, slots)
    wanted = copies | (read & (score > 0))
    assert not (kept & ~wanted).any()
    assert (kept.sum(axis=0) == np.minimum(wanted.sum(axis=0), slots)).all()
    for die in range(3):
        out = wanted[:, die] & ~kept[:, die]
        if out.any() and kept[:, die].any():
            assert score[out, die].max() <= score[kept[:, die], die].min()


def test_room_is_what_experts_leave():
    machine = Wafer.of(load_hardware("dojo-wafer"))
    model = load_model("deepseek-v3")
    shape = ExpertShape(model.hidden, 2048, 3, "bf16")
    # 8 GB over 58 layers of 88 MB; a twenty-fifth of an expert has room for as many times more.
    assert copy_slots(machine, shape, 58, 256, 0.1) == 1
    assert copy_slots(machine, shape, 58, 256, 0.1, 1 / 25) == 39
    with pytest.raises(InfeasibleError):
        copy_slots(machine, shape, 60, 384, 0.1)


def counted_trace(requests=8, length=12, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((requests * length, 3, 6)), axis=2)[:, :, :2].astype(np.uint8)
    position = np.tile(np.arange(length, dtype=np.int32), requests)
    request = np.repeat(np.arange(requests, dtype=np.int32), length)
    return RoutingTrace(ids, request, 6, (0, 1, 2), position, (position >= 4).astype(np.int8))


def test_pieces_of_requests_make_steps():
    trace = counted_trace()
    run = streams(trace, 10, 5)
    assert run.num_tokens == 50
    counts = step_counts(run, 5)
    assert counts.shape == (5, 3, 6)
    assert (counts.sum(axis=2) == 20).all()
    # Two pieces of each request: the first tokens of the pieces are the first step.
    rows = (np.arange(5)[:, None] * 12 + np.array([0, 5])).ravel()
    by_hand = [np.bincount(trace.topk_ids[rows, layer].ravel(), minlength=6) for layer in range(3)]
    assert (counts[0] == by_hand).all()
    with pytest.raises(ConfigError, match="at most 16 sequences of 5 tokens"):
        streams(trace, 17, 5)


def test_tables_are_learnt_from_other_requests_alone():
    trace = counted_trace()
    train, rest = split(trace, 0.5)
    known = learn(train, rest)
    assert known.follow.sum(axis=2) == pytest.approx(np.ones((3, 6)))
    with pytest.raises(ConfigError, match="requests that are replayed"):
        learn(trace, rest)
    prompts = np.bincount(train.topk_ids[train.phase == 0, 1].ravel(), minlength=6)
    assert known.popular[1] == pytest.approx(prompts / prompts.sum())


def test_likeliest_followers():
    follow = np.array([[[0.5, 0.3, 0.2], [0.0, 0.0, 1.0], [0.4, 0.4, 0.2]]])
    top = Forecast(follow, follow[:, 0]).top(1)
    assert top.tolist() == [[[True, False, False], [False, False, True], [True, True, False]]]


def test_what_cannot_be_replayed_is_said_at_once():
    with pytest.raises(ConfigError) as told:
        replay(wafer(), SHAPE, some_counts(), 2, "best", predict="luck", warm=3)
    for word in ("best", "luck", "warm"):
        assert word in str(told.value)
    with pytest.raises(ConfigError, match="needs a forecast"):
        replay(wafer(), SHAPE, some_counts(), 2, "pred")


def test_real_routing_gains_what_the_docs_say(shared):
    model = load_model("deepseek-v2-lite")
    shape = ExpertShape(model.hidden, model.moe.intermediate, 3, "bf16")
    die = load_hardware("h100-sxm-8").device.processor.efficiency_of("expert_gemm", "bf16")
    machine = Wafer.of(load_hardware("dojo-wafer"), "bf16", die)
    train, rest = split(load_trace(shared("traces/esft-deepseek-v2-lite/summary.npz"), shape=model), 0.5)
    counts = step_counts(streams(rest, 512, 6), 6)
    slots = copy_slots(machine, shape, 26, 64, 0.1, 1 / 25)
    found = {
        policy: replay(machine, shape, counts, 6, policy, forecast=learn(train, rest), slots=slots, warm=3)
        for policy in ("base", "ep", "allo", "pred")
    }
    gains = {policy: found["base"].seconds / one.seconds for policy, one in found.items()}
    assert gains["ep"] == pytest.approx(7.68, rel=0.01)
    assert gains["allo"] == pytest.approx(gains["ep"])
    assert gains["pred"] == pytest.approx(3.29, rel=0.01)
    assert found["base"].byte_hops / found["pred"].byte_hops == pytest.approx(5.04, rel=0.01)
