"""The whole answer of a simulation as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.serving.outcome import Outcome
from moesim.serving.over_time import over_time
from moesim.serving.statistics import Summary

F8 = npt.NDArray[np.float64]

#: Latencies of single requests.
SINGLE = ("ttft_s", "tpot_s", "e2el_s", "queue_s")
_LEVELS = 101
_TAIL = 20


def document_of(summary: Summary, outcome: Outcome, *, notes: Sequence[str] = ()) -> dict[str, Any]:
    """What was served by what, how it went, and what single requests saw.

    Parameters
    ----------
    summary
        Of the run, or of several.
    outcome
        Of the run; of several, of the first: distributions and what was over time are of it.
    notes
        Warnings before the summary's own.
    """
    about = outcome.about
    if about is None:
        raise ValueError("an outcome of loops alone says nothing of what served")
    values = summary.document()
    return {
        "feasible": True,
        "model": about.model,
        "hardware": about.hardware.name,
        "layout": str(about.layout),
        "replicas": about.fleet.replicas,
        "devices": about.devices,
        "router": about.fleet.router,
        "backend": about.engine.backend,
        "scheduler": asdict(about.scheduler),
        "traffic": {
            "source": outcome.requests.source,
            "concurrency": outcome.requests.concurrency,
            "input_tokens": float(outcome.requests.input_tokens.mean()),
            "output_tokens": float(outcome.requests.output_tokens.mean()),
        },
        **values,
        "over_time": over_time(outcome).to_dict(),
        **distributions(
            {name: getattr(outcome, name) for name in SINGLE},
            outcome.done,
            chosen_of(outcome.state.progress.sent_s, values),
            values["goodput"] or {},
        ),
        "warnings": [*notes, *summary.notes],
    }


def chosen_of(sent_s: F8, document: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Requests sent in the window that a document's statistics are of; of several runs, all of the first."""
    window = document.get("window")
    if window is None or document.get("replications"):
        return np.isfinite(sent_s)
    order = np.argsort(sent_s, kind="stable")
    order = order[np.isfinite(sent_s[order])]
    chosen = np.zeros(len(sent_s), np.bool_)
    chosen[order[int(window["cut_at_start"]) : len(order) - int(window["cut_at_end"])]] = True
    return chosen


def distributions(
    latencies: Mapping[str, F8],
    done: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.bool_],
    limits: Mapping[str, float],
) -> dict[str, Any]:
    """Quantiles of each latency, and the share of requests that stay within each limit.

    Parameters
    ----------
    latencies
        Seconds of every request by name, ``[requests]``; NaN for what did not happen.
    done, chosen
        Requests that were answered, and that count, bool ``[requests]``.
    limits
        Seconds by name of a latency.

    Examples
    --------
    >>> found = distributions({"ttft_s": np.array([1.0, 2.0, 4.0])}, *[np.ones(3, bool)] * 2, {"ttft_s": 2.0})
    >>> found["distributions"]["ttft_s"], found["met"]
    ({'levels': [0.0, 0.5, 1.0], 'values_s': [1.0, 2.0, 4.0], 'n': 3}, {'ttft_s': 0.6666666666666666})
    """
    found: dict[str, Any] = {}
    for name, seconds in latencies.items():
        sample = seconds[done & chosen]
        sample = sample[np.isfinite(sample)]
        if len(sample):
            levels = levels_of(len(sample))
            values = np.maximum.accumulate(np.quantile(sample, levels))
            found[name] = {"levels": levels.tolist(), "values_s": values.tolist(), "n": len(sample)}
    within = {
        name: float((done & ~(latencies[name] > limit))[chosen].mean())
        for name, limit in limits.items()
        if name in latencies and chosen.any()
    }
    return {"distributions": found, "met": within}


def levels_of(n: int) -> F8:
    """Levels that a sample is told by: all of a small one; of a large one every percent, and its tail.

    >>> levels_of(3).tolist(), len(levels_of(1_000_000))
    ([0.0, 0.5, 1.0], 122)
    """
    if n <= _LEVELS:
        return np.linspace(0.0, 1.0, n) if n > 1 else np.array([0.5])
    tail = 1.0 - np.geomspace(0.1, 1.0 / n, _TAIL)
    return np.unique(np.round(np.concatenate([np.linspace(0.0, 1.0, _LEVELS), tail, [0.999, 0.9999]]), 9))
