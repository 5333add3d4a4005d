"""How the policies of the simulator play a case: who is resident, what is copied, what runs together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from moesim.reference.layer import Case, IntArray
from moesim.reference.placed import Cell, placed_case, warm_up_tokens
from moesim.reference.routings import Recorded, route
from moesim.validate.reference.predict import Turn, Work

#: Who leaves fast memory, where experts are offloaded.
RULE = "lru"


def work_of(case: Case, ids: IntArray, recorded: Mapping[str, Recorded]) -> Work:
    """Play one case.

    Parameters
    ----------
    case
        Some of its experts may have no place in fast memory: a cache of the others has then seen tokens of
        the same routing before.
    ids
        Experts of its tokens, int32 ``[tokens, top_k]``.
    recorded
        Recordings by name.
    """
    if not round(case.offloaded * case.shape.num_experts):
        return resident(case, ids)
    before = route(case, recorded, tokens=warm_up_tokens(case), draw=1)
    cell = placed_case(case, ids, before=before, rule=RULE).cell
    return Work(case, _counts(case, ids), tuple(_turns(cell)), before)


def resident(case: Case, ids: IntArray) -> Work:
    """A case with all its experts in fast memory."""
    counts = _counts(case, ids)
    return Work(case, counts, (_turn(np.flatnonzero(counts).astype(np.int32)),))


def _counts(case: Case, ids: IntArray) -> IntArray:
    return np.bincount(ids.ravel(), minlength=case.shape.num_experts).astype(np.int32)


def _turns(cell: Cell) -> Iterator[Turn]:
    """Experts of a round that were there, then those that come."""
    used: dict[int, int] = {}
    number = 0
    for part in cell.rounds:
        copied = [load.expert for load in part.loads]
        waits = [used.get(load.slot, -1) for load in part.loads]
        late = np.isin(part.runs, copied)
        for turn in (_turn(part.runs[~late]), _turn(part.runs[late], copied, waits)):
            if len(turn.runs):
                yield turn
                used |= dict.fromkeys(part.slot_of_expert[turn.runs].tolist(), number)
                number += 1


def _turn(runs: IntArray, copied: list[int] | None = None, waits: list[int] | None = None) -> Turn:
    return Turn(runs, np.array(copied or [], np.int32), np.array(waits or [], np.int32))
