"""Searches that bring their own bounds: replica counts of slots in pairs, and integer programmes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.layout.sharing import rule_of
from moesim.placement.bound import Bound
from moesim.placement.ilp.answer import Listener, Progress
from moesim.placement.objective import Objective
from moesim.placement.portfolio import candidates, choose, in_pairs, incumbents
from moesim.placement.problem import Problem
from moesim.placement.solvers.greedy import IntArray

#: Gap that an exact method is content with, relative to the bound.
PROVEN = 5e-3
#: Slots up to which integer programmes without spares take no time: there the optimum is proven by default.
SMALL = 16
#: Gap at which that is called the optimum, and seconds it may take by default.
OPTIMAL, BRIEF_S = 1e-6, 5.0


def brings_proof(problem: Problem) -> bool:
    """Whether the default search has a proof of its own."""
    plain = problem.even and rule_of(problem.dispatch) == "even"
    # With spares a programme may need longer than anyone waits, and then its plan depends on the machine.
    return in_pairs(problem) or (plain and problem.slots <= SMALL and not problem.redundant)


def proof(
    problem: Problem,
    exact: bool,
    seed: int,
    effort: float,
    time_limit_s: float,
    progress: Listener | None,
) -> tuple[IntArray, Bound]:
    """Place for the largest rank load on the totals, with a bound in largest over mean rank load.

    Parameters
    ----------
    exact
        Whether integer programmes follow the search until every layer is within `PROVEN` of its bound.
    time_limit_s, progress
        Of the integer programmes.
    """
    loads, ranks, slots = problem.totals, problem.ranks, problem.slots
    mean = loads.sum(axis=1) / ranks

    def tell(state: Progress) -> None:
        if progress is not None:
            unit = mean[state.layer]
            progress(replace(state, incumbent=state.incumbent / unit, bound=state.bound / unit))

    if in_pairs(problem):
        from moesim.placement.ilp.counts import count_search, exact_counts

        answer = (
            exact_counts(
                loads,
                ranks,
                slots,
                tolerance=PROVEN,
                time_limit_s=time_limit_s,
                seed=seed,
                effort=effort,
                progress=tell,
            )
            if exact
            else count_search(loads, ranks, slots, seed=seed, effort=effort)
        )
    else:
        from moesim.placement.ilp.balance import balance
        from moesim.placement.ilp.solve import Run

        start = choose(problem, Objective(), candidates(problem, Objective(), seed, effort).tables)
        limit = time_limit_s if exact else min(time_limit_s, BRIEF_S)
        run = Run(time_limit_s=limit, gap=OPTIMAL if problem.slots <= SMALL else PROVEN, seed=seed)
        answer = balance(loads, ranks, slots, start=start, run=run, progress=tell)
    bound = np.divide(answer.bound, mean, out=np.full(len(mean), np.nan), where=mean > 0)
    table = choose(problem, Objective(), [answer.table, *incumbents(problem)])
    return table, Bound(bound, answer.kind)
