"""Local routing consistency: how well a small, slowly changing set of experts serves a text.

The measures of *Not All Models Suit Expert Offloading* (arXiv 2505.16056), as its released code computes
them. A trace is cut into samples of up to 512 tokens of one request, and each starts anew.

**Segment routing best performance.** In a window of ``m`` tokens an expert is chosen ``c`` times. It is
called resident for the window if ``c >= t``; over all windows ``M(t) = sum of c where c >= t``, ``P(t) = m``
times how many those are, ``A = M(0)``. SRP is the best ``2 M / (P + A)`` over ``t``, the F1 of that
prediction, and ``P / A`` at the best ``t`` is the cache it implies, in experts per expert chosen. Layers and
the model add up ``M``, ``P`` and ``A`` before the best is taken.

**Hit rates of every capacity** of caches that look a token up before they load, under least recently used,
least frequently used, Belady's rule, and *segment cache best hit rate* (SCH): what the next ``m`` tokens
want most stays, then what was used last. An expert's first time is a hit while there are free slots. Each
layer by itself, and all layers in one pool, where the lookups of a token are those of all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.trace.types import RoutingTrace

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
LENGTHS = (4, 16, 64, 256)
#: Tokens of a sample, and draws and level of the bootstrap, of the published code.
SAMPLE, DRAWS, LEVEL = 512, 1000, 0.95
#: Samples that the pool of all layers is replayed for; its stack is long.
POOL_SAMPLES = 32


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """A value of the model, of each layer, and what the samples leave open.

    Parameters
    ----------
    model
        ``[...]``.
    layers
        ``[layers, ...]``.
    model_interval, layers_interval
        Basic bootstrap interval over samples, ``[2, ...]`` and ``[2, layers, ...]``; NaN without a bootstrap.
    """

    model: Array
    layers: Array
    model_interval: Array
    layers_interval: Array


@dataclass(frozen=True, slots=True, eq=False)
class Consistency:
    """Local routing consistency of a trace.

    Parameters
    ----------
    lengths
        Window lengths ``m``.
    samples, pool_samples
        Samples, and those of them that the pool of all layers was replayed for.
    srp
        By length: SRP ``[lengths]`` and ``[layers, lengths]``; NaN where no sample is as long.
    cache_ratio
        Experts per chosen expert that SRP implies, likewise.
    srp_experts
        SRP of each expert, ``[layers, experts, lengths]``.
    hit_rates
        By name (``lru``, ``lfu``, ``belady``, ``sch-4``...): hit rate of every capacity from 0, of the pool
        of all layers ``[layers * experts + 1]`` and of each layer's own ``[layers, experts + 1]``.
    """

    lengths: tuple[int, ...]
    samples: int
    pool_samples: int
    srp: Measure
    cache_ratio: Measure
    srp_experts: Array
    hit_rates: dict[str, Measure]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not known is None."""
        names = [str(m) for m in self.lengths]

        def named(values: Array) -> dict[str, float | None]:
            return {n: _number(v) for n, v in zip(names, values, strict=True)}

        def by_length(measure: Measure) -> dict[str, Any]:
            return {
                "model": named(measure.model),
                "model_interval": [named(v) for v in measure.model_interval],
                "layers": [named(v) for v in measure.layers],
            }

        return {
            "samples": self.samples,
            "pool_samples": self.pool_samples,
            "srp": by_length(self.srp),
            "srp_cache_ratio": by_length(self.cache_ratio),
            "hit_rates": {
                name: {
                    "layer_mean": measure.layers.mean(axis=0).tolist(),
                    "layers": measure.layers.tolist(),
                    "pool": [_number(v) for v in measure.model],
                    "pool_interval": [[_number(v) for v in end] for end in measure.model_interval],
                }
                for name, measure in self.hit_rates.items()
            },
        }


