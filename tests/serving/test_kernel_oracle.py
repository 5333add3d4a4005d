"""The compiled schedulers against the same in plain Python, step by step, for all settings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim.serving.kernel.fleet import CURSOR, run
from moesim.serving.pricing import constant_prices
from moesim.serving.state import (
    BINS_PER_E,
    DECODED,
    DONE,
    FOUND,
    GAP_LOW_S,
    LOG_BLOCKS,
    LOST,
    PREEMPTED,
    READ,
    SWAPPED,
    WASTED,
    Asked,
    Rules,
    State,
    new_state,
)
from tests.serving.plain_scheduler import Plain

STEP_S = 0.25
ENGINES = {
    "vllm": {"prefill_first": False, "admission": 0},
    "trtllm": {"prefill_first": False, "admission": 1, "eager": False},
    "trtllm-max": {"prefill_first": False, "admission": 3, "eager": False},
    "shared-share": {"prefill_first": False, "admission": 2},
    "sglang": {"prefill_first": True, "admission": 2, "eager": False},
    "prompts-first": {"prefill_first": True, "admission": 0},
}


@st.composite
def cases(draw: st.DrawFn, engine: str) -> tuple[Asked, Rules, int, int]:
    """A small fleet and what it is asked, with room to be full of it."""
    block = draw(st.sampled_from([1, 2, 4]))
    prefill_first = ENGINES[engine]["prefill_first"]
    rules = Rules(
        lanes=draw(st.sampled_from([1, 1, 2])),
        budget=draw(st.integers(3, 40)),
        most=draw(st.integers(1, 6)),
        block=block,
        hash_tokens=draw(st.sampled_from([0, 2, 4, 8])),
        chunked=draw(st.booleans()),
        order=draw(st.sampled_from([0, 2] if prefill_first else [0, 1])),
        share=draw(st.sampled_from([0.0, 0.3, 0.7])),
        swap_s=draw(st.sampled_from([0.0, 0.125])),
        drafts=draw(st.sampled_from([0, 0, 1, 3])),
        acceptance=draw(st.sampled_from([0.0, 0.5, 1.0])),
        seed=draw(st.integers(0, 5)),
        router=draw(st.sampled_from([0, 1, 2, 5, 7])),
        closed=draw(st.sampled_from([0, 0, 3])),
        caching=draw(st.booleans()),
        swap=draw(st.sampled_from([False, False, True])),
        long_prompt=0 if prefill_first else draw(st.sampled_from([0, 0, 5])),
        mixed=prefill_first and draw(st.booleans()),
        share_low=0.0,
        share_fall=draw(st.sampled_from([0.0, 0.01])),
        ahead=draw(st.booleans()),
        late=draw(st.booleans()),
        **{"eager": draw(st.booleans()), **ENGINES[engine]},
    )
    rules = rules._replace(late=rules.late and rules.ahead, share_low=min(0.05, rules.share))
    n = draw(st.integers(1, 14))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.0, 0.0625, 0.3125, 1.0]), min_size=n, max_size=n))
    prompt = draw(st.lists(st.integers(1, 30), min_size=n, max_size=n))
    output = draw(st.lists(st.integers(1, 12), min_size=n, max_size=n))
    names, ptr = [], [0]
    for tokens in prompt:
        if rules.hash_tokens:
            family, own = draw(st.integers(0, 2)), draw(st.integers(0, 20))
            many = -(-tokens // rules.hash_tokens)
            split = draw(st.integers(0, many))
            names += [100 * family + i if i < split else 1000 + 100 * own + i for i in range(many)]
        ptr.append(len(names))
    i4 = np.int32
    asked = Asked(
        np.cumsum(gaps),
        np.array(prompt, i4),
        np.array(output, i4),
        np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), i4),
        np.array(names, np.int64),
        np.array(ptr, np.int64),
    )
    return asked, rules, draw(st.integers(1, 3)), draw(st.integers(4, 60)) // block + 1


def served(asked: Asked, rules: Rules, replicas: int, blocks: int, step_s: float = STEP_S) -> State:
    state = new_state(asked, replicas, rules.lanes, rules.most, blocks, 5000, rules)
    run(state, rules, constant_prices(step_s), np.zeros(CURSOR, np.int64), np.inf, False)
    return state


def compare(state: State, plain: Plain) -> None:
    steps = int(state.tally.logged[0])
    ours = [tuple(row[[0, 1, 3, 4, 5, 6, 7]]) for row in state.tally.log[:steps]]
    for number, (mine, theirs) in enumerate(zip(ours, plain.log, strict=False)):
        assert mine == pytest.approx(theirs), f"step {number}"
    assert steps == len(plain.log)
    p = state.progress
    for r in plain.requests:
        i = r.number
        assert (p.stage[i] == DONE, p.stage[i] == LOST) == (r.stage == "done", r.stage == "lost")
        assert (p.preempted[i], p.generated[i], p.cached[i]) == (r.thrown, r.given, r.cached)
        times = [p.scheduled_s[i], p.first_s[i], p.last_s[i]]
        assert times == pytest.approx([r.scheduled, r.first, r.last], nan_ok=True)
    gaps = np.array([gap for r in plain.requests for gap in r.gaps])
    bins = (np.log(np.maximum(gaps / GAP_LOW_S, 1.0)) * BINS_PER_E).astype(int)
    got = state.tally.gaps
    assert got.sum() == len(gaps)
    # A gap at the edge of a bin may fall to either side.
    assert np.abs(np.cumsum(got) - np.cumsum(np.bincount(bins, minlength=len(got)))).max(initial=0) <= len(
        gaps
    )
    sums = state.tally.sums.sum(0)
    assert sums[PREEMPTED] == sum(r.thrown for r in plain.requests)
    assert sums[FOUND] == sum(lane.found for lane in plain.lanes)
    assert sums[SWAPPED] == sum(lane.swaps for lane in plain.lanes)
    assert sums[WASTED] == sum(lane.wasted for lane in plain.lanes)


def check_end(state: State, rules: Rules) -> None:
    """Everything is done or lost, and every block is free."""
    assert np.isin(state.progress.stage, (DONE, LOST)).all()
    for name in ("used", "promised", "tokens", "live", "waiting", "leavers", "pinned", "newcomers"):
        assert not state.lanes[name].any(), name
    assert not state.progress.held.any()
    assert not state.progress.shared.any()
    assert (state.tally.log[:, LOG_BLOCKS] <= state.lanes.capacity[0] * rules.lanes).all()
    if rules.caching:
        for lane, here in enumerate(state.lanes):
            total, e = 0, here.oldest
            while e >= 0:
                assert state.entries[lane, e].refs == 0
                total += state.entries[lane, e].blocks
                e = state.entries[lane, e].newer
            assert total in (0, here.capacity)
            assert total or not here.fresh


@pytest.mark.parametrize("engine", list(ENGINES))
def test_steps_as_in_plain_python(engine):
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases(engine))
    def check(case):
        asked, rules, replicas, blocks = case
        state = served(*case)
        plain = Plain(asked, rules, replicas, blocks, STEP_S)
        plain.run()
        compare(state, plain)
        check_end(state, rules)

    check()


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_names_are_only_names(engine):
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases(engine), st.integers(1, 2**31))
    def check(case, salt):
        asked, *rest = case
        other = asked._replace(hashes=asked.hashes * 2 * salt + 7)
        a, b = served(asked, *rest), served(other, *rest)
        assert (a.tally.log == b.tally.log).all()
        assert (a.tally.sums == b.tally.sums).all()

    check()


@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
def test_twice_the_speed_is_half_the_time(engine):
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases(engine))
    def check(case):
        asked, rules, *rest = case
        slow, fast = asked, asked._replace(arrival_s=asked.arrival_s / 2)
        a = served(slow, rules, *rest)
        b = served(fast, rules._replace(swap_s=rules.swap_s / 2), *rest, STEP_S / 2)
        for name in ("scheduled_s", "first_s", "last_s"):
            np.testing.assert_array_equal(a.progress[name], 2 * b.progress[name])

    check()


@pytest.mark.parametrize("engine", list(ENGINES))
def test_room_for_all_throws_nobody_out(engine):
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases(engine))
    def check(case):
        asked, rules, replicas, _ = case
        state = served(asked, rules, replicas, 10_000)
        sums = state.tally.sums.sum(0)
        assert sums[PREEMPTED] == 0
        assert sums[SWAPPED] == 0
        done = state.progress.stage == DONE
        assert done.all() or not rules.chunked
        if rules.drafts == 0:
            # Every token is computed or found once, but for the last of each request.
            computed = sums[READ] + sums[DECODED] - sums[WASTED] + sums[FOUND]
            assert computed == (asked.prompt + asked.output - 1)[done].sum()

    check()
