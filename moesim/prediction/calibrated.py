"""What measured runs add to a physical answer: factors, and how far off it may be."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.bounds import Bounds
from moesim.correction import Calibration, Corrected, Identity, known_as
from moesim.engine.deployment import Deployment
from moesim.engine.routing import Array
from moesim.engine.traits import Traits

#: Metrics that fall as the end-to-end latency rises, by Little's law.
_BY_LATENCY = (
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    "output_throughput_per_device",
)


def traits_of(calibration: Calibration, backend: str) -> Traits:
    """Constants of an engine; none where it was not measured."""
    return calibration.traits.get(backend, Traits())


def identity_of(
    decode: Deployment,
    prefill: Deployment | None = None,
    workers: tuple[int | None, int | None] = (None, None),
) -> Identity:
    """What a deployment is among measured ones.

    Parameters
    ----------
    decode, prefill
        The deployment; of a disaggregated one, a worker of either pool.
    workers
        Prefill and decode workers.
    """
    return Identity(
        known_as(decode.model.name),
        decode.hardware.device.name,
        decode.backend,
        decode.precision.weight("expert" if decode.model.moe else "dense"),
        decode.layout,
        prefill.layout if prefill is not None else None,
        workers,
    )


def interval_of(
    answers: dict[str, float], found: Corrected | None, limits: Bounds, calibration: Calibration, row: int = 0
) -> dict[str, Any] | None:
    """Interval of every metric of one answer; None without measured runs like it.

    Parameters
    ----------
    answers
        Latencies and throughputs.
    limits
        No interval reaches beyond what cannot be beaten.
    row
        Of the alternatives in `found` and `limits`.
    """
    if found is None:
        return None
    spans: dict[str, Any] = {"level": calibration.level}
    for metric in ("ttft_s", "tpot_s", "e2el_s"):
        low, high = (float(end[row]) for end in found.spans[metric.removesuffix("_s")])
        value, least = answers[metric], _at(getattr(limits, metric), row)
        spans[metric] = [max(value * low, least), value * high]
    shortest, longest = (end / answers["e2el_s"] for end in spans["e2el_s"])
    for metric in _BY_LATENCY:
        most = _at(getattr(limits, metric, np.inf), row)
        spans[metric] = [answers[metric] / longest, min(answers[metric] / shortest, most)]
    runs = sum(calibration.provenance.get("rows", {}).values())
    spans["basis"] = f"errors on {runs:,} measured runs, each predicted from others; " + (
        found.why or "this layout is among them"
    )
    return spans


def kept_up(spans: dict[str, Any], answers: dict[str, float], rate: float, most: float) -> dict[str, Any]:
    """The interval of requests that arrive at a rate: what comes in goes out, as long as it is kept up with.

    Parameters
    ----------
    spans, answers
        Interval and answer as for a closed loop.
    rate
        Requests per second.
    most
        Requests that run at once at most: where answering takes its longest, no more than those are served.
    """
    least = min(1.0, most / (rate * spans["e2el_s"][1]))
    return spans | {metric: [answers[metric] * least, answers[metric]] for metric in _BY_LATENCY}


def widened(one: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any]:
    """The interval that holds both."""
    if other is None:
        return one
    both = dict(one)
    for metric, span in one.items():
        if isinstance(span, list):
            both[metric] = [min(span[0], other[metric][0]), max(span[1], other[metric][1])]
    return both


def _at(values: Array | float, row: int) -> float:
    """One of several values, or the one that is all rows'."""
    flat = np.asarray(values).reshape(-1)
    return float(flat[row if len(flat) > 1 else 0])
