"""Which lane a request goes to."""

from __future__ import annotations

import numpy as np

from moesim.compiled import inside
from moesim.serving.kernel.prefix import found_tokens
from moesim.serving.state import I8, Rules, State

#: Routers, as `moesim.serving.settings.ROUTERS` counts them.
ROUND_ROBIN, LEAST_REQUESTS, LEAST_TOKENS, RANDOM, TWO_CHOICES, PREFIX, SESSION, VLLM = range(8)
#: Where the cursor counts turns.
TURN = 2

#: When SGLang's router puts balance before prefixes: requests apart, and how many times as many
#: (``sgl-router``, ``balance_abs_threshold``, ``balance_rel_threshold``); and the share of a prompt that has
#: to be found for the prefix to count (``cache_threshold``).
APART, TIMES, WORTH = 64, 1.5, 0.3


@inside
def choose(state: State, rules: Rules, cursor: I8, r: int) -> int:
    """A lane of a replica that works; -1 where none does.

    ``round-robin`` takes lanes in turn. ``least-requests`` counts requests that run and wait,
    ``least-tokens`` what is still to be computed of them, and ``vllm`` four times those that wait and those
    that run (``vllm/v1/engine/core_client.py``); of equals the next in turn, in vLLM the first.
    ``two-choices`` takes the one with fewer requests of two drawn. ``session`` sends a conversation to the
    same lane always, or, where that is down, to the next that works. ``prefix`` sends to where most of the
    prompt is in the cache, unless that is little or the load is uneven: then to the fewest requests, as
    SGLang's router does; that router guesses at the caches from what it sent where, this one knows them.
    """
    lanes, total = state.lanes, len(state.lanes)
    turn = cursor[TURN]
    cursor[TURN] += 1
    if rules.router == RANDOM:
        return _from(state, rules, _draw(rules, turn, 0) % total)
    if rules.router == TWO_CHOICES:
        a = _from(state, rules, _draw(rules, turn, 0) % total)
        if a < 0 or total == 1:
            return a
        b = _from(state, rules, (a + 1 + _draw(rules, turn, 1) % (total - 1)) % total)
        return b if _requests(state, b) < _requests(state, a) else a
    if rules.router == SESSION and state.asked[r].session >= 0:
        return _from(state, rules, _draw(rules, state.asked[r].session, 2) % total)
    if rules.router == ROUND_ROBIN:
        return _from(state, rules, turn % total)
    if rules.router == PREFIX:
        lane = _longest(state, rules, turn, r)
        if lane >= 0:
            return lane
    best, least = -1, 0
    for i in range(total):
        lane = i if rules.router == VLLM else (turn + i) % total
        if not state.replicas[lane // rules.lanes].up:
            continue
        if rules.router == LEAST_TOKENS:
            score = lanes[lane].tokens
        elif rules.router == VLLM:
            score = np.int64(4 * lanes[lane].waiting + lanes[lane].live)
        else:
            score = np.int64(_requests(state, lane))
        if best < 0 or score < least:
            best, least = lane, score
    return int(best)


@inside
def _requests(state: State, lane: int) -> int:
    return int(state.lanes[lane].live + state.lanes[lane].waiting)


@inside
def _draw(rules: Rules, turn: int, salt: int) -> int:
    """A number of at least 0 that depends on the seed and the turn alone."""
    x = np.uint64(rules.seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(turn) * np.uint64(
        0xD1B54A32D192ED03
    )
    x += np.uint64(salt + 1) * np.uint64(0x8CB92BA72F3D8DD7)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((x ^ (x >> np.uint64(31))) >> np.uint64(2))


@inside
def _from(state: State, rules: Rules, start: int) -> int:
    """The first lane of a replica that works, from one on; -1 without."""
    total = len(state.lanes)
    for i in range(total):
        lane = (start + i) % total
        if state.replicas[lane // rules.lanes].up:
            return int(lane)
    return -1


@inside
def _longest(state: State, rules: Rules, turn: int, r: int) -> int:
    """Where most of a prompt is found, of equals the fewest requests; -1 if that should not count."""
    total = len(state.lanes)
    best, most, few, many = -1, 0, -1, 0
    for i in range(total):
        lane = (turn + i) % total
        if not state.replicas[lane // rules.lanes].up:
            continue
        here = _requests(state, lane)
        few = here if few < 0 else min(few, here)
        many = max(many, here)
        found = found_tokens(state, rules, r, lane)
        if best < 0 or found > most or (found == most and here < _requests(state, best)):
            best, most = lane, found
    if many - few > APART and many > TIMES * few:
        return -1
    return int(best) if most > WORTH * state.asked[r].prompt else -1
