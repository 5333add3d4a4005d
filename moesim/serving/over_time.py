"""A run over its time: requests that run and wait, and the part of the cache in use, span by span."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.serving.outcome import Outcome
from moesim.serving.state import LOG_BLOCKS, LOG_REPLICA, LOG_START

F8 = npt.NDArray[np.float64]

SPANS = 200


@dataclass(frozen=True, slots=True, eq=False)
class OverTime:
    """Means over equal spans of time.

    Parameters
    ----------
    edges_s
        Ends of the spans, ``[spans + 1]``.
    running, waiting
        Requests in each span, ``[spans]``.
    kv_share
        Blocks in use over all blocks, ``[spans]``; NaN beyond the steps that were kept, None without any.
    """

    edges_s: F8
    running: F8
    waiting: F8
    kv_share: F8 | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, to five digits; NaN as None."""
        series = {"running": self.running, "waiting": self.waiting, "kv_share": self.kv_share}
        return {
            "from_s": float(self.edges_s[0]),
            "to_s": float(self.edges_s[-1]),
            "spans": len(self.running),
            **{name: None if values is None else _short(values) for name, values in series.items()},
        }


def over_time(outcome: Outcome, spans: int = SPANS) -> OverTime:
    """Requests and cache of a run, from its beginning to its end.

    Parameters
    ----------
    outcome
        What happened.
    spans
        How many, of equal length.
    """
    p, (begin, end) = outcome.state.progress, outcome.span_s
    found = requests_over_time(
        p.sent_s, p.scheduled_s, np.where(outcome.done | outcome.lost, p.last_s, np.nan), begin, end, spans
    )
    return OverTime(found.edges_s, found.running, found.waiting, _cache(outcome, found.edges_s))


def requests_over_time(
    sent_s: F8, scheduled_s: F8, last_s: F8, begin: float, end: float, spans: int = SPANS
) -> OverTime:
    """Requests that run and wait, from the times of each.

    Parameters
    ----------
    sent_s, scheduled_s, last_s
        When each request was sent, first was in a step, and had its last token, ``[requests]``; NaN for what
        did not happen, which lasts to the end.
    begin, end
        Of the run; a run of no length is made a second long.
    spans
        How many, of equal length.

    Examples
    --------
    Two requests, one second apart, on a machine for one that takes two seconds for each.

    >>> found = requests_over_time(np.array([0.0, 1.0]), np.array([0.0, 2.0]), np.array([2.0, 4.0]), 0, 4, 4)
    >>> found.running.tolist(), found.waiting.tolist()
    ([1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0])
    """
    edges = np.linspace(begin, end if end > begin else begin + 1.0, spans + 1)
    sent, scheduled, last = (np.where(np.isfinite(t), t, edges[-1]) for t in (sent_s, scheduled_s, last_s))
    known = np.isfinite(sent_s)
    # What never ran, or was sent again, has nothing between its times.
    scheduled = np.maximum(scheduled, sent)
    gone = [_passed(t[known], edges) for t in (sent, scheduled, np.maximum(last, scheduled))]
    width = np.diff(edges)
    waiting, running = (np.diff(before - after) / width for before, after in pairwise(gone))
    return OverTime(edges, np.maximum(running, 0.0), np.maximum(waiting, 0.0))


def _passed(times: F8, at: F8) -> F8:
    """Seconds that have passed since all the `times` before each moment, summed: ``[moments]``."""
    times = np.sort(times) - at[0]
    sums = np.concatenate([[0.0], np.cumsum(times)])
    before = np.searchsorted(times, at - at[0], side="right")
    return np.asarray(before * (at - at[0]) - sums[before])


def _cache(outcome: Outcome, edges: F8) -> F8 | None:
    """Share of all blocks in use in each span; a step's blocks stay in use until the next step."""
    tally, blocks = outcome.state.tally, float(outcome.state.lanes.capacity.sum())
    logged = min(int(tally.logged[0]), len(tally.log))
    if not logged or not blocks:
        return None
    log = tally.log[:logged]
    used = np.zeros(len(edges) - 1)
    for replica in np.unique(log[:, LOG_REPLICA]):
        steps = log[log[:, LOG_REPLICA] == replica]
        starts, held = steps[:, LOG_START], steps[:, LOG_BLOCKS]
        # The integral of steps is made of straight lines.
        times = np.concatenate([[min(edges[0], starts[0])], starts, [max(edges[-1], starts[-1])]])
        height = np.concatenate([[0.0], held])
        area = np.concatenate([[0.0], np.cumsum(height * np.diff(times))])
        used += np.diff(np.interp(edges, times, area)) / np.diff(edges)
    share = used / blocks
    if int(tally.logged[0]) > len(tally.log):
        share[edges[1:] > log[-1, LOG_START]] = np.nan
    return share


def _short(values: F8) -> list[float | None]:
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in values]
