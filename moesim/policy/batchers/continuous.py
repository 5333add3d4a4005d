"""Continuous batching: a request joins as soon as another has ended, and prompts fill what decode leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.policy.batchers.gather import gather
from moesim.policy.batchers.requests import Requests, require
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True)
class Continuous:
    """Continuous batching with chunked prefill; all requests wait at the start (a closed loop).

    Every step takes one token of each running request that decodes, in order of admission, then prompt
    tokens of running requests, until `budget` tokens are taken. A request that has ended makes room for the
    next.

    Parameters
    ----------
    requests
        Most requests that run at once.
    budget
        Most tokens of a step, at least `requests` so that all can decode; 0 sets no limit: a prompt joins
        as a whole.
    """

    requests: int = 1
    budget: int = 0

    def __post_init__(self) -> None:
        require("continuous", {"requests": (self.requests, 1), "budget": (self.budget, 0)})
        if self.budget:
            require("continuous", {"budget": (self.budget, self.requests)})

    def form(self, trace: RoutingTrace, kept: npt.NDArray[np.bool_] | None = None) -> Steps:
        """Steps until every request has ended."""
        found = Requests.of(trace)
        budget = self.budget or len(found.rows) + 1
        rows, bounds = joined(found.rows, found.first, found.prompt, self.requests, budget)
        return gather(trace, rows, bounds, kept)


@compiled
def joined(
    rows: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    prompt: npt.NDArray[np.int64],
    most: int,
    budget: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows by step, and the first of each step.

    Parameters
    ----------
    rows, first, prompt
        Of `Requests`.
    most
        Requests that run at once.
    budget
        Tokens of a step, at least `most`.

    Returns
    -------
    tuple
        int64 ``[tokens]`` and int64 ``[steps + 1]``.

    Examples
    --------
    Requests of 2, 1 and 1 decoded tokens, two at a time:

    >>> none = np.zeros(3, np.int64)
    >>> taken, bounds = joined(np.arange(4), np.array([0, 2, 3, 4]), none, 2, 9)
    >>> taken.tolist(), bounds.tolist()
    ([0, 2, 1, 3], [0, 2, 4])
    """
    taken = np.empty(len(rows), np.int64)
    bounds = np.empty(len(rows) + 1, np.int64)
    bounds[0] = 0
    out, steps, waiting, running = 0, 0, 0, 0
    requests = len(first) - 1
    active = np.empty(most, np.int64)
    done = np.zeros(most, np.int64)
    while out < len(rows):
        while running < most and waiting < requests:
            active[running], done[running] = waiting, 0
            running += 1
            waiting += 1
        left = budget
        for decoding in (True, False):
            for i in range(running):
                r = active[i]
                if decoding and done[i] >= prompt[r]:
                    taken[out] = rows[first[r] + done[i]]
                    out += 1
                    left -= 1
                    # Told apart from a prompt that ends in this very step.
                    done[i] = -done[i] - 1
                elif not decoding and 0 <= done[i] < prompt[r]:
                    end = min(prompt[r], done[i] + left)
                    for place in range(done[i], end):
                        taken[out] = rows[first[r] + place]
                        out += 1
                        left -= 1
                    done[i] = end
        steps += 1
        bounds[steps] = out
        stay = 0
        for i in range(running):
            r = active[i]
            at = -done[i] if done[i] < 0 else done[i]
            if at < first[r + 1] - first[r]:
                active[stay], done[stay] = r, at
                stay += 1
        running = stay
    return taken, bounds[: steps + 1].copy()
