"""The queue of a lane: a list in order of arrival, or, by priority, a heap; and the door before it.

The heap is a pairing heap (Fredman, Sedgewick, Sleator and Tarjan, 1986) in the links of the requests
themselves, so that a queue of any length takes no memory of its own.
"""

from __future__ import annotations

import numpy as np

from moesim.compiled import inside, making
from moesim.serving.kernel.prefix import cached, found_tokens, next_key, unit_of, units_in
from moesim.serving.state import WAITING, Rules, State

#: Orders, as `moesim.serving.settings.ORDERS` counts them.
FCFS, PRIORITY, LONGEST_PREFIX = range(3)

#: SGLang looks for prefixes among so many waiting requests at most, and leaves longer queues as they are
#: (``schedule_policy.py``, ``_determine_active_policy``).
SORTED_AT_MOST = 128
#: A request of which no more than this is found waits for one before it that begins alike
#: (``IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD`` there).
ALIKE_TOKENS = 32


@inside
def before(state: State, a: int, b: int) -> bool:
    """Whether a request goes before another by priority, then time, then number."""
    asked, progress = state.asked, state.progress
    if asked[a].priority != asked[b].priority:
        return bool(asked[a].priority < asked[b].priority)
    if progress[a].sent_s != progress[b].sent_s:
        return bool(progress[a].sent_s < progress[b].sent_s)
    return a < b


@inside
def _meld(state: State, a: int, b: int) -> int:
    """One heap of two; -1 is an empty one."""
    if a < 0:
        return b
    if b < 0:
        return a
    if before(state, b, a):
        a, b = b, a
    progress = state.progress
    progress[b].following = progress[a].child
    progress[a].child = b
    return a


@inside
def _without_root(state: State, root: int) -> int:
    """A heap without its first: its children by pairs, then the pairs from the last to the first."""
    progress = state.progress
    pairs, a = -1, progress[root].child
    while a >= 0:
        b = progress[a].following
        after = progress[b].following if b >= 0 else -1
        progress[a].following = -1
        if b >= 0:
            progress[b].following = -1
        pair = _meld(state, a, b)
        progress[pair].following = pairs
        pairs, a = pair, after
    heap = -1
    while pairs >= 0:
        after = progress[pairs].following
        progress[pairs].following = -1
        heap = _meld(state, heap, pairs)
        pairs = after
    progress[root].child = -1
    return heap


@inside
def queued(state: State, lane: int) -> int:
    """Requests in the queue; those at the door are not."""
    return int(state.lanes[lane].waiting - state.lanes[lane].newcomers)


@inside
def enqueue(state: State, rules: Rules, lane: int, r: int) -> None:
    """Put a request into the queue, by priority or at the end."""
    lanes, progress = state.lanes, state.progress
    progress[r].stage, progress[r].lane = WAITING, lane
    progress[r].following = progress[r].child = -1
    if rules.order == PRIORITY:
        lanes[lane].head = _meld(state, lanes[lane].head, r)
    elif lanes[lane].head < 0:
        lanes[lane].head = lanes[lane].tail = r
    else:
        progress[lanes[lane].tail].following = r
        lanes[lane].tail = r
    lanes[lane].waiting += 1


@inside
def put_back(state: State, rules: Rules, lane: int, r: int) -> None:
    """Put a request at the front, or where its priority puts it.

    One without blocks goes behind those that wait with blocks in hand: it could need just these, for ever.
    """
    lanes, progress = state.lanes, state.progress
    before, after = -1, lanes[lane].head
    if progress[r].held + progress[r].shared == 0:
        while after >= 0 and rules.order != PRIORITY and progress[after].held + progress[after].shared > 0:
            before, after = after, progress[after].following
    if rules.order == PRIORITY or after < 0:
        enqueue(state, rules, lane, r)
        return
    progress[r].stage, progress[r].lane = WAITING, lane
    progress[r].following = after
    if before < 0:
        lanes[lane].head = r
    else:
        progress[before].following = r
    lanes[lane].waiting += 1


@inside
def dequeue(state: State, rules: Rules, lane: int) -> int:
    """Take the first request out."""
    lanes = state.lanes
    r = lanes[lane].head
    if rules.order == PRIORITY:
        lanes[lane].head = _without_root(state, r)
    else:
        lanes[lane].head = state.progress[r].following
    state.progress[r].following = -1
    lanes[lane].waiting -= 1
    return int(r)


@inside
def come(state: State, rules: Rules, lane: int, r: int, busy: bool) -> None:
    """A request comes to a lane: into the queue, or to the door where a step is planned already."""
    lanes, progress = state.lanes, state.progress
    lanes[lane].tokens += progress[r].target - progress[r].done
    if not (rules.ahead and busy):
        _let_in(state, rules, lane, r)
        return
    progress[r].stage, progress[r].lane, progress[r].following = WAITING, lane, -1
    if lanes[lane].door < 0:
        lanes[lane].door = r
    else:
        progress[lanes[lane].door_tail].following = r
    lanes[lane].door_tail = r
    lanes[lane].newcomers += 1
    lanes[lane].waiting += 1


@inside
def open_door(state: State, rules: Rules, lane: int) -> bool:
    """Let all at the door into the queue; whether there were any."""
    lanes = state.lanes
    r = lanes[lane].door
    some = r >= 0
    lanes[lane].waiting -= lanes[lane].newcomers
    lanes[lane].newcomers = 0
    lanes[lane].door = -1
    while r >= 0:
        after = state.progress[r].following
        _let_in(state, rules, lane, r)
        r = after
    return bool(some)


@inside
def _let_in(state: State, rules: Rules, lane: int, r: int) -> None:
    # One that has its blocks must not wait for blocks that it keeps from others.
    if state.progress[r].held + state.progress[r].shared > 0:
        put_back(state, rules, lane, r)
    else:
        enqueue(state, rules, lane, r)


@making
def sort_by_prefix(state: State, rules: Rules, lane: int) -> None:
    """Those of which most lies in the cache first, as SGLang's ``lpm`` does; long queues stay as they are."""
    n = queued(state, lane)
    if n < 2 or n > SORTED_AT_MOST or not cached(state, rules):
        return
    lanes, progress = state.lanes, state.progress
    row, score, name = np.empty(n, np.int32), np.empty(n, np.int64), np.empty(n, np.int64)
    unit, r, names = unit_of(rules), lanes[lane].head, 0
    for i in range(n):
        found = found_tokens(state, rules, r, lane)
        if found <= ALIKE_TOKENS and units_in(state, rules, r, unit, unit):
            key = next_key(state, rules, r, unit, 0, np.int64(0))
            if (name[:names] == key).any():
                found = -1
            else:
                name[names] = key
                names += 1
        # Insert; equals stay in order.
        j = i
        while j > 0 and score[j - 1] < found:
            row[j], score[j] = row[j - 1], score[j - 1]
            j -= 1
        row[j], score[j] = r, found
        r = progress[r].following
    lanes[lane].head = row[0]
    for i in range(n - 1):
        progress[row[i]].following = row[i + 1]
    lanes[lane].tail = row[n - 1]
    progress[row[n - 1]].following = -1
