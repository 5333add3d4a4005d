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


@dataclass(frozen=True, slots=True)
class Cached:
    """Experts stay as a cache with this rule has them, after other tokens of the same routing.

    Decisions are those of the replay engine and its policy objects (`moesim.reference.placed`).

    Parameters
    ----------
    rule
        As for `moesim.reference.placed.placed_case`: ``lru``, ``on-demand``, ``static``...
    spares
        Slots that copies without a place in the cache pass through.
    """

    rule: str = "lru"
    spares: int = 2

    def __call__(self, case: Case, ids: IntArray, before: IntArray | None = None) -> Plan:
        """Plan of one run."""
        if not round(case.offloaded * case.shape.num_experts):
            return fixed(case, ids)
        from moesim.reference.placed import placed_case

        rounds = placed_case(case, ids, before=before, rule=self.rule, spares=self.spares).cell.rounds
        runs = np.concatenate([one.runs for one in rounds]).astype(np.int32)
        return Plan(runs, np.isin(runs, [load.expert for one in rounds for load in one.loads]))
