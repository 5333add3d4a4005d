"""Objectives of placement programmes; all are minimised."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.placement.ilp.variables import Variables, total
from moesim.placement.solvers.greedy import FloatArray


def least(problem: Any, variables: Variables) -> None:
    """Sum of some variables: a peak, deviations from a mean, the longest link of each layer."""
    problem.setObjective(total(variables))


def leaving(problem: Any, q: Variables, pairs: FloatArray) -> None:
    """Transitions between experts of consecutive layers that are on different ranks, less all transitions.

    q ``[layers - 1, experts, experts, ranks]`` is 1 where both experts are on a rank; pairs ``[layers - 1,
    experts, experts]`` counts transitions. What stays counts negative, so the objective has no constant.
    """
    problem.setObjective(total(q, -np.broadcast_to(pairs[..., None], q.shape)))
