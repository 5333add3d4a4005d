"""What a trace of requests holds, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.requests.types import RequestTrace


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in short."""

    total: int
    mean: float
    min: int
    median: float
    p90: float
    p99: float
    max: int

    @classmethod
    def of(cls, tokens: npt.NDArray[np.int32]) -> Spread:
        """The spread of some lengths."""
        median, p90, p99 = np.percentile(tokens, (50, 90, 99)).tolist()
        total = int(tokens.sum(dtype=np.int64))
        return cls(total, total / len(tokens), int(tokens.min()), median, p90, p99, int(tokens.max()))


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """A trace in short.

    Parameters
    ----------
    requests
        How many.
    duration_s
        From the first arrival to the last.
    rate_per_s
        Gaps over duration; None where all arrive together.
    gap_cv
        Standard deviation over mean of the gaps between arrivals: 1 for Poisson arrivals, more for bursts.
    peak_per_s
        Most arrivals in any second of the clock.
    input_tokens, output_tokens
        Spreads.
    sessions
        Conversations, if known.
    prefix_reuse
        Share of prompt blocks that lie in a prefix which an earlier request began with too: what a cache
        without limit would save. None without prefix hashes.
    """

    requests: int
    duration_s: float
    rate_per_s: float | None
    gap_cv: float | None
    peak_per_s: int
    input_tokens: Spread
    output_tokens: Spread
    sessions: int | None
    prefix_reuse: float | None


def summarise_requests(trace: RequestTrace) -> RequestSummary:
    """Compute the summary."""
    gaps = np.diff(trace.arrival_s)
    duration = float(trace.arrival_s[-1] - trace.arrival_s[0])
    seconds = np.floor(trace.arrival_s)
    return RequestSummary(
        requests=len(trace),
        duration_s=duration,
        rate_per_s=len(gaps) / duration if duration > 0 else None,
        gap_cv=float(gaps.std() / gaps.mean()) if duration > 0 else None,
        peak_per_s=int(np.unique(seconds, return_counts=True)[1].max()),
        input_tokens=Spread.of(trace.input_tokens),
        output_tokens=Spread.of(trace.output_tokens),
        sessions=None if trace.session is None else len(np.unique(trace.session)),
        prefix_reuse=prefix_reuse(trace),
    )


def prefix_reuse(trace: RequestTrace) -> float | None:
    """Share of prompt blocks in a prefix seen before; a block counts only if all before it were seen too."""
    if trace.prefix_hashes is None or len(trace.prefix_hashes) == 0:
        return None
    seen: set[int] = set()
    hits = 0
    for i in range(len(trace)):
        blocks = trace.hashes_of(i).tolist()
        for block in blocks:
            if block not in seen:
                break
            hits += 1
        seen.update(blocks)
    return hits / len(trace.prefix_hashes)
