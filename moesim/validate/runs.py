"""A benchmark run as its tool reported it: what was served, how it was loaded, and what the client saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.requests import RequestTrace
from moesim.validate.distances import Sample

#: Metrics of a run, in the names of serving benchmarks.
RUN_METRICS = ("ttft", "tpot", "itl", "e2el")
STATISTICS = ("mean", "median", "p90", "p99")

#: What an inter-token latency is a sample of: every token, or a request's mean, once per token or request.
TOKEN, PER_TOKEN_MEAN, REQUEST_MEAN = "token", "per-token mean", "request mean"
#: From when a request's times count: when the client sent it, or when the engine took it from its inbox,
#: which it looks into between steps.
SENT, PICKED = "sent", "picked up"


@dataclass(frozen=True, slots=True)
class Spread:
    """Statistics of one quantity; None where unknown."""

    mean: float | None = None
    median: float | None = None
    p90: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, values: npt.ArrayLike, weights: npt.NDArray[np.int64] | None = None) -> Spread:
        """Statistics of a sample, linear between ranks as benchmarks have them; of none, all unknown.

        Parameters
        ----------
        values
            ``[samples]``.
        weights
            How often each value counts; None for once.

        Examples
        --------
        >>> Spread.of([1.0, 2.0, 3.0, 4.0]).median
        2.5
        """
        return cls.of_sample(Sample(np.asarray(values, dtype=np.float64), weights))

    @classmethod
    def of_sample(cls, sample: Sample) -> Spread:
        """Statistics of a sample that may be weighted; values that are not known are left out."""
        keep = np.isfinite(sample.values)
        if sample.weights is not None:
            keep &= sample.weights > 0
        if not keep.any():
            return cls()
        weights = None if sample.weights is None else sample.weights[keep]
        known = Sample(sample.values[keep], weights)
        mean = float(np.average(known.values, weights=weights))
        return cls(mean, *map(float, known.quantiles([0.5, 0.9, 0.99])))

    def over(self, measured: Spread) -> Spread:
        """Signed relative error of each statistic, None where either is unknown or the measured one is 0."""

        def error(mine: float | None, true: float | None) -> float | None:
            return None if mine is None or not true else mine / true - 1.0

        return Spread(*(error(getattr(self, s), getattr(measured, s)) for s in STATISTICS))


@dataclass(frozen=True, slots=True)
class RunEngine:
    """Settings of the engine that served a run; None where nobody recorded them."""

    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    ep: int | None = None
    dtype: str | None = None
    kv_cache_dtype: str | None = None
    chunk_tokens: int | None = None
    max_sequences: int | None = None
    memory_utilisation: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BenchmarkRun:
    """One run.

    Parameters
    ----------
    path, format
        The file or folder, and its kind.
    model, backend
        As recorded; empty where nobody did.
    engine
        What is recorded of its settings.
    completed
        Requests that were served.
    input_tokens, output_tokens
        Tokens per request.
    concurrency, request_rate
        Of the client: the most requests at once, and requests per second; None for no limit, or unknown.
    requests
        Every request with its lengths and arrival; None where only statistics are recorded.
    measured
        Seconds by `RUN_METRICS`.
    samples
        The values these are statistics of, by metric, where they are recorded; those of requests in order of
        arrival, as `requests` has them.
    counted_from
        `SENT` or `PICKED`.
    itl_of
        What the inter-token latency is a sample of.
    duration_s, request_throughput, output_throughput
        Of the whole run; None where unknown.
    hardware
        Catalogue name that the path or the file hints at; empty if none.
    version
        Of the backend; empty where nobody recorded it.
    notes
        What had to be assumed or left out.
    """

    path: str
    format: str
    model: str
    backend: str
    engine: RunEngine
    completed: int
    input_tokens: Spread
    output_tokens: Spread
    concurrency: int | None
    request_rate: float | None
    requests: RequestTrace | None
    measured: Mapping[str, Spread]
    itl_of: str = TOKEN
    samples: Mapping[str, Sample] = field(default_factory=dict)
    counted_from: str = SENT
    duration_s: float | None = None
    request_throughput: float | None = None
    output_throughput: float | None = None
    hardware: str = ""
    version: str = ""
    notes: tuple[str, ...] = field(default=())
