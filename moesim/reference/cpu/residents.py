"""Which experts run in what order, and which of them must be copied first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


class Residents(Protocol):
    """Decides which experts are there."""

    def __call__(self, case: Case, ids: IntArray, before: IntArray | None = None) -> Plan:
        """Plan of one run.

        Parameters
        ----------
        case
            What is run.
        ids
            Experts of its tokens, ``[T, k]``.
        before
            Experts of tokens that came before, ``[n, k]``; None to have them drawn.
        """
        ...


def fixed(case: Case, ids: IntArray, before: IntArray | None = None) -> Plan:  # noqa: ARG001 - as Residents
    """Some experts, drawn once, stay in fast memory; the others are copied whenever they are asked for."""
    experts = case.shape.num_experts
    away = round(case.offloaded * experts)
    missing = np.zeros(experts, dtype=bool)
    missing[np.random.default_rng([case.seed, 3, experts]).permutation(experts)[:away]] = True
    runs = np.unique(ids).astype(np.int32)
    return Plan(runs, missing[runs])
