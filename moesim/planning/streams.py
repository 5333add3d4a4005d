"""What the simulator replays: stretches of the traffic, the same for every candidate.

A stretch warms the fleet up, then comes the part that is judged, then arrivals go on until what is judged is
done. All candidates see the same stretches, so that a difference between two of them is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.planning.crowd import F8, fresh_tokens, rate_of
from moesim.planning.types import Slo, Traffic
from moesim.requests import RequestTrace, take

#: Requests of a stretch that are judged: with 5000, a share of 99 % is known to 0.15 points.
JUDGED = 5000
#: Requests of a stretch in all, at most.
MOST = 40_000
#: What is waited for the first token, and for each other one, where no limit says what is expected.
TTFT_S, TPOT_S = 2.0, 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One stretch.

    Parameters
    ----------
    requests
        In order of arrival.
    judged
        Whose latencies count, bool ``[requests]``.
    fresh
        Prompt tokens of each that no earlier prompt of the stretch began with, ``[requests]``.
    """

    requests: RequestTrace
    judged: npt.NDArray[np.bool_]
    fresh: F8


def streams(traffic: Traffic, slo: Slo, replications: int, seed: int) -> tuple[Stream, ...]:
    """Stretches of the traffic, brought to its rate.

    They begin at places spread evenly over the traffic from a random one on, and go round at its end; where a
    stretch is longer than the traffic, prompts of a second round begin with nothing that is known.

    Parameters
    ----------
    replications
        How many.
    seed
        Of the places.
    """
    requests, rate = traffic.requests, traffic.request_rate
    stay_s = expected_stay_s(slo, float(requests.output_tokens.mean()))
    around = int(np.ceil(rate * stay_s))
    judged = min(max(JUDGED, around), MOST // 2)
    around = min(max(around, JUDGED // 8), (MOST - judged) // 2)
    scale = rate_of(requests) / rate if len(requests) > 1 else 1.0
    offset = np.random.default_rng([seed, 17]).random()
    found = []
    for i in range(replications):
        start = int((offset + i / replications) * len(requests)) % len(requests)
        part = _stretch(requests, start, judged + 2 * around, scale, 1.0 / rate)
        mask = np.zeros(len(part), bool)
        mask[around : around + judged] = True
        found.append(Stream(part, mask, fresh_tokens(part)))
    return tuple(found)


def expected_stay_s(slo: Slo, output_tokens: float) -> float:
    """How long a request is in the system where it just meets its limits."""
    if "e2el_s" in slo.limits:
        return slo.limits["e2el_s"]
    return slo.limits.get("ttft_s", TTFT_S) + output_tokens * slo.limits.get("tpot_s", TPOT_S)


def _stretch(requests: RequestTrace, start: int, many: int, scale: float, gap_s: float) -> RequestTrace:
    """So many requests from one on, round and round."""
    n = len(requests)
    place = start + np.arange(many)
    lap = place // n
    # From the last request to the first of the next round it takes an average gap.
    length_s = (requests.arrival_s[-1] - requests.arrival_s[0]) * scale + gap_s
    part = take(requests, place % n)
    times = (part.arrival_s - requests.arrival_s[0]) * scale + lap * length_s
    part = replace(part, arrival_s=times - times[0], concurrency=None)
    if part.prefix_hashes is not None and part.prefix_ptr is not None and lap[-1] > lap[0]:
        blocks = np.repeat(lap, np.diff(part.prefix_ptr))
        _, names = np.unique(np.stack([part.prefix_hashes, blocks]), axis=1, return_inverse=True)
        part = replace(part, prefix_hashes=names.reshape(-1).astype(np.int64))
    return part
