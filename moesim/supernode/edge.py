"""Whole models on edge servers as experts: which of them to ask, within limits of energy and delay.

MoE^2 (arXiv 2501.09410) chooses on two levels: a set of servers that keeps the limits, and for each prompt a
few of that set by a gate. Its gate is trained once for all servers, since the best gate of a subset is that
of all servers with the others left out. Quality then rises with every server that joins, and so the best set
is among the largest ones that keep the limits.

`choose` tries those alone, `choose_all` every set; both find the same optimum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from moesim.engine.routing import Array

#: Servers up to which every set is tried.
MOST = 20


@dataclass(frozen=True, slots=True, eq=False)
class Servers:
    """Servers with one expert each; arrays are ``[servers]`` unless said otherwise.

    Parameters
    ----------
    quality
        Quality of each server's answer to each of a sample of prompts, ``[prompts, servers]``.
    energy_j
        Energy of one answer.
    delay_s
        Seconds of one answer.
    asked
        Servers that answer each prompt; the best answer counts.
    """

    quality: Array
    energy_j: Array
    delay_s: Array
    asked: int = 1

    def value(self, chosen: tuple[int, ...], hit: float = 1.0) -> float:
        """Mean quality of a set over the prompts; minus infinity for an empty one.

        Parameters
        ----------
        chosen
            The set.
        hit
            Share of prompts whose best server the gate finds; the others go to any of the set.
        """
        if not chosen:
            return -np.inf
        part = self.quality[:, list(chosen)]
        return float((hit * part.max(axis=1) + (1.0 - hit) * part.mean(axis=1)).mean())

    def energy(self, chosen: tuple[int, ...]) -> float:
        """Energy of a prompt that asks the `asked` dearest of a set: a limit has to hold for any choice."""
        return float(np.sort(self.energy_j[list(chosen)])[-self.asked :].sum())

    def delay(self, chosen: tuple[int, ...]) -> float:
        """Seconds of the slowest of a set, for which an answer may have to wait."""
        return float(self.delay_s[list(chosen)].max(initial=0.0))

    def keeps(self, chosen: tuple[int, ...], energy_j: float, delay_s: float) -> bool:
        """Whether a set keeps both limits."""
        return self.energy(chosen) <= energy_j and self.delay(chosen) <= delay_s


def choose_all(servers: Servers, energy_j: float, delay_s: float) -> tuple[int, ...]:
    """The best set of all sets that keep the limits; empty if none does."""
    count = servers.quality.shape[1]
    if count > MOST:
        raise ValueError(f"{count} servers have too many sets; at most {MOST}")
    every = (
        chosen
        for size in range(1, count + 1)
        for chosen in combinations(range(count), size)
        if servers.keeps(chosen, energy_j, delay_s)
    )
    return max(every, key=servers.value, default=())


def choose(servers: Servers, energy_j: float, delay_s: float) -> tuple[int, ...]:
    """The best set, searched among those that no server can join without breaking a limit.

    Parameters
    ----------
    servers
        What there is.
    energy_j, delay_s
        Limits of one answer.

    Examples
    --------
    A large model is better at everything, but two small ones together keep the limit of energy:

    >>> good = np.array([[0.9, 0.8, 0.1], [0.9, 0.2, 0.8]])
    >>> found = Servers(good, np.array([9.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0]))
    >>> choose(found, energy_j=10.0, delay_s=2.0), choose(found, energy_j=5.0, delay_s=2.0)
    ((0, 1, 2), (1, 2))
    """
    return max(_largest(servers, energy_j, delay_s), key=servers.value, default=())


def _largest(servers: Servers, energy_j: float, delay_s: float) -> Iterator[tuple[int, ...]]:
    """Sets that keep the limits and that nobody can join."""
    fast = [int(i) for i in np.argsort(servers.energy_j, kind="stable") if servers.delay_s[i] <= delay_s]
    for size in range(1, min(servers.asked, len(fast)) + 1):
        for top in combinations(range(len(fast)), size):
            # The dearest few decide the energy: whoever costs no more than the cheapest of them joins for
            # nothing. Fewer servers than are asked are all asked, and each costs.
            free = fast[: top[0]] if size == servers.asked else []
            chosen = tuple(sorted([*free, *(fast[i] for i in top)]))
            if servers.keeps(chosen, energy_j, delay_s):
                yield chosen
