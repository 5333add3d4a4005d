"""Serving from a box whose experts do not fit its device."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from moesim.engine.traits import Traits
from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.offload import Box, run
from moesim.policy import Composition, Executor, Residency
from moesim.policy.batchers import Continuous
from moesim.prediction import Engine
from moesim.requests import request_trace
from moesim.serving.offloaded import cache_bytes, offloaded, serve_offloaded
from moesim.serving.settings import Scheduler
from moesim.serving.state import LOG_START
from moesim.trace import load_trace

ROOT = Path(__file__).parents[2]
MODEL, HARDWARE = load_model("gpt-oss-20b"), load_hardware("rtx-3060-desktop")
BUDGET, MOST, LONGEST = 512, 16, 2048
EVERY = 24 * 32


@pytest.fixture(scope="module")
def trace():
    return load_trace(ROOT / "traces" / "gpt-oss-20b-synthetic.npz")


@pytest.fixture(scope="module")
def box():
    return Box.of(HARDWARE, MODEL)


def holding(box, share):
    """The box with room for some of the experts, and one slot to load into."""
    return replace(box, expert_bytes=box.widths[0].bytes * (EVERY * share + 1.5))


def composition(kind="gpu", start="first"):
    return Composition(Residency("lru", lookup="token_batch", start=start), executor=Executor(kind))


def priced(box, trace, kind="gpu", **rest):
    return offloaded(box, composition(kind), trace, BUDGET, MOST, LONGEST, Scheduler(), **rest)


def served(box, routing, requests, output=60, clients=1):
    trace = request_trace(
        np.zeros(requests), np.full(requests, 64), np.full(requests, output), concurrency=clients
    )
    engine = Engine(chunk_tokens=BUDGET, max_sequences=MOST)
    return serve_offloaded(box, composition(), routing, trace, engine=engine, traits=Traits())


def test_what_fits_is_always_found(box, trace):
    found = priced(holding(box, 1.0), trace, slots=EVERY)
    assert (found.hits == found.accesses).all()
    assert not found.moved_bytes.any()
    # More tokens ask for more experts, until all are asked for.
    assert (np.diff(found.experts_s[1]) > 0).all()


@pytest.mark.parametrize("kind", ["gpu", "mask", "cheapest"])
def test_less_room_is_never_faster(box, trace, kind):
    found = [priced(holding(box, share), trace, kind) for share in (1.0, 0.6, 0.3)]
    for more, less in pairwise(found):
        assert (less.experts_s >= more.experts_s * 0.99).all()
        assert less.hits.sum() < more.hits.sum()
        # Who is asked for does not depend on who is there.
        np.testing.assert_allclose(less.accesses, more.accesses)


def test_the_cpu_helps_where_little_fits(box, trace):
    little = holding(box, 0.3)
    alone, helped = priced(little, trace, "gpu"), priced(little, trace, "cheapest")
    assert helped.experts_s[0, :5].sum() < alone.experts_s[0, :5].sum()
    assert helped.moved_bytes.sum() < alone.moved_bytes.sum()


def test_loads_are_what_misses_move(box, trace):
    found = priced(holding(box, 0.5), trace)
    np.testing.assert_allclose(
        found.moved_bytes, (found.accesses - found.hits) * box.widths[0].bytes, rtol=0.02, atol=1.0
    )


@pytest.mark.parametrize("clients", [1, 4, 8])
def test_a_served_loop_is_as_long_as_a_replay(box, trace, clients):
    """Tokens of as many requests at once, decoded by the replay itself and in a simulation."""
    half = holding(box, 0.4)
    decode = trace.phase == 1
    part = replace(
        trace,
        **{
            name: getattr(trace, name)[decode]
            for name in ("topk_ids", "request", "position", "phase", "topk_weights", "token_id")
            if getattr(trace, name) is not None
        },
    )
    replayed = run(replace(composition(), batcher=Continuous(clients)), part, half)
    outcome, _ = served(half, trace, 6 * clients, clients=clients)
    assert np.nanmean(outcome.tpot_s) == pytest.approx(replayed.tpot_s, rel=0.15)


def test_hits_and_bytes_of_a_simulation(box, trace):
    outcome, found = served(holding(box, 0.4), trace, 12, clients=4)
    log = outcome.state.tally.log[: int(outcome.state.tally.logged[0])]
    edges = np.linspace(0.0, log[-1, LOG_START] + 1.0, 6)
    ratio, moved = found.during(log, edges)
    whole, all_moved = found.during(log, edges[[0, -1]])
    assert moved.sum() == pytest.approx(all_moved[0])
    assert found.hit_ratio(log) == pytest.approx(whole[0])
    assert 0.0 < whole[0] < 1.0
    assert np.nanmin(ratio) <= whole[0] <= np.nanmax(ratio)
    assert np.isnan(found.during(log[:0], edges)[0]).all()


def test_too_short_a_trace(box, trace):
    short = replace(
        trace,
        topk_ids=trace.topk_ids[:5],
        request=trace.request[:5],
        position=trace.position[:5],
        phase=trace.phase[:5],
    )
    with pytest.raises(ConfigError):
        priced(box, short)


def test_the_cache_has_what_the_box_left_for_it(trace):
    for context, sequences in ((4096, 2), (2048, 8)):
        box = Box.of(HARDWARE, MODEL, context=context, sequences=sequences)
        each = cache_bytes(box) / sequences
        assert each == pytest.approx(cache_bytes(Box.of(HARDWARE, MODEL, context=context)), rel=1e-6)
    full = replace(box, expert_bytes=box.expert_bytes + cache_bytes(box))
    with pytest.raises(InfeasibleError):
        served(full, trace, 2)
