"""A batch's way through a layer as a graph of jobs, priced for many policies at once.

MoE-Gen (arXiv 2503.09716, section 4.4, equation 4) takes the time of a step as the critical path of a graph
whose nodes are computations and copies: ``dp[v] = max over predecessors(dp) + cost(v)``. Jobs that share a
resource run in the order in which they are added, so each depends on the one before it there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: A predecessor: one node, or one per policy; below zero is none.
Predecessor = int | npt.NDArray[np.int64]


class Dag:
    """Jobs in topological order with their earliest finish, ``[jobs, policies]``.

    Parameters
    ----------
    policies
        How many policies are priced side by side.
    capacity
        Jobs to make room for; it grows when there are more.

    Examples
    --------
    Two copies on one link, each followed by a computation on one processor:

    >>> dag = Dag(1)
    >>> first = dag.add("link", 2.0)
    >>> work = dag.add("gpu", 3.0, [first])
    >>> second = dag.add("link", 2.0)
    >>> last = dag.add("gpu", 3.0, [second])
    >>> dag.finish[last].tolist(), dag.busy["link"].tolist()
    ([8.0], [4.0])
    """

    def __init__(self, policies: int, capacity: int = 256) -> None:
        self.policies = policies
        self.count = 0
        self.busy: dict[str, Array] = {}
        self.edges: list[tuple[Predecessor, ...]] = []
        self._finish = np.zeros((capacity, policies))
        self._costs = np.zeros((capacity, policies))
        self._last: dict[str, int] = {}
        self._columns = np.arange(policies)

    @property
    def finish(self) -> Array:
        """Earliest finish of each job, ``[jobs, policies]``."""
        return self._finish[: self.count]

    @property
    def costs(self) -> Array:
        """Seconds of each job, ``[jobs, policies]``."""
        return self._costs[: self.count]

    def add(self, resource: str, cost: Array | float, after: Iterable[Predecessor] = ()) -> int:
        """Add one job.

        Parameters
        ----------
        resource
            What works on it; it waits for the job added there before. Empty for a job that needs none.
        cost
            Seconds, one number or ``[policies]``.
        after
            Jobs it waits for.

        Returns
        -------
        int
            The new node.
        """
        node = self.count
        if node == len(self._finish):
            self._finish = np.concatenate([self._finish, np.zeros_like(self._finish)])
            self._costs = np.concatenate([self._costs, np.zeros_like(self._costs)])
        waits = tuple(after)
        if resource in self._last:
            waits = (*waits, self._last[resource])
        start = np.zeros(self.policies)
        for wait in waits:
            if isinstance(wait, int):
                if wait >= 0:
                    np.maximum(start, self._finish[wait], out=start)
            else:
                np.maximum(start, np.where(wait < 0, 0.0, self._finish[wait, self._columns]), out=start)
        self._costs[node] = cost
        self._finish[node] = start + cost
        self.edges.append(waits)
        if resource:
            self._last[resource] = node
            total = self.busy.setdefault(resource, np.zeros(self.policies))
            total += cost
        self.count += 1
        return node

    def makespan(self) -> Array:
        """When the last job ends, ``[policies]``: the critical path."""
        return np.asarray(self.finish.max(axis=0)) if self.count else np.zeros(self.policies)

    def edges_of(self, policy: int) -> list[tuple[int, int]]:
        """Edges ``(from, to)`` of the graph of one policy, for other solvers."""
        found = []
        for node, waits in enumerate(self.edges):
            for wait in waits:
                source = wait if isinstance(wait, int) else int(wait[policy])
                if source >= 0:
                    found.append((source, node))
        return found