def consistency(
    trace: RoutingTrace,
    *,
    lengths: tuple[int, ...] = LENGTHS,
    sample: int = SAMPLE,
    pool_samples: int = POOL_SAMPLES,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Consistency:
    """Measure local routing consistency.

    Parameters
    ----------
    trace
        With tokens; those of a request in order.
    lengths
        Window lengths ``m``.
    sample
        Tokens of a sample, at most.
    pool_samples
        Samples that the pool of all layers is replayed for, evenly spaced; 0 for none (NaN).
    draws, level, seed
        Of the bootstrap over samples; no draws, no intervals.

    Examples
    --------
    Each token of the first half uses expert 0, of the second expert 1: windows of two tokens are of one kind
    but for one of five, so "resident if chosen in half of the window" is right for 10 of 11.

    >>> ids = np.array([0, 0, 0, 1, 1, 1], np.uint8)[:, None, None]
    >>> zeros = np.zeros(6, np.int32)
    >>> trace = RoutingTrace(ids, zeros, 2, (0,), np.arange(6, dtype=np.int32), np.ones(6, np.int8))
    >>> found = consistency(trace, lengths=(2,), draws=0)
    >>> found.srp.model.round(4).tolist()
    [0.9091]
    >>> found.hit_rates["lru"].layers.round(3).tolist()
    [[0.0, 0.833, 1.0]]
    """
    faults = [
        Fault("is below 1", name, value)
        for name, value in (*(("lengths", m) for m in lengths), ("sample", sample))
        if value < 1
    ]
    if not 0 < level < 1:
        faults.append(Fault("is not between 0 and 1", "level", level))
    if not trace.num_tokens:
        faults.append(Fault("has no tokens", "trace", 0))
    if faults:
        raise ConfigError(faults)
    begin, end = samples_of(trace.request, sample)
    draw = _draws(len(begin), draws, seed)
    srp, ratio, experts = _segments(trace, begin, end, lengths, draw, level)
    chosen = np.unique(np.linspace(0, len(begin) - 1, min(pool_samples, len(begin))).round().astype(int))
    kinds = ["lru", "lfu", "belady", *(f"sch-{m}" for m in lengths)]
    rates = {}
    for name in kinds:
        layers, layer_span = _rates(trace, begin, end, name, draw, level, shared=False)
        some = _draws(len(chosen), draws, seed)
        pool, pool_span = _rates(trace, begin[chosen], end[chosen], name, some, level, shared=True)
        rates[name] = Measure(pool[0], layers, pool_span[:, 0], layer_span)
    return Consistency(lengths, len(begin), len(chosen), srp, ratio, experts, rates)


def samples_of(request: npt.NDArray[np.int32], sample: int) -> tuple[Ints, Ints]:
    """Requests, cut every `sample` tokens: where each piece begins, and where it ends.

    >>> [a.tolist() for a in samples_of(np.array([0, 0, 0, 1, 1], np.int32), 2)]
    [[0, 2, 3], [2, 3, 5]]
    """
    changes = np.flatnonzero(np.diff(request)) + 1
    first = np.concatenate(([0], changes))
    stop = np.concatenate((changes, [len(request)]))
    begin = np.concatenate([np.arange(a, b, sample) for a, b in zip(first, stop, strict=True)])
    return begin, np.minimum(begin + sample, np.repeat(stop, -(-(stop - first) // sample)))


def best(hist: Array, m: int) -> tuple[Array, Array]:
    """SRP, and the cache ratio it implies, from windows by count ``[..., m + 1]``."""
    matches = np.flip(np.flip(hist * np.arange(m + 1), -1).cumsum(-1), -1)
    predicted = np.flip(np.flip(hist, -1).cumsum(-1), -1) * m
    chosen = matches[..., :1]
    score = 2 * matches / np.maximum(predicted + chosen, 1)
    at = score.argmax(-1)[..., None]
    size = np.take_along_axis(predicted, at, -1) * (chosen > 0) / np.maximum(chosen, 1)
    empty = hist.sum(-1) == 0
    return (
        np.where(empty, np.nan, np.take_along_axis(score, at, -1)[..., 0]),
        np.where(empty, np.nan, size[..., 0]),
    )


def interval(value: Array, drawn: Array, level: float) -> Array:
    """Basic bootstrap interval ``[2, ...]`` of `value` from what was drawn, ``[draws, ...]``."""
    if not len(drawn):
        return np.full((2, *value.shape), np.nan)
    ranked = np.sort(drawn, axis=0)
    low = round(len(drawn) * (1 - level) / 2)
    ends = ranked[[min(len(drawn) - low, len(drawn) - 1), low]]
    spread: Array = 2 * value - ends
    return spread


def _segments(
    trace: RoutingTrace, begin: Ints, end: Ints, lengths: tuple[int, ...], draw: Array, level: float
) -> tuple[Measure, Measure, Array]:
    from moesim.residency.kernels.segments import window_counts

    layers, experts = trace.topk_ids.shape[1], trace.num_experts
    shape = (len(lengths),)
    found = {
        name: [np.empty(s) for s in (shape, (layers, *shape), (2, *shape), (2, layers, *shape))]
        for name in ("srp", "ratio")
    }
    by_expert = np.empty((layers, experts, *shape))
    for i, m in enumerate(lengths):
        whole = np.zeros((len(begin), m + 1))
        for layer in range(layers):
            ids = np.ascontiguousarray(trace.topk_ids[:, layer], np.int32)
            one, sample = np.zeros((experts, m + 1), np.int64), np.zeros((len(begin), m + 1), np.int64)
            window_counts(ids, begin, end, m, one, sample)
            by_expert[layer, :, i] = best(one.astype(np.float64), m)[0]
            whole += sample
            drawn = best(draw @ sample, m)
            for part, value, again in zip(
                found.values(), best(sample.sum(0).astype(float), m), drawn, strict=True
            ):
                part[1][layer, i], part[3][:, layer, i] = value, interval(value, again, level)
        for part, value, again in zip(
            found.values(), best(whole.sum(0), m), best(draw @ whole, m), strict=True
        ):
            part[0][i], part[2][:, i] = value, interval(value, again, level)
    return Measure(*found["srp"]), Measure(*found["ratio"]), by_expert


def _rates(
    trace: RoutingTrace, begin: Ints, end: Ints, name: str, draw: Array, level: float, *, shared: bool
) -> tuple[Array, Array]:
    """Hit rates ``[pools, objects + 1]`` and their intervals ``[2, pools, objects + 1]``."""
    tokens, layers, top_k = trace.topk_ids.shape
    experts = trace.num_experts
    pools, objects = (1, layers * experts) if shared else (layers, experts)
    width = layers * top_k if shared else top_k
    offset = np.arange(layers)[:, None] * experts if shared else 0
    rate, span = np.empty((pools, objects + 1)), np.empty((2, pools, objects + 1))
    for pool in range(pools):
        part = trace.topk_ids if shared else trace.topk_ids[:, pool]
        ids = np.ascontiguousarray((part.astype(np.int32) + offset).reshape(tokens, width), np.int32)
        depth = np.zeros((len(begin), objects), np.int64)
        for s, (a, b) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            _depths(ids[a:b], objects, name, depth[s])
        hits = np.concatenate((np.zeros((len(begin), 1)), depth.cumsum(-1)), -1)
        asked = (end - begin) * width
        rate[pool] = hits.sum(0) / asked.sum() if len(asked) else np.nan
        span[:, pool] = interval(rate[pool], (draw @ hits) / np.maximum(draw @ asked, 1)[:, None], level)
    return rate, span


def _depths(ids: npt.NDArray[np.int32], objects: int, name: str, depth: Ints) -> None:
    from moesim.residency.kernels.segments import BELADY, LFU, SCH, priority_depths
    from moesim.residency.kernels.stack_lru import lru_depths, words_of

    if name != "lru":
        kind, _, m = name.partition("-")
        priority_depths(ids, objects, {"lfu": LFU, "belady": BELADY, "sch": SCH}[kind], int(m or 0), depth)
        return
    found = np.zeros((2, 1, objects), np.int64)
    starts = np.arange(len(ids) + 1, dtype=np.int64) * ids.shape[1]
    fresh = np.zeros(len(ids), np.bool_)
    lru_depths(ids.reshape(-1), starts, fresh, 1, objects, False, True, words_of(objects), *found)
    depth += found.sum(axis=(0, 1))


def _draws(samples: int, draws: int, seed: int) -> Array:
    """How often each sample is drawn, ``[draws, samples]``."""
    if not samples:
        return np.zeros((draws, 0))
    rng = np.random.default_rng(seed)
    return rng.multinomial(samples, np.full(samples, 1 / samples), size=draws).astype(np.float64)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
