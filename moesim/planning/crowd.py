"""Traffic as a steady state sees it: requests that stand for all of them, and how unevenly they come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.planning.types import Traffic
from moesim.requests import RequestTrace

F8 = npt.NDArray[np.float64]

#: Requests that stand for all; quantiles of the lengths differ from those of all by a percent or two.
MEMBERS = 64
#: Requests in a window in which arrivals are counted: about as many as share a replica.
WINDOW = 64


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """Requests that stand for all; arrays are ``[members]``.

    Parameters
    ----------
    prompt, fresh, output
        Tokens: of prompts, of these those that no earlier prompt began with, and generated ones.
    context
        Mean context of a request as it decodes. Long outputs are met more often.
    longest
        Tokens of the longest request of all, with its output.
    dispersion
        Variance over mean of arrivals in a window; 1 for Poisson.
    request_rate
        Of all, per second.
    """

    prompt: F8
    fresh: F8
    output: F8
    context: float
    longest: int
    dispersion: float
    request_rate: float

    @classmethod
    def of(cls, traffic: Traffic) -> Crowd:
        """Digest requests.

        Examples
        --------
        >>> from moesim.requests import generate_requests
        >>> crowd = Crowd.of(Traffic(generate_requests(1000, "poisson:5", 100, 10), 5.0))
        >>> len(crowd.prompt), crowd.context, crowd.longest
        (64, 105.0, 110)
        """
        requests = traffic.requests
        fresh = fresh_tokens(requests)
        prompt, output = requests.input_tokens.astype(float), requests.output_tokens.astype(float)
        # Every n-th in order of work, so that the members spread over prompts and outputs alike.
        order = np.lexsort((output, fresh))
        chosen = order[(np.arange(MEMBERS) * len(order) + len(order) // 2) // MEMBERS % len(order)]
        context = float((output * (prompt + output / 2.0)).sum() / output.sum())
        return cls(
            prompt[chosen],
            fresh[chosen],
            output[chosen],
            context,
            int((prompt + output).max()),
            dispersion(requests.arrival_s),
            traffic.request_rate,
        )

    def dispersion_of(self, request_rate: float | F8) -> F8:
        """Dispersion of a part of the traffic that was drawn from it at random."""
        part = np.minimum(np.asarray(request_rate) / self.request_rate, 1.0)
        return np.asarray(1.0 + (self.dispersion - 1.0) * part)


def check_traffic(traffic: Traffic) -> list[Fault]:
    """What is wrong with traffic."""
    found = []
    if not len(traffic.requests):
        found.append(Fault("holds no requests", "traffic"))
    if not 0 < traffic.request_rate < 1e9:
        found.append(
            Fault(
                "must be above 0, and finite", "--request-rate", traffic.request_rate, "0 to 1e9 per second"
            )
        )
    return found


def rate_of(requests: RequestTrace) -> float:
    """Mean rate of arrivals per second.

    Raises
    ------
    ConfigError
        If all arrive at once, which has no rate.
    """
    span = float(requests.arrival_s[-1] - requests.arrival_s[0]) if len(requests) > 1 else 0.0
    if not span > 0:
        raise ConfigError(Fault("all requests arrive at once, which is no rate", "--request-rate"))
    return (len(requests) - 1) / span


def fresh_tokens(requests: RequestTrace) -> F8:
    """Prompt tokens that no earlier prompt began with, at least one, ``[requests]``.

    No cache of prefixes, however large, finds more than the rest.
    """
    fresh = requests.input_tokens.astype(np.float64)
    hashes, ptr, block = requests.prefix_hashes, requests.prefix_ptr, requests.prefix_block_tokens
    if hashes is None or ptr is None or block is None:
        return fresh
    seen: set[int] = set()
    for i in range(len(requests)):
        mine = hashes[ptr[i] : ptr[i + 1]].tolist()
        known = 0
        while known < len(mine) and mine[known] in seen:
            known += 1
        seen.update(mine)
        fresh[i] = max(fresh[i] - known * block, 1.0)
    return fresh


def dispersion(arrival_s: F8) -> float:
    """Variance over mean of the number of arrivals in windows of `WINDOW` arrivals on average.

    >>> dispersion(np.arange(100_000.0)) < 0.1
    True
    """
    span = float(arrival_s[-1] - arrival_s[0]) if len(arrival_s) else 0.0
    windows = len(arrival_s) // WINDOW
    if windows < 4 or not span > 0:
        return 1.0
    edges = arrival_s[0] + span * np.arange(windows + 1) / windows
    counts = np.diff(np.searchsorted(arrival_s, edges))
    return float(counts.var() / counts.mean())
