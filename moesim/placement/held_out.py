"""Plans fitted to single steps, and kept only if they do better than greedy on steps they were not fitted to.

A search over sampled batches fits their noise too, the more so the fewer requests they come from. So the
requests are dealt into folds; a plan is fitted without each fold in turn and judged on it, beside greedy's
plan from the same steps. If the mean over folds, steps and layers is lower, the plan is fitted once more to
all steps; otherwise the answer is greedy's. It is one decision per plan: on a single layer the difference is
mostly noise, and choosing by it layer by layer would choose noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.layout import ExpertMap
from moesim.placement.problem import Problem
from moesim.placement.solution import evaluate
from moesim.placement.solvers.greedy import FloatArray, IntArray, greedy
from moesim.placement.solvers.steps import search_steps

#: Parts that the requests are dealt into; each is held out once.
FOLDS = 3
#: Requests below which batches of theirs say little about others, and a warning is due.
FEW_REQUESTS = 30


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A plan, and how its method did on steps held out.

    Parameters
    ----------
    table
        physical_to_logical, int64 ``[layers, slots]``.
    kept
        Whether it is the searched plan; else greedy's.
    greedy, searched
        Largest over mean rank load on held-out steps, mean over folds, steps and layers; NaN if nothing could
        be held out.
    groups
        Groups of steps, as requests, that there were.
    """

    table: IntArray
    kept: bool
    greedy: float
    searched: float
    groups: int

    @property
    def few(self) -> bool:
        """Whether there were too few requests to fit to."""
        return self.groups < FEW_REQUESTS


def fit_steps(
    problem: Problem,
    groups: IntArray | None = None,
    *,
    seed: int = 0,
    effort: float = 1.0,
    recount: bool = False,
) -> HeldOut:
    """Fit a plan to the steps of a problem, with some held out to decide.

    Parameters
    ----------
    problem
        With loads ``[steps, layers, experts]``.
    groups
        What each step belongs to, int ``[steps]``: its request, or the part of the requests its batch was
        drawn from. Steps of a group are held out together. Each step is its own group if None.
    seed, effort, recount
        Those of `search_steps`.

    Raises
    ------
    ConfigError
        If `groups` does not fit the steps.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> hot = np.arange(16) % 4 == rng.integers(4, size=(40, 1, 1))  # every fourth expert at a time
    >>> found = fit_steps(Problem(rng.gamma(9.0, size=16) * (1.0 + 4.0 * hot), ranks=4))
    >>> found.kept, found.searched < found.greedy
    (True, True)
    """
    steps = problem.steps
    groups = np.arange(len(steps)) if groups is None else np.asarray(groups)
    if groups.shape != (len(steps),):
        raise ConfigError(Fault("must have one entry per step", "groups", groups.shape, f"({len(steps)},)"))

    def sample(chosen: IntArray) -> FloatArray:
        return steps[np.isin(groups, chosen)]

    return fit_sampled(
        sample,
        np.unique(groups),
        problem.ranks,
        problem.redundant,
        seed=seed,
        effort=effort,
        recount=recount,
    )


def fit_sampled(
    sample: Callable[[IntArray], FloatArray],
    requests: IntArray,
    ranks: int,
    redundant: int = 0,
    *,
    seed: int = 0,
    effort: float = 1.0,
    recount: bool = False,
) -> HeldOut:
    """Fit a plan to batches that are formed of some requests, with some requests held out to decide.

    Parameters
    ----------
    sample
        Makes steps ``[steps, layers, experts]`` of some of the requests, as `moesim.placement.batches` does.
    requests
        Ids of all requests.
    ranks, redundant
        Those of `Problem`.
    seed, effort, recount
        Those of `search_steps`.
    """

    def fit(steps: FloatArray, start: IntArray) -> IntArray:
        return search_steps(steps, ranks, start, seed=seed, effort=effort, recount=recount)

    order = np.random.default_rng(seed).permutation(requests)
    judged = []
    for fold in range(FOLDS if len(order) >= FOLDS else 0):
        steps, other = sample(np.delete(order, np.s_[fold::FOLDS])), sample(order[fold::FOLDS])
        start = greedy(steps.sum(axis=0), ranks, redundant)
        judged.append([_mean(table, other, ranks) for table in (start, fit(steps, start))])
    plain, searched = np.mean(judged, axis=0).tolist() if judged else (np.nan, np.nan)
    steps = sample(order)
    table = greedy(steps.sum(axis=0), ranks, redundant)
    kept = searched < plain
    return HeldOut(fit(steps, table) if kept else table, kept, plain, searched, len(order))


def _mean(table: IntArray, steps: FloatArray, ranks: int) -> float:
    return evaluate(ExpertMap(table, steps.shape[2], ranks), steps).mean
