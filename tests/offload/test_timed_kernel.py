"""The timed kernel against closed forms, a simulation of events, and laws of conservation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.offload.cases import Case, limits_of, timed
from tests.offload.events import Events

RULES = ("lru", "fifo", "lifo", "lfu", "belady", "static")
_PRIMES = iter((2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37))


def seconds() -> st.SearchStrategy[float]:
    """Seconds of one kind of work; sums of several kinds are never equal, so nothing happens at once."""
    odd = 1e-3 * next(_PRIMES) ** 0.5
    return st.integers(1, 100).map(lambda x: 0.05 * x + odd)


BEFORE, BESIDE, TAIL, GPU, CPU, LOAD, LATENCY, OUT, HOP = (seconds() for _ in range(9))
SLOW = seconds()


@st.composite
def cases(draw, *, ahead: bool = True) -> Case:
    layers, experts = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    steps = draw(st.integers(1, 7))
    cell = st.lists(st.integers(0, experts - 1), max_size=min(experts, 3), unique=True)
    asked = [[draw(cell) for _ in range(layers)] for _ in range(steps)]
    pooled = layers > 1 and draw(st.booleans())
    slots = [draw(st.integers(0, experts * (2 if pooled else 1))) for _ in range(1 if pooled else layers)]
    guessed = None
    if ahead and draw(st.booleans()):
        cells = steps * layers
        guessed = []
        for s in range(steps):
            row = []
            for layer in range(layers):
                now = s * layers + layer
                targets = st.integers(now + 1, min(now + 3, cells - 1)) if now + 1 < cells else None
                guess = st.tuples(targets, st.integers(0, experts - 1)) if targets is not None else None
                row.append(draw(st.lists(guess, max_size=3)) if guess is not None else [])
            guessed.append(row)
    return Case(
        asked,
        experts,
        slots,
        guessed=guessed,
        rule=draw(st.sampled_from(RULES)),
        batch=draw(st.booleans()),
        write_back=draw(st.booleans()),
        preemptible=guessed is not None and draw(st.booleans()),
        executor=draw(st.sampled_from(("gpu", "gpu", "mask"))),
        before=[draw(BEFORE) + 1e-4 * 41**0.5 * layer for layer in range(layers)],
        beside=draw(BESIDE),
        tail=draw(TAIL),
        gpu=draw(GPU),
        cpu=draw(CPU),
        load=draw(LOAD),
        latency=draw(LATENCY),
        out=draw(OUT),
        hop=draw(HOP),
        spares=draw(st.integers(1, 3)),
    )


@settings(max_examples=600)
@given(cases())
def test_events_agree(case):
    found = timed(case)
    ends, count = Events(case).run()
    for name, value in count.items():
        assert found.counts[name] == value, name
    np.testing.assert_allclose(found.ends, ends, rtol=1e-9)


@given(cases())
def test_the_gpu_works_or_waits(case):
    found = timed(case)
    assert found.busy["gpu"] + sum(found.waits.values()) == pytest.approx(found.seconds, rel=1e-9)
    counts = found.counts
    moved = 100.0 * (counts["loads"] + counts["prefetched"] - counts["aborted"])
    if counts["aborted"] == 0:
        assert found.moved["to_device"] == pytest.approx(moved)
        assert found.busy["to_device"] == pytest.approx(moved / 100.0 * case.load)
    else:
        assert found.moved["to_device"] >= moved - 1e-6
    assert found.moved["from_device"] == pytest.approx(100.0 * counts["written_back"])
    assert counts["hits"] + counts["loads"] + counts["on_cpu"] == counts["accesses"]
    assert counts["useful"] + counts["wasted"] + counts["aborted"] <= counts["prefetched"]


def test_everything_resident_is_the_sum_of_gpu_seconds():
    asked = [[[0, 1], [2]], [[1], [0, 2]]]
    case = Case(asked, 3, [3, 3], initial=tuple(range(6)), before=[1.0, 2.0], beside=0.5, tail=0.25, gpu=3.0)
    found = timed(case)
    assert found.seconds == 2 * (1.0 + 2.0 + 2 * 0.5 + 0.25) + 6 * 3.0
    assert found.counts["hits"] == 6
    assert sum(found.waits.values()) == 0.0


def test_no_slot_and_one_spare_load_and_run_in_turn():
    case = Case([[[0, 1, 2]], [[0]]], 3, [0], load=3.0, gpu=2.0, before=[1.0])
    found = timed(case)
    assert found.seconds == 2 * 1.0 + 4 * (3.0 + 2.0)
    assert found.counts["staged"] == 4


def test_loads_overlap_with_experts_that_run():
    # Three misses: the link is busy throughout, the last expert runs behind its load.
    case = Case([[[0, 1, 2]]], 3, [3], load=3.0, gpu=2.0, before=[1.0])
    assert timed(case).seconds == 1.0 + 3 * 3.0 + 2.0
    # A resident one runs while the first load is under way.
    case = replace(case, initial=(2,))
    assert timed(case).seconds == 1.0 + 2 * 3.0 + 2.0


def test_a_guess_that_is_right_hides_the_load_behind_the_layers_before():
    asked = [[[0], [0]]]
    on_demand = Case(asked, 2, [2, 2], load=3.0, gpu=2.0, before=[1.0], initial=(0,))
    assert timed(on_demand).seconds == 1.0 + 2.0 + 1.0 + 3.0 + 2.0
    ahead = replace(on_demand, guessed=[[[(1, 0)], []]])
    found = timed(ahead)
    # Known at 1, there at 4, when the second gate has run: nobody waits.
    assert found.seconds == 1.0 + 2.0 + 1.0 + 2.0
    assert (found.counts["hits"], found.counts["useful"], found.counts["late"]) == (2, 1, 0)


def test_a_copy_that_has_begun_delays_a_demand_unless_it_can_be_broken_off():
    # At 1 expert 1 is guessed for the second layer, which asks for expert 0 at 4.
    case = Case(
        [[[0], [0]]], 2, [2, 2], load=5.0, gpu=2.0, before=[1.0], initial=(0,), guessed=[[[(1, 1)], []]]
    )
    assert timed(case).seconds == 6.0 + 5.0 + 2.0
    broken = timed(replace(case, preemptible=True))
    assert broken.seconds == 4.0 + 5.0 + 2.0
    assert broken.counts["aborted"] == 1
    assert broken.moved["to_device"] == pytest.approx(100.0 * (1 + 3.0 / 5.0))


def test_channels_overlap_what_starts_a_copy():
    case = Case([[[0, 1, 2]]], 3, [3], load=3.0, latency=1.0, gpu=0.5, before=[1.0])
    assert timed(case).seconds == 1.0 + 3 * (1.0 + 3.0) + 0.5
    assert timed(replace(case, channels=3)).seconds == 1.0 + 1.0 + 3 * 3.0 + 0.5


def test_storage_comes_before_the_link():
    case = Case([[[0, 1]]], 2, [2], load=2.0, store=5.0, gpu=1.0, before=[1.0], stocked=(0, 1))
    found = timed(case)
    assert found.seconds == 1.0 + 2 * 5.0 + 2.0 + 1.0
    # Between, the first expert ran.
    assert (found.waits["storage"], found.waits["to_device"]) == (7.0, 2.0 + 0.0) or sum(
        found.waits.values()
    ) == pytest.approx(found.seconds - 1.0 - 2.0)
    assert found.moved["storage"] == 200.0


def test_the_cpu_reads_from_storage_what_is_not_in_memory():
    case = Case(
        [[[0, 1]]], 2, [0], executor="mask", store=5.0, cpu=2.0, before=[1.0], hop=0.5, stocked=(0, 1)
    )
    found = timed(case)
    # Reading goes on while the CPU computes; hidden states are there long before.
    assert found.seconds == 1.0 + 2 * 5.0 + 2.0 + 0.5
    assert (found.moved["storage"], found.moved["to_device"]) == (200.0, 0.0)


def test_deferred_work_is_waited_for_one_layer_later():
    case = Case([[[0], [0]]], 1, [0, 0], executor="mask", before=[1.0], cpu=7.0, gpu=1.0, hop=0.5)
    assert timed(case).seconds == 2 * (1.0 + 0.5 + 7.0 + 0.5)


@given(cases(), st.integers(1, 3))
def test_more_slots_never_miss_more_where_sets_are_nested(case, more):
    # Stack rules: without fetching ahead, what a smaller pool holds a larger one holds too.
    case = replace(case, rule="lru", batch=False, guessed=None, executor="gpu", preemptible=False)
    larger = replace(case, slots=[s + more for s in case.slots])
    assert timed(larger).counts["hits"] >= timed(case).counts["hits"]
    case, larger = replace(case, rule="belady"), replace(larger, rule="belady")
    assert timed(larger).counts["hits"] >= timed(case).counts["hits"]


@given(cases(ahead=False), st.floats(1.0, 4.0))
def test_faster_parts_are_never_slower_on_demand(case, factor):
    # With loads on demand every decision depends on accesses alone, and each end is a maximum of sums of
    # seconds: monotone in all of them.
    seconds = timed(case).seconds
    for name in ("load", "gpu", "cpu", "latency", "out", "hop", "beside", "tail"):
        faster = replace(case, **{name: getattr(case, name) / factor})
        assert timed(faster).seconds <= seconds * (1 + 1e-12), name


EXECUTORS = ("gpu", "mask", "cheapest", "cheapest-max", "three-clock", "three-clock-code", "split", "prefix",
             "balanced", "optimum")  # fmt: skip


@settings(max_examples=400)
@given(cases(), st.sampled_from(EXECUTORS), SLOW, st.booleans())
def test_nothing_beats_a_limit(case, executor, near, stored):
    every = tuple(range(case.layers * case.num_experts))
    case = replace(case, executor=executor, stocked=every if stored else (), store=case.load * 1.3)
    if executor in ("split", "prefix", "balanced", "optimum"):
        case = replace(case, near=near)
    if executor == "prefix":  # everything is where both units reach it
        case = replace(case, slots=[case.num_experts * (case.layers if case.pooled else 1)] * len(case.slots),
                       initial=every)  # fmt: skip
    found, least = timed(case), limits_of(case)
    spent = np.diff(np.concatenate([[0.0], found.ends]))
    assert (spent >= least.steps * (1 - 1e-9)).all()
    for name in ("no_stall", "link", "belady"):
        limit = getattr(least, name)
        assert limit is None or found.seconds >= limit * (1 - 1e-9), name
    if least.loads is not None:
        assert found.counts["loads"] + found.counts["prefetched"] >= least.loads


def test_limits_are_reached():
    # Everything resident: no stall. One expert after the other over the link: Belady's limit but for the last
    # expert that runs behind its load.
    full = Case([[[0, 1], [2]]], 3, [3, 3], initial=tuple(range(6)), before=[1.0], beside=0.5, tail=0.25)
    assert timed(full).seconds == limits_of(full).no_stall == limits_of(full).link
    bare = Case([[[0, 1, 2]]], 3, [0], spares=2, load=3.0, gpu=1e-9, before=[1.0])
    assert timed(bare).seconds == pytest.approx(limits_of(bare).belady, rel=1e-8)


def test_a_greedy_executor_can_be_slower_with_a_faster_cpu():
    # Graham's anomaly: more of it is handed to the CPU, which ends later.
    rng, worse = np.random.default_rng(0), 0
    for _ in range(300):
        experts = int(rng.integers(2, 7))
        cell = list(range(experts))
        tokens = [[[int(n) for n in rng.integers(1, 9, experts)]]]
        case = Case([[cell]], experts, [experts], tokens=tokens, executor="three-clock", gpu=0.5, load=1.5,
                    cpu=float(rng.uniform(0.5, 2.0)), initial=tuple(range(experts // 2)))  # fmt: skip
        before = timed(case).seconds
        after = timed(replace(case, cpu=case.cpu * 0.9)).seconds
        worse += after > before * (1 + 1e-12)
        assert after <= before * 1.5
    assert worse > 0
