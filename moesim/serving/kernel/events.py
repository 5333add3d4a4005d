"""What befalls a fleet from outside: requests sent by hand, caches handed over, replicas that fail."""

from __future__ import annotations

import numpy as np

from moesim.compiled import compiled, inside
from moesim.serving.kernel.blocks import (
    WHOLE_OUTPUT,
    end_promise,
    fill_lanes,
    free_blocks,
    give_back,
    grow,
    look_up,
    peak,
    promise,
)
from moesim.serving.kernel.ends import set_end
from moesim.serving.kernel.fleet import FLYING, deliver, settle
from moesim.serving.kernel.prefix import acquire, cached, empty_cache, register, unit_of
from moesim.serving.kernel.price import Prices
from moesim.serving.kernel.queue import dequeue, open_door
from moesim.serving.kernel.router import choose
from moesim.serving.kernel.step import accrue, leave
from moesim.serving.state import AHEAD, DONE, HELD, I4, I8, RESERVED, Rules, State


def send(state: State, rules: Rules, prices: Prices, cursor: I8, r: int, lane: int, now: float) -> int:
    """Send one request now, to a lane or, with -1, where the router says; the lane, -1 where none works.

    It may never have been sent, or have come back from `evict_all`: then it keeps when it was sent and what
    it generated. It is lost if the lane can never serve it.
    """
    lane = _send(state, rules, cursor, r, lane, now)
    if lane >= 0:
        settle(state, rules, prices, cursor, lane // rules.lanes, now)
    return int(lane)


@compiled
def _send(state: State, rules: Rules, cursor: I8, r: int, lane: int, now: float) -> int:
    fill_lanes(state, rules)
    if lane < 0:
        lane = choose(state, rules, cursor, r)
        if lane < 0:
            return -1
    if not np.isfinite(state.progress[r].sent_s):
        state.progress[r].sent_s = now
    deliver(state, rules, cursor, r, lane, now)
    return int(lane)


@compiled
def reserve(state: State, rules: Rules, r: int, lane: int, now: float) -> bool:
    """Take the blocks that a request whose prompt is computed elsewhere will need first; False if they lack.

    vLLM's decoding side takes blocks before it fetches what goes into them.
    """
    fill_lanes(state, rules)
    lanes, progress = state.lanes, state.progress
    units, kept, free = look_up(state, rules, lane, r)
    own = progress[r].target + 1 - units * unit_of(rules)
    if -(-own // rules.block) + free > free_blocks(state, lane):
        return False
    if rules.admission == WHOLE_OUTPUT:
        whole = peak(state, rules, r) - units * unit_of(rules)
        if -(-whole // rules.block) + free > free_blocks(state, lane) - lanes[lane].promised:
            return False
    accrue(state, rules, lane // rules.lanes, now)
    progress[r].lane, progress[r].stage = lane, RESERVED
    if cached(state, rules):
        acquire(state, lane, r, units, kept)
    promise(state, rules, lane, r)
    grow(state, rules, lane, r, progress[r].target + 1)
    lanes[lane].pinned += 1
    return True


@compiled
def unreserve(state: State, rules: Rules, r: int, now: float) -> None:
    """Give back what `reserve` took."""
    lane = state.progress[r].lane
    accrue(state, rules, lane // rules.lanes, now)
    end_promise(state, rules, lane, r)
    give_back(state, rules, lane, r, 0)
    state.lanes[lane].pinned -= 1
    state.progress[r].stage, state.progress[r].lane = AHEAD, -1


def hand_over(state: State, rules: Rules, prices: Prices, cursor: I8, r: int, lane: int, now: float) -> bool:
    """A request whose prompt is in the cache of a lane decodes there.

    It waits where its blocks are not free; if they were reserved it goes before the others. The caller has
    set when its first and last token so far were given; one that has none yet computes the last token of its
    prompt once more. False if the lane can never serve it: it is lost.
    """
    if not _hand_over(state, rules, cursor, r, lane, now):
        return False
    settle(state, rules, prices, cursor, lane // rules.lanes, now)
    return True


@compiled
def _hand_over(state: State, rules: Rules, cursor: I8, r: int, lane: int, now: float) -> bool:
    fill_lanes(state, rules)
    p = state.progress[r]
    if np.isfinite(p.first_s):
        p.generated = max(p.generated, 1)
    p.done = state.asked[r].prompt + p.generated - 1
    p.target = p.done + 1
    p.gave = 0
    if not np.isfinite(p.sent_s):
        p.sent_s = now
    if p.stage == RESERVED and cached(state, rules):
        register(state, rules, lane, r, p.done)
    return deliver(state, rules, cursor, r, lane, now)


@compiled
def release(state: State, rules: Rules, r: int, now: float) -> None:
    """What a request kept after its first token is fetched: it is done here. Wake its replica then."""
    lane = state.progress[r].lane
    accrue(state, rules, lane // rules.lanes, now)
    give_back(state, rules, lane, r, 0)
    state.lanes[lane].pinned -= 1
    state.lanes[lane].full = 0
    state.progress[r].stage = DONE


@compiled
def blocks_of(state: State, rules: Rules, r: int) -> int:
    """Blocks a request holds, its own and those it shares."""
    return int(state.progress[r].held + state.progress[r].shared * (unit_of(rules) // rules.block))


@compiled
def evict_all(state: State, rules: Rules, cursor: I8, replica: int, out: I4, now: float) -> int:
    """Everything on a replica goes back to where it came from, and its caches are emptied: it failed.

    Requests keep what they generated, but all of it has to be computed anew. A step that runs is abandoned.

    Parameters
    ----------
    out
        Receives the requests, lane by lane: those that ran, in order of admission, those that waited, and
        those that only kept blocks.

    Returns
    -------
    n
        How many they are.
    """
    lanes = state.lanes
    accrue(state, rules, replica, now)
    n = 0
    for lane in range(replica * rules.lanes, (replica + 1) * rules.lanes):
        leave(state, rules, lane)
        open_door(state, rules, lane)
        first = n
        for i in range(lanes[lane].live):
            out[n] = state.running[lane, i]
            n += 1
        while lanes[lane].waiting > 0:
            out[n] = dequeue(state, rules, lane)
            n += 1
        if lanes[lane].pinned > 0:
            n = _others(state, lane, out, n)
        for i in range(first, n):
            cursor[FLYING] -= state.progress[out[i]].stage != RESERVED
            _forget(state, out[i])
        lanes[lane].live = lanes[lane].used = lanes[lane].pinned = lanes[lane].promised = 0
        lanes[lane].tokens = lanes[lane].full = 0
        lanes[lane].share = rules.share
        empty_cache(state, rules, lane)
    state.replicas[replica].stall_s = 0.0
    set_end(state, replica, np.inf)
    return n


@inside
def _others(state: State, lane: int, out: I4, n: int) -> int:
    """Requests outside queue and batch that keep blocks of a lane."""
    progress = state.progress
    for r in range(len(progress)):
        if progress[r].lane == lane and (progress[r].stage == HELD or progress[r].stage == RESERVED):
            out[n] = r
            n += 1
    return n


@inside
def _forget(state: State, r: int) -> None:
    progress = state.progress
    progress[r].stage, progress[r].lane = AHEAD, -1
    progress[r].done = progress[r].planned = progress[r].held = progress[r].shared = progress[r].kept = 0
    progress[r].gave = progress[r].swapped = 0
    progress[r].target = state.asked[r].prompt + progress[r].generated
