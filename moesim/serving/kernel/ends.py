"""When steps end, and which ends first: a tournament, so that many replicas cost little more than one."""

from __future__ import annotations

from moesim.compiled import inside
from moesim.serving.state import State


@inside
def set_end(state: State, replica: int, end_s: float) -> None:
    """Set when a replica's step ends; infinite if it is idle. Of equals the first replica wins."""
    engines, tree = state.replicas, state.tree
    engines[replica].end_s = end_s
    place = (len(tree) // 2 + replica) // 2
    while place:
        left, right = tree[2 * place], tree[2 * place + 1]
        tree[place] = left if engines[left].end_s <= engines[right].end_s else right
        place //= 2


@inside
def first_end(state: State) -> int:
    """The replica whose step ends first."""
    return int(state.tree[1])
