"""How the policies of the simulator play a case: who is resident, what is copied, what runs together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moesim.reference.layer import Case, IntArray
from moesim.reference.placed import placed_case, warm_up_tokens
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
    counts = np.bincount(ids.ravel(), minlength=case.shape.num_experts).astype(np.int32)
    if not case.offloaded:
        none = np.zeros(0, np.int32)
        return Work(case, counts, (Turn(np.flatnonzero(counts).astype(np.int32), none),))
    before = route(case, recorded, tokens=warm_up_tokens(case), draw=1)
    cell = placed_case(case, ids, before=before, rule=RULE).cell
    turns = (
        Turn(part.runs, np.array([load.expert for load in part.loads], np.int32)) for part in cell.rounds
    )
    return Work(case, counts, tuple(turns))
