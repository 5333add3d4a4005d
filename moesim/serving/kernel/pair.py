"""Two fleets side by side: one that prefills, one that decodes."""

from __future__ import annotations

import numpy as np

from moesim.compiled import compiled
from moesim.serving.kernel.events import _hand_over as hand_over
from moesim.serving.kernel.events import release
from moesim.serving.kernel.fleet import next_event_s, run
from moesim.serving.kernel.price import Prices
from moesim.serving.state import I8, Rules, State

#: Who stopped: nobody, the first fleet, the second, or the first where a step began.
NOBODY, FIRST, SECOND, BEGAN = range(4)


@compiled
def advance(
    one: State,
    rules: Rules,
    prices: Prices,
    cursor: I8,
    other: State,
    other_rules: Rules,
    other_prices: Prices,
    other_cursor: I8,
    until: float,
    steps: bool,
    watch: bool,
) -> tuple[float, int]:
    """Let both run in the order of their events; the time reached, and who stopped there.

    The first stops wherever it gave a first or last token; of two events at the same time its own is first.

    Parameters
    ----------
    until
        Events at or after it are left alone.
    steps
        Whether the first also stops where a step of it began.
    watch
        Whether the second stops where it gave a first or last token.
    """
    while True:
        mine, others = next_event_s(one, cursor), next_event_s(other, other_cursor)
        if min(mine, others) >= until:
            return until, NOBODY
        if mine <= others:
            after = np.nextafter(mine if steps else others, np.inf)
            limit = min(until, after)
            reached = run(one, rules, prices, cursor, limit, True)
            if reached < limit:
                return reached, FIRST
            if steps:
                for engine in range(len(one.replicas)):
                    if one.replicas[engine].began_s == mine:
                        return mine, BEGAN
        else:
            limit = min(until, mine)
            reached = run(other, other_rules, other_prices, other_cursor, limit, watch)
            if reached < limit:
                return reached, SECOND


@compiled
def deliver(
    one: State,
    rules: Rules,
    other: State,
    other_rules: Rules,
    other_cursor: I8,
    r: int,
    lane: int,
    now: float,
) -> bool:
    """The cache of a request is there: the first fleet lets go of it, the second goes on with it if it can.

    Whoever calls it wakes both engines.
    """
    release(one, rules, r, now)
    return hand_over(other, other_rules, other_cursor, r, lane, now)
