"""The loop over events of a fleet: arrivals, and ends of steps."""

from __future__ import annotations

import numpy as np

from moesim.compiled import compiled
from moesim.serving.kernel.price import Prices
from moesim.serving.kernel.queue import enqueue
from moesim.serving.kernel.router import choose
from moesim.serving.kernel.step import begin_step, finish_step
from moesim.serving.state import DECODED, I8, READ, Rules, State

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
        Whether to return after every step that gave a request's first or last token, for the caller to act.
    """
    asked, engines, box = state.asked, state.replicas, state.outbox
    n = len(asked.arrival_s)
    while True:
        replica = int(np.argmin(engines.end_s))
        end = engines.end_s[replica]
        arrives = asked.arrival_s[cursor[NEXT]] if cursor[NEXT] < n else np.inf
        now = min(end, arrives)
        if now >= until or now == np.inf:
            return until
        if arrives <= end:
            # Those that arrive together are there together.
            while cursor[NEXT] < n and asked.arrival_s[cursor[NEXT]] <= now:
                cursor[NEXT] += 1
            _send(state, rules, cursor, now)
            wake(state, rules, prices, cursor, now)
            continue
        finish_step(state, rules, replica)
        cursor[FLYING] -= box.finishes[0]
        _send(state, rules, cursor, now)
        _advance_period(state, prices, cursor)
        wake(state, rules, prices, cursor, now)
        if watch and (box.firsts[0] or box.finishes[0]):
            return float(now)


@compiled
def _send(state: State, rules: Rules, cursor: I8, now: float) -> None:
    """Send what has arrived, as far as the client may have in flight."""
    while cursor[SENT] < cursor[NEXT] and (rules.closed == 0 or cursor[FLYING] < rules.closed):
        r = int(cursor[SENT])
        state.progress.sent_s[r] = now
        enqueue(state, choose(state, rules, cursor, r), r)
        cursor[SENT] += 1
        cursor[FLYING] += 1


@compiled
def wake(state: State, rules: Rules, prices: Prices, cursor: I8, now: float) -> None:
    """Begin a step of every idle replica that has something to do."""
    for replica in range(len(state.replicas.end_s)):
        if state.replicas.end_s[replica] == np.inf and state.replicas.up[replica]:
            begin_step(state, rules, prices, replica, now, cursor[PERIOD])


@compiled
def _advance_period(state: State, prices: Prices, cursor: I8) -> None:
    """Experts' loads drift with the tokens served; a rebalancing stops every replica for a while."""
    if len(prices.period_tokens) == cursor[PERIOD] + 1:
        return
    served = state.tally.sums[:, READ].sum() + state.tally.sums[:, DECODED].sum()
    while cursor[PERIOD] + 1 < len(prices.period_tokens):
        if served < prices.period_tokens[cursor[PERIOD] + 1]:
            break
        cursor[PERIOD] += 1
        state.replicas.stall_s[:] += prices.period_stall_s[cursor[PERIOD]]
