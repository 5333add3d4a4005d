"""Hand-over, failures, routers, speculation and order of the serving loops."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.serving.kernel.events import (
    blocks_of,
    evict_all,
    hand_over,
    release,
    reserve,
    send,
    unreserve,
)
from moesim.serving.kernel.fleet import CURSOR, FLYING, next_event_s, run, send_arrived, wake
from moesim.serving.pricing import constant_prices
from moesim.serving.state import (
    AHEAD,
    BLOCKS_S,
    DECODED,
    DONE,
    FOUND,
    HELD,
    LOST,
    PREEMPTED,
    READ,
    RESERVED,
    RUNNING,
    RUNNING_S,
    STEPS,
    WAITING,
    WAITING_S,
    Asked,
    Rules,
    State,
    new_state,
)

PRICES = constant_prices(1.0)


def rules(**changes: object) -> Rules:
    base = Rules(
        lanes=1,
        budget=64,
        most=8,
        block=4,
        hash_tokens=0,
        chunked=True,
        prefill_first=False,
        order=0,
        admission=0,
        share=0.7,
        swap_s=0.0,
        drafts=0,
        acceptance=0.0,
        seed=0,
        router=0,
        closed=0,
    )
    return base._replace(**changes)


def asked(prompt, output, arrival=0.0, hashes=None, session=None) -> Asked:
    n = len(prompt)
    ptr = np.r_[0, np.cumsum([len(h) for h in hashes])] if hashes else np.zeros(n + 1)
    return Asked(
        np.broadcast_to(np.asarray(arrival, float), (n,)).copy(),
        np.array(prompt, np.int32),
        np.array(output, np.int32),
        np.zeros(n, np.int32),
        np.array([x for h in hashes for x in h], np.int64) if hashes else np.zeros(0, np.int64),
        ptr.astype(np.int64),
        np.zeros(0, np.int32) if session is None else np.array(session, np.int32),
    )


def pool(what: Asked, how: Rules, replicas: int = 1, blocks: int = 100) -> tuple[State, np.ndarray]:
    return new_state(what, replicas, how.lanes, how.most, blocks, 100, how), np.zeros(CURSOR, np.int64)


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("admission", [0, 1])
def test_prompts_here_tokens_there(caching, admission):
    what = asked([20, 30], [5, 4], hashes=[[1, 2], [1, 3, 4]])
    there = what._replace(arrival_s=np.full(2, np.inf))
    first = rules(prefill_only=True, hash_tokens=8, caching=caching, admission=admission)
    second = rules(hash_tokens=8, caching=caching, admission=admission)
    (here, cursor), (away, other) = pool(what, first), pool(there, second)
    now = run(here, first, PRICES, cursor, np.inf, True)
    assert now == 1.0
    assert here.outbox.firsts[0] == 2
    assert cursor[FLYING] == 2
    assert (here.progress.stage == HELD).all()
    assert here.lanes.live[0] == 0
    own = [blocks_of(here, first, r) for r in range(2)]
    assert own == [5, 8]
    assert here.lanes.used[0] == 13 - 2 * caching
    assert next_event_s(here, cursor) == np.inf
    for r in range(2):
        away.progress.first_s[r] = away.progress.last_s[r] = now
        assert reserve(away, second, r, 0, now)
        assert away.progress.stage[r] == RESERVED
    assert away.lanes.used[0] == 14
    unreserve(away, second, 1, now)
    assert away.lanes.used[0] == 6
    assert away.progress.stage[1] == AHEAD
    for r in range(2):
        assert hand_over(away, second, PRICES, other, r, 0, now + 0.5)
        release(here, first, r, now + 0.5)
    assert here.lanes.used[0] == 0
    assert here.lanes.pinned[0] == 0
    assert here.lanes.promised[0] == 0
    assert (here.progress.stage == DONE).all()
    run(away, second, PRICES, other, np.inf, False)
    assert (away.progress.stage == DONE).all()
    assert away.lanes.used[0] == 0
    assert away.lanes.promised[0] == 0
    # The first decodes at once; the second comes while that step runs.
    assert away.progress.last_s.tolist() == [5.5, 5.5]
    assert away.tally.sums[0, READ] == 0
    assert away.tally.sums[0, DECODED] == 4 + 3
    assert away.tally.gaps.sum() == 7
    assert other[FLYING] == 0


def test_a_prefill_only_request_of_one_token_is_done():
    how = rules(prefill_only=True)
    state, cursor = pool(asked([10], [1]), how)
    run(state, how, PRICES, cursor, np.inf, False)
    assert state.progress.stage[0] == DONE
    assert state.lanes.used[0] == 0
    assert cursor[FLYING] == 0


def test_a_handed_over_request_waits_for_blocks():
    what = asked([16, 16], [9, 3], arrival=[0.0, np.inf])
    how = rules()
    state, cursor = pool(what, how, blocks=8)
    run(state, how, PRICES, cursor, 2.5, False)
    assert not reserve(state, how, 1, 0, 2.5)
    state.progress.first_s[1] = state.progress.last_s[1] = 2.0
    hand_over(state, how, PRICES, cursor, 1, 0, 2.5)
    assert state.progress.stage[1] == WAITING
    run(state, how, PRICES, cursor, np.inf, False)
    # The first holds up to 6 of 8 blocks until its end at 9; the second needs 5.
    assert state.progress.scheduled_s[1] == 9.0
    assert state.progress.last_s[1] == 11.0
    assert state.tally.sums[0, WAITING_S] == 9.0 - 2.5


@pytest.mark.parametrize("caching", [False, True])
def test_a_failed_replica_loses_its_cache_but_not_what_was_given(caching):
    what = asked([20, 24, 28], [6, 6, 6], hashes=[[1, 2], [1, 2, 3], [4, 5, 6]])
    how = rules(most=2, hash_tokens=8, caching=caching, block=8)
    state, cursor = pool(what, how, replicas=2)
    state.replicas.up[1] = 0
    run(state, how, PRICES, cursor, 3.5, False)
    assert state.progress.generated.tolist() == [3, 3, 0]
    assert (state.progress.lane == 0).all()
    state.replicas.up[0] = 0
    out = np.zeros(8, np.int32)
    assert evict_all(state, how, cursor, 0, out, 3.5) == 3
    assert out[:3].tolist() == [0, 1, 2]
    assert (state.progress.stage == AHEAD).all()
    assert state.progress.target.tolist() == [23, 27, 28]
    assert state.lanes.used[0] == 0
    assert cursor[FLYING] == 0
    assert next_event_s(state, cursor) == np.inf
    assert send(state, how, PRICES, cursor, 0, -1, 3.5) == -1
    state.replicas.up[1] = 1
    for r in out[:3]:
        assert send(state, how, PRICES, cursor, int(r), -1, 4.0) == 1
    run(state, how, PRICES, cursor, np.inf, False)
    assert (state.progress.stage == DONE).all()
    assert (state.progress.generated == 6).all()
    assert state.progress.first_s.tolist()[:2] == [1.0, 1.0]
    assert state.progress.sent_s[0] == 0.0
    # All tokens but the last of each are computed once more where they were lost.
    computed = state.tally.sums[:, READ].sum() + state.tally.sums[:, DECODED].sum()
    found = state.tally.sums[:, FOUND].sum()
    assert computed + found == (20 + 24) + 2 * 3 + (23 + 27 + 28) + 2 * 2 + 5
    state.replicas.up[0] = 1
    wake(state, how, PRICES, cursor, 0, 20.0)
    assert next_event_s(state, cursor) == np.inf


def test_requests_wait_ahead_while_nothing_works():
    how = rules()
    state, cursor = pool(asked([4], [2]), how)
    state.replicas.up[0] = 0
    run(state, how, PRICES, cursor, 7.0, False)
    assert state.progress.stage[0] == AHEAD
    state.replicas.up[0] = 1
    send_arrived(state, how, PRICES, cursor, 7.0)
    assert state.progress.stage[0] == RUNNING
    run(state, how, PRICES, cursor, np.inf, False)
    assert state.progress.last_s[0] == 9.0
    assert state.progress.sent_s[0] == 7.0


def test_what_can_never_fit_is_lost_at_once():
    how = rules()
    state, cursor = pool(asked([400, 4, 396], [2, 2, 6]), how)
    assert run(state, how, PRICES, cursor, np.inf, True) == 0.0
    assert state.outbox.lost[: state.outbox.losts[0]].tolist() == [0, 2]
    run(state, how, PRICES, cursor, np.inf, False)
    assert state.progress.stage.tolist() == [LOST, DONE, LOST]
    assert cursor[FLYING] == 0


def test_a_cache_without_end():
    how = rules(hash_tokens=4, caching=True)
    state, cursor = pool(asked([40, 40], [3, 3], [0.0, 5.0], hashes=[list(range(10))] * 2), how, blocks=2**40)
    run(state, how, PRICES, cursor, np.inf, False)
    assert (state.progress.stage == DONE).all()
    # All but the last block of the second's prompt.
    assert state.progress.cached.tolist() == [0, 36]


def test_planning_ahead_leaves_newcomers_out_of_one_step():
    what = asked([4, 4], [6, 2], arrival=[0.0, 1.5])
    for ahead, first in ((False, 3.0), (True, 4.0)):
        how = rules(ahead=ahead)
        state, cursor = pool(what, how)
        run(state, how, PRICES, cursor, np.inf, False)
        # It comes in the step from 1 to 2; the step from 2 to 3 was planned at 1.
        assert state.progress.first_s.tolist() == [1.0, first]


def test_an_extra_step_for_requests_that_end():
    what = asked([4, 4], [3, 5])
    how = rules(prefill_first=True, admission=2, ahead=True, late=True)
    state, cursor = pool(what, how)
    run(state, how, PRICES, cursor, np.inf, False)
    assert state.progress.last_s.tolist() == [3.0, 5.0]
    # One more token of each: the second's in a step of its own.
    assert state.tally.sums[0, DECODED] == 2 + 4 + 2
    assert state.tally.sums[0, STEPS] == 6


@pytest.mark.parametrize(("acceptance", "steps"), [(0.0, 12), (1.0, 4)])
def test_drafts(acceptance, steps):
    how = rules(drafts=3, acceptance=acceptance)
    state, cursor = pool(asked([4], [13]), how)
    run(state, how, PRICES, cursor, np.inf, False)
    # The first token comes with the prompt and has no drafts; 12 follow, one or four a step, the last capped.
    assert state.tally.sums[0, STEPS] == 1 + (steps if acceptance == 0 else 3)
    assert state.progress.generated[0] == 13
    assert state.tally.gaps.sum() == 12
    assert state.tally.gaps[0] == (0 if acceptance == 0 else 9)


def test_acceptance_is_its_chance_whatever_the_batch():
    given = []
    for most in (1, 7, 64):
        how = rules(drafts=2, acceptance=0.6, most=most, budget=512)
        state, cursor = pool(asked([4] * 64, [200] * 64), how, blocks=10_000)
        run(state, how, PRICES, cursor, np.inf, False)
        given.append(state.tally.sums[0, DECODED] / 3)
    # The steps that all requests take do not depend on how many run together.
    assert given[0] == given[1] == given[2]
    assert 64 * 199 / given[0] == pytest.approx(1 + 0.6 + 0.36, rel=0.02)


def test_integrals_are_littles_law():
    rng = np.random.default_rng(3)
    n = 300
    what = asked(rng.integers(1, 60, n), rng.integers(1, 20, n), np.sort(rng.uniform(0, 300, n)))
    how = rules(most=3, admission=1)
    state, cursor = pool(what, how, replicas=2, blocks=40)
    run(state, how, PRICES, cursor, np.inf, False)
    p, sums = state.progress, state.tally.sums.sum(0)
    assert sums[PREEMPTED] == 0
    assert sums[WAITING_S] == pytest.approx((p.scheduled_s - p.sent_s).sum())
    assert sums[RUNNING_S] == pytest.approx((p.last_s - p.scheduled_s).sum())
    assert 0 < sums[BLOCKS_S] <= 80 * p.last_s.max()


def test_sessions_stay_and_move_on():
    session = np.arange(60) % 6
    what = asked([4] * 60, [2] * 60, np.arange(60.0), session=session)
    how = rules(router=6)
    state, cursor = pool(what, how, replicas=4)
    run(state, how, PRICES, cursor, 30.0, False)
    before = {s: set(state.progress.lane[:30][session[:30] == s].tolist()) for s in range(6)}
    assert all(len(lanes) == 1 for lanes in before.values())
    gone = before[0].pop()
    before[0].add(gone)
    state.replicas.up[gone] = 0
    evict_all(state, how, cursor, gone, np.zeros(60, np.int32), 30.0)
    run(state, how, PRICES, cursor, np.inf, False)
    for s in range(6):
        after = set(state.progress.lane[30:][session[30:] == s].tolist())
        assert after == ({(gone + 1) % 4} if before[s] == {gone} else before[s])


@pytest.mark.parametrize("router", [3, 4])
def test_random_routers_spread_and_repeat(router):
    what = asked([4] * 400, [2] * 400, np.arange(400) * 0.01)
    runs = []
    for seed in (1, 1, 2):
        how = rules(router=router, seed=seed, lanes=2)
        state, cursor = pool(what, how, replicas=2, blocks=1000)
        run(state, how, PRICES, cursor, np.inf, False)
        runs.append(state.progress.lane.copy())
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()
    counts = np.bincount(runs[0], minlength=4)
    assert counts.min() > (70 if router == 3 else 90)
