"""Plans worth looking at for an objective, and the choice among them.

Greedy plans, flat and by groups, are always among them: what is chosen is never worse than the better of
these, under the objective and the dispatch rule that were asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.layout.sharing import rule_of
from moesim.placement.held_out import HeldOut, fit_steps
from moesim.placement.objective import WITHIN, Objective, term_values
from moesim.placement.problem import Problem, hierarchy_faults
from moesim.placement.searches import SEARCHES
from moesim.placement.solvers.greedy import FloatArray, IntArray, greedy

#: Terms whose value in a layer depends on the plan of others.
COUPLED = ("transitions",)


def incumbents(problem: Problem) -> list[IntArray]:
    """The greedy plans, flat and, where groups and nodes allow it, by groups."""
    totals, ranks, redundant = problem.totals, problem.ranks, problem.redundant
    found = [greedy(totals, ranks, redundant, rooms=problem.rooms, speeds=problem.speeds)]
    if problem.even and problem.nodes > 1 and not hierarchy_faults(problem):
        found.append(greedy(totals, ranks, redundant, problem.groups, problem.nodes))
    return found


def balanced(problem: Problem, start: IntArray, seed: int, effort: float) -> IntArray:
    """Search for the most even plan on the totals, under the dispatch rule."""
    if problem.even and rule_of(problem.dispatch) != "even":
        from moesim.placement.solvers.under import search_under

        return search_under(problem, start, seed=seed, effort=effort, rows=problem.rows)
    if in_pairs(problem):
        from moesim.placement.ilp.counts import count_search

        return count_search(problem.totals, problem.ranks, problem.slots, seed=seed, effort=effort).table
    from moesim.placement.solvers.anneal import search

    return search(problem.totals, problem.ranks, start, speeds=problem.speeds, seed=seed, effort=effort)


def in_pairs(problem: Problem) -> bool:
    """Whether two slots per rank and spares make replica counts all there is to decide."""
    return (
        problem.even and rule_of(problem.dispatch) == "even" and problem.room == 2 and problem.redundant > 0
    )


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Plans of every search that an objective calls for.

    Parameters
    ----------
    tables
        ``[layers, slots]`` each, greedy ones first.
    notes
        What was decided on the way.
    """

    tables: list[IntArray]
    notes: tuple[str, ...] = ()


def candidates(problem: Problem, objective: Objective, seed: int, effort: float) -> Candidates:
    """Search for plans, term by term."""
    found = incumbents(problem)
    notes: tuple[str, ...] = ()
    terms = [term for term in objective.terms if term in SEARCHES]
    if problem.folds is not None and "expected-max" in terms:
        # Plans that were not held against other steps might only look better on these.
        held_out = fit_steps(problem, problem.folds, seed=seed, effort=effort)
        found += [held_out.table] if held_out.kept else []
        notes = (_told(held_out),)
        terms.remove("expected-max")
    else:
        start = choose(problem, Objective(), found)
        found.append(balanced(problem, start, seed, effort))
    for term in terms:
        found += SEARCHES[term](problem, found, seed, effort)
    return Candidates(found, notes)


def _told(held_out: HeldOut) -> str:
    kept = "the searched plan is kept" if held_out.kept else "greedy's plan is kept"
    return (
        f"on parts of the traffic held out, largest over mean rank load is {held_out.greedy:.4f} with greedy "
        f"and {held_out.searched:.4f} with search: {kept}"
    )


def choose(problem: Problem, objective: Objective, tables: Sequence[IntArray]) -> IntArray:
    """Take the best plan: of each layer, or as a whole where layers depend on each other.

    Of equal ones the first.
    """
    plans = [problem.plan(table) for table in tables]
    # [terms, plans, layers]; idle layers are alike in all plans.
    values = np.nan_to_num(
        np.array([[term_values(problem, plan, term) for plan in plans] for term in objective.terms])
    )
    if rule_of(problem.dispatch) == "sglang-static" or set(objective.terms) & set(COUPLED):
        return tables[int(_best(values.mean(axis=2, keepdims=True), objective)[0])]
    best = _best(values, objective)
    return np.stack(tables)[best, np.arange(problem.layers)]


def _best(values: FloatArray, objective: Objective) -> npt.NDArray[np.intp]:
    """Index of the best plan, ``[layers]``, from ``[terms, plans, layers]``."""
    if not objective.ordered:
        weights = np.asarray(objective.weights)[:, None, None]
        return np.asarray((weights * values).sum(axis=0).argmin(axis=0))
    alive = np.ones(values.shape[1:], dtype=bool)
    for term in values:
        least = np.where(alive, term, np.inf).min(axis=0)
        alive &= term <= least + WITHIN * np.abs(least)
    return np.asarray(np.where(alive, values[-1], np.inf).argmin(axis=0))
