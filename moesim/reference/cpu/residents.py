"""Which experts run in what order, and which of them must be copied first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.reference.layer import Case, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What one run of a layer does with its experts.

    Parameters
    ----------
    runs
        Experts that tokens were sent to, in the order in which they run.
    loaded
        Which of those are copied from slow memory right before they run.
    """

    runs: IntArray
    loaded: npt.NDArray[np.bool_]

    @property
    def loads(self) -> int:
        """Copies in one run."""
        return int(self.loaded.sum())

    def segments(self) -> Iterator[tuple[int, int]]:
        """Begin and end of what runs without a copy in between: a copied expert begins a segment.

        >>> list(Plan(np.arange(4, dtype=np.int32), np.array([False, False, True, True])).segments())
        [(0, 2), (2, 3), (3, 4)]
        """
        begins = np.flatnonzero(self.loaded).tolist()
        if len(self.runs) and (not begins or begins[0]):
            begins.insert(0, 0)
        yield from zip(begins, [*begins[1:], len(self.runs)], strict=True)


#: Makes the plan of a case from the experts of its tokens, ``[T, k]``.
Residents = Callable[[Case, IntArray], Plan]


def fixed(case: Case, ids: IntArray) -> Plan:
    """Some experts, drawn once, stay in fast memory; the others are copied whenever they are asked for."""
    experts = case.shape.num_experts
    away = round(case.offloaded * experts)
    missing = np.zeros(experts, dtype=bool)
    missing[np.random.default_rng([case.seed, 3, experts]).permutation(experts)[:away]] = True
    runs = np.unique(ids).astype(np.int32)
    return Plan(runs, missing[runs])
