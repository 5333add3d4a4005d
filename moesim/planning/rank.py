"""How many requests per second a replica carries within its promise, in steady state.

A promise is about single requests, a steady state about means. What requests differ by is put back in where
it matters most:

* X requests that decode bring ``m = X g / O`` new prompts with every step (g tokens a step gives to each, O
  mean outputs), which lengthen it from ``s(X)`` to ``T = s + (1 - e^-m) (P - Q) + m Q``: P a prompt alone, Q
  its share of a step full of prompts. One prompt on many data-parallel ranks costs P, many cost Q each.
* The time per token of a request with O tokens is the mean of O / g such steps. What prompts add to it is a
  sum of many small parts, positive and skewed: a gamma distribution of the same mean and variance.
* Prompts queue for the token budget of a step. The wait is zero but for a part that grows with the load, and
  then exponential, with the mean of a queue in heavy traffic (Kingman), arrivals as uneven as they were seen
  to be (index of dispersion).
* As many requests run as the cache and the cap on sequences hold; that more want to is as likely as their
  number, normal with the same dispersion, exceeds that.

All this is a guess that the simulator checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammainc, ndtr

from moesim.engine.load import Load
from moesim.engine.steady import sequences_that_fit
from moesim.planning.crowd import Crowd
from moesim.planning.pace import Pace
from moesim.planning.types import Slo
from moesim.prediction import Engine

F8 = npt.NDArray[np.float64]

#: What ends the rate a replica carries.
LIMITS = ("ttft_s", "tpot_s", "e2el_s")
CACHE, TOKENS = "cache", "request rate"
#: Ratio of neighbouring numbers of running requests that are tried.
STEP = 2.0**0.5


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica carries.

    Parameters
    ----------
    request_rate
        Requests per second, at most; 0 if not even one at a time keeps the promise.
    what
        The limit or resource that ends it.
    share
        Requests that would meet the promise with the least load, in steady state.
    metrics
        Means at that rate (at the least load, if it is 0): ``ttft_s tpot_s e2el_s``, ``running``.
    """

    request_rate: float
    what: str
    share: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A replica with 1 to as many requests as run, ``[points]``."""

    running: F8
    rate: F8
    share: F8
    ttft_s: F8
    tpot_s: F8
    e2el_s: F8
    parts: Mapping[str, F8]


def carried(pace: Pace, engine: Engine, crowd: Crowd, slo: Slo) -> Capacity:
    """What a replica carries within a promise.

    Parameters
    ----------
    pace
        Seconds of its steps.
    engine
        With its batch limits.
    """
    curve = curve_of(pace, engine, crowd, slo)
    return capacity_of(curve, slo.attainment)


def capacity_of(curve: Curve, attainment: float) -> Capacity:
    """Where a curve falls below the share that was promised."""
    holds = curve.share >= attainment
    last = int(holds.argmin()) - 1 if not holds.all() else len(holds) - 1
    if last < 0:
        return Capacity(0.0, _why(curve, 0), float(curve.share[0]), _means(curve, 0.0))
    at = float(last)
    if last + 1 < len(holds):
        drop = curve.share[last] - curve.share[last + 1]
        at += float((curve.share[last] - attainment) / drop)
    rates = curve.rate[: last + 2]
    most = float(np.interp(at, np.arange(len(rates)), rates))
    # Beyond the point where a replica keeps up, more that run answer no faster.
    top = float(curve.rate[: last + 1].max())
    return Capacity(
        max(most, top), _why(curve, min(last + 1, len(holds) - 1)), float(curve.share[0]), _means(curve, at)
    )


def at_rate(curve: Curve, request_rate: float) -> dict[str, float]:
    """Means, and the share that meets the promise, at a rate that is carried."""
    top = int(curve.rate.argmax()) + 1
    at = float(np.interp(request_rate, curve.rate[:top], np.arange(top)))
    return _means(curve, at)


def _means(curve: Curve, at: float) -> dict[str, float]:
    points = np.arange(len(curve.rate))
    found = {name: float(np.interp(at, points, getattr(curve, name))) for name in (*LIMITS, "running")}
    return found | {"attainment": float(np.interp(at, points, curve.share))}


def _why(curve: Curve, at: int) -> str:
    """Which part loses most requests at a point."""
    return min(curve.parts, key=lambda name: float(curve.parts[name][at]))


def curve_of(pace: Pace, engine: Engine, crowd: Crowd, slo: Slo) -> Curve:
    """A replica at rising loads."""
    layout = pace.deployment.layout
    limit = limit_of(pace, engine, crowd)
    alone, packed, full_s = pace.prompts(crowd.fresh, engine.chunk_tokens)
    top = np.log2(max(limit, 1.0))
    running = np.append(2.0 ** np.arange(0.0, top, np.log2(STEP)), max(limit, 1.0))
    step = pace.steps(np.maximum(running, layout.pp))
    each = pace.tokens
    outputs = float(crowd.output.mean())
    prompt_s, share_s = float(alone.mean()), float(packed.mean())

    # Prompts per step, and what they add to it.
    new = running * each / outputs
    single = np.exp(-new)
    extra = (1.0 - single) * max(prompt_s - share_s, 0.0) + new * share_s
    whole = step + extra
    rate = new / whole
    unrest = crowd.dispersion_of(rate)
    one = packed + np.maximum(alone - packed, 0.0) * single[:, None]
    spread = unrest * new * (one**2).mean(axis=1)
    # No step takes more prompts than fill it.
    spread = np.minimum(spread, extra * np.maximum(full_s - extra, 0.0) + extra**2 * 1e-6)

    tpot = whole / each
    steps = np.maximum(crowd.output - 1.0, 0.0) / each
    within = np.ones((len(running), len(crowd.output)))
    parts: dict[str, F8] = {}
    if "tpot_s" in slo.limits:
        room = slo.limits["tpot_s"] * each - step
        shape = extra**2 / spread
        met = np.ones_like(within)
        later = steps > 0
        many = np.maximum(steps[later], 1.0)[None, :]
        ratio = np.maximum(room / extra, 0.0)[:, None]
        parts_of = shape[:, None] * many
        met[:, later] = np.where(room[:, None] > 0, gammainc(parts_of, parts_of * ratio), 0.0)
        within *= met
        parts["tpot_s"] = met.mean(axis=1)

    # Tokens per lane and step, of those that a step may read.
    tokens = float(crowd.fresh.mean())
    busy = new * tokens / (layout.dp * layout.pp * engine.chunk_tokens)
    keeps_up = busy < 1.0
    busy = np.minimum(busy, 1.0 - 1e-9)
    variation = float((crowd.fresh**2).mean()) / tokens**2
    service = (tokens / engine.chunk_tokens) * (step + full_s)
    wait = busy / (1.0 - busy) * (unrest + variation - 1.0) / 2.0 * service
    wait = np.maximum(wait, 1e-12)
    chunks = np.ceil(crowd.fresh / engine.chunk_tokens)
    traits = pace.deployment.traits
    first = traits.request_s + (0.5 + traits.first_steps) * whole[:, None]
    first = first + chunks * step[:, None] + alone
    for name, fixed in (
        ("ttft_s", first),
        ("e2el_s", first + steps * whole[:, None]),
    ):
        if name in slo.limits:
            room = slo.limits[name] - fixed
            met = np.where(
                room >= 0, 1.0 - busy[:, None] * np.exp(-np.maximum(room, 0.0) * (busy / wait)[:, None]), 0.0
            )
            within *= met
            parts[name] = met.mean(axis=1)
    fits = ndtr((limit - running) / np.sqrt(unrest * running))
    fits[0] = 1.0
    parts[CACHE] = fits
    parts[TOKENS] = keeps_up.astype(float)
    ttft = first.mean(axis=1) + wait
    return Curve(
        running,
        rate,
        within.mean(axis=1) * fits * keeps_up,
        ttft,
        tpot,
        ttft + float(steps.mean()) * whole,
        parts,
    )


def limit_of(pace: Pace, engine: Engine, crowd: Crowd) -> float:
    """Requests that run at once at most; 0 where the longest does not fit."""
    memory = pace.memory(engine.chunk_tokens, engine.memory_utilisation)
    load = Load(
        np.array([crowd.context]),
        np.zeros(1),
        np.ones(1),
        engine.chunk_tokens,
        min(engine.max_sequences, engine.chunk_tokens),
    )
    longest = pace.deployment.cache_bytes(np.array([float(crowd.longest)]))[0]
    if memory.cache_budget_bytes < longest:
        return 0.0
    return float(sequences_that_fit(pace.deployment, load, memory)[0])
