"""What an answer means for whoever promised something: limits of latency, and what tokens cost."""

from __future__ import annotations

from typing import Any

from moesim.planning import Candidate
from moesim.planning.prices import describe, usd_per_hour, usd_per_million
from moesim.result import Prediction
from moesim.ui.scenario import Asked

_MS = 1e3
#: How sure it is that a limit is met.
VERDICTS = ("surely", "probably", "probably not", "not")


def meets(asked: Asked, answer: Prediction) -> dict[str, dict[str, Any] | None]:
    """Whether mean latencies stay within the limits.

    Returns
    -------
    dict
        By ``ttft`` and ``tpot``: None without a limit, else ``limit_ms``, ``value_ms``, ``interval_ms``,
        ``bound_ms``, a ``verdict`` (one of `VERDICTS`) and whether it is ``proven``: a limit below the bound
        cannot be met by any schedule.
    """
    return {
        "ttft": _meets(asked.scenario.ttft_limit_ms, answer, "ttft_s"),
        "tpot": _meets(asked.scenario.tpot_limit_ms, answer, "tpot_s"),
    }


def _meets(limit_ms: float | None, answer: Prediction, metric: str) -> dict[str, Any] | None:
    if limit_ms is None:
        return None
    value, bound = getattr(answer, metric) * _MS, answer.bounds[metric] * _MS
    span = None if answer.interval is None else [end * _MS for end in answer.interval[metric]]
    return {
        "limit_ms": limit_ms,
        "value_ms": value,
        "interval_ms": span,
        "bound_ms": bound,
        "verdict": verdict(limit_ms, value, bound, span),
        "proven": limit_ms < bound,
    }


def verdict(limit: float, value: float, bound: float, span: list[float] | None) -> str:
    """Whether a limit is met, by where it lies in the interval.

    Parameters
    ----------
    limit, value, bound
        What is promised, expected, and cannot be beaten.
    span
        Lowest and highest value expected; None if nobody measured such a deployment.

    Examples
    --------
    >>> [verdict(limit, 50.0, 20.0, [40.0, 70.0]) for limit in (80.0, 60.0, 45.0, 30.0)]
    ['surely', 'probably', 'probably not', 'not']
    """
    if limit < bound or (span is not None and limit < span[0]):
        return VERDICTS[3]
    if span is not None and limit >= span[1]:
        return VERDICTS[0]
    return VERDICTS[1] if value <= limit else VERDICTS[2]


def cost(asked: Asked, answer: Prediction) -> dict[str, Any]:
    """What the nodes cost, as far as the machine's description has a price.

    Returns
    -------
    dict
        ``usd_per_million_output_tokens`` and ``usd_per_hour`` (None without a price), and ``price`` in words,
        with its date. Whole nodes are paid for.
    """
    candidate = Candidate(
        asked.model, asked.hardware, asked.layout, 1, asked.engine, asked.scenario.redundant
    )
    hourly, price = usd_per_hour(candidate), asked.hardware.device.price
    return {
        "usd_per_hour": hourly,
        "usd_per_million_output_tokens": None
        if hourly is None
        else usd_per_million(hourly, answer.output_throughput),
        "price": "" if price is None else describe(price),
    }
