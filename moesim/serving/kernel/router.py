"""Which lane a request goes to."""

from __future__ import annotations

from moesim.compiled import compiled
from moesim.serving.state import I8, Rules, State

ROUND_ROBIN, LEAST_REQUESTS, LEAST_TOKENS = range(3)
#: Where the cursor counts turns.
_TURN = 2


@compiled
def choose(state: State, rules: Rules, cursor: I8, r: int) -> int:  # noqa: ARG001
    """A lane of a replica that works."""
    lanes, total = state.lanes, len(state.lanes.live)
    turn = cursor[_TURN]
    cursor[_TURN] += 1
    best, least = -1, 0
    for i in range(total):
        lane = (turn + i) % total
        if not state.replicas.up[lane // rules.lanes]:
            continue
        if rules.router == ROUND_ROBIN:
            return int(lane)
        score = lanes.tokens[lane] if rules.router == LEAST_TOKENS else lanes.live[lane] + lanes.waiting[lane]
        if best < 0 or score < least:
            best, least = lane, score
    return int(best)
