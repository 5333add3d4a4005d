"""The loop over events of a fleet: arrivals, and ends of steps."""

from __future__ import annotations

import numpy as np

from moesim.compiled import compiled, inside
from moesim.serving.kernel.admit import output_left
from moesim.serving.kernel.blocks import SHARE_OF_OUTPUT, fill_lanes, peak
from moesim.serving.kernel.ends import first_end
from moesim.serving.kernel.price import Prices
from moesim.serving.kernel.queue import come
from moesim.serving.kernel.router import choose
from moesim.serving.kernel.step import accrue, begin_step, finish_step
from moesim.serving.state import DECODED, I8, LOST, READ, Rules, State

#: Places in the cursor: the next request to arrive, the next to be sent, turns of the router, period of the
#: experts' table, requests that were sent and are not done.
NEXT, SENT, TURN, PERIOD, FLYING = range(5)
CURSOR = 5


@compiled
def run(state: State, rules: Rules, prices: Prices, cursor: I8, until: float, watch: bool) -> float:
    """Let all replicas run; the time reached.

    Parameters
    ----------
    cursor
        What is kept between calls, ``[CURSOR]``.
    until
        Events at or after it are left alone.
    watch
        Whether to return after every event that gave a request's first or last token, or lost one, for the
        caller to act.
    """
    asked, engines, box = state.asked, state.replicas, state.outbox
    n = len(asked)
    fill_lanes(state, rules)
    while True:
        replica = first_end(state)
        end = engines[replica].end_s
        arrives = asked[cursor[NEXT]].arrival_s if cursor[NEXT] < n else np.inf
        now = min(end, arrives)
        if now >= until or now == np.inf:
            return until
        if arrives <= end:
            replica = -1
            box.firsts[0] = box.finishes[0] = box.losts[0] = 0
            # Those that arrive together are there together.
            while cursor[NEXT] < n and asked[cursor[NEXT]].arrival_s <= now:
                cursor[NEXT] += 1
        else:
            finish_step(state, rules, replica)
            cursor[FLYING] -= box.finishes[0]
            _advance_period(state, prices, cursor)
        settle(state, rules, prices, cursor, replica, now)
        if watch and (box.firsts[0] or box.finishes[0] or box.losts[0]):
            return float(now)


@compiled
def next_event_s(state: State, cursor: I8) -> float:
    """When the next step ends or the next request arrives; infinite for neither."""
    asked = state.asked
    arrives = asked[cursor[NEXT]].arrival_s if cursor[NEXT] < len(asked) else np.inf
    return float(min(arrives, state.replicas[first_end(state)].end_s))


@compiled
def settle(state: State, rules: Rules, prices: Prices, cursor: I8, replica: int, now: float) -> None:
    """Begin a step of a replica that has something to do, send what has arrived, and wake who gets it.

    Parameters
    ----------
    replica
        -1 for none. Where steps are planned ahead, its next one was planned before its client could answer.
    """
    # One place that sends and one that begins steps: every other would be compiled again.
    may_send = replica < 0 or not rules.ahead
    sent, lost = cursor[SENT], state.outbox.losts[0]
    while True:
        if may_send:
            _send_arrived(state, rules, cursor, now)
            may_send = False
        if replica >= 0:
            target, replica, may_send = replica, -1, rules.ahead
        elif sent < cursor[SENT]:
            target = state.progress[sent].lane // rules.lanes
            sent += 1
        elif state.outbox.losts[0] > lost:
            lost, may_send = state.outbox.losts[0], True
            continue
        else:
            return
        if _has_work(state, rules, target):
            before = state.outbox.losts[0]
            begin_step(state, rules, prices, target, now, cursor[PERIOD])
            cursor[FLYING] -= state.outbox.losts[0] - before


def wake(state: State, rules: Rules, prices: Prices, cursor: I8, replica: int, now: float) -> None:
    """Begin a step of a replica, if it is idle, works, and has something to do."""
    settle(state, rules, prices, cursor, replica, now)


def send_arrived(state: State, rules: Rules, prices: Prices, cursor: I8, now: float) -> None:
    """Send what has arrived, as far as the client may have in flight and a replica works."""
    settle(state, rules, prices, cursor, -1, now)


@inside
def _send_arrived(state: State, rules: Rules, cursor: I8, now: float) -> None:
    while cursor[SENT] < cursor[NEXT] and (rules.closed == 0 or cursor[FLYING] < rules.closed):
        r = int(cursor[SENT])
        lane = choose(state, rules, cursor, r)
        if lane < 0:
            break
        state.progress[r].sent_s = now
        cursor[SENT] += 1
        deliver(state, rules, cursor, r, lane, now)


@inside
def _has_work(state: State, rules: Rules, replica: int) -> bool:
    """Whether a replica is idle, works, and has requests."""
    if state.replicas[replica].end_s < np.inf or not state.replicas[replica].up:
        return False
    for lane in range(replica * rules.lanes, (replica + 1) * rules.lanes):
        here = state.lanes[lane]
        if here.live + here.waiting + here.leavers > 0:
            return True
    return False


@inside
def deliver(state: State, rules: Rules, cursor: I8, r: int, lane: int, now: float) -> bool:
    """Put a request into the queue of a lane; it is lost, at once, if the lane can never serve it."""
    replica = lane // rules.lanes
    if not _fits(state, rules, r, lane):
        state.progress[r].stage, state.progress[r].lane = LOST, lane
        state.outbox.lost[state.outbox.losts[0]] = r
        state.outbox.losts[0] += 1
        return False
    accrue(state, rules, replica, now)
    cursor[FLYING] += 1
    come(state, rules, lane, r, state.replicas[replica].end_s < np.inf)
    return True


@inside
def _fits(state: State, rules: Rules, r: int, lane: int) -> bool:
    """Whether a lane without any other request could serve it."""
    prompt, room = state.asked[r].prompt, state.lanes[lane].capacity * rules.block
    if not rules.chunked and not rules.prefill_first and prompt > rules.budget:
        return False
    if rules.admission == SHARE_OF_OUTPUT:
        left = state.progress[r].target + output_left(state, r) + rules.block
        if left - state.progress[r].done >= room:
            return False
    return bool(peak(state, rules, r) <= room)


@inside
def _advance_period(state: State, prices: Prices, cursor: I8) -> None:
    """Experts' loads drift with the tokens served; a rebalancing stops every replica for a while."""
    if len(prices.period_tokens) == cursor[PERIOD] + 1:
        return
    served = state.tally.sums[:, READ].sum() + state.tally.sums[:, DECODED].sum()
    while cursor[PERIOD] + 1 < len(prices.period_tokens):
        if served < prices.period_tokens[cursor[PERIOD] + 1]:
            break
        cursor[PERIOD] += 1
        for replica in range(len(state.replicas)):
            state.replicas[replica].stall_s += prices.period_stall_s[cursor[PERIOD]]
