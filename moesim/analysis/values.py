"""From sums to statistics: per layer arrays ``[layers]``, NaN where there is nothing to say.

Every function takes sums with any leading axes for layers and bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.analysis import loads as of
from moesim.analysis.partial import DISTINCT, LAGS, SEGMENTS, Partial, Spec
from moesim.analysis.sampled import cache_hits, pool_hits, recall

Array = npt.NDArray[np.float64]
#: A statistic of every layer, or several of them by name.
Values = dict[str, Any]
CACHE_FRACTIONS = (0.25, 0.5)


def load_values(load: Any, top_k: int | None, ep: Sequence[int]) -> Values:  # noqa: ANN401
    """Statistics of loads ``[..., experts]``."""
    experts = load.shape[-1]
    values: Values = {
        "max_over_mean": of.max_over_mean(load),
        "entropy_normalised": of.entropy_normalised(load),
        "gini": of.gini(load),
        "top10_share": of.top_share(load, 0.1),
        "top20_share": of.top_share(load, 0.2),
        "sigma_log_load": of.sigma_log(load),
        "rank_max_over_mean": {str(n): of.rank_imbalance(load, n) for n in ep},
    }
    if top_k is not None:
        layers = load.shape[:-1]
        values["random_pair_overlap"] = of.random_pair_overlap(load, top_k)
        values["distinct_fraction_mixed"] = {str(b): of.distinct_mixed(load, top_k, b) for b in DISTINCT}
        values["distinct_fraction_uniform"] = {
            str(b): np.full(layers, of.distinct_uniform(experts, top_k, b)) for b in DISTINCT
        }
    return values


def drift_values(windows: Any, top_k: int) -> Values:  # noqa: ANN401
    """Movement of loads ``[windows, layers, experts]`` over time."""
    distance, noise = of.drift(windows, top_k)
    return {"drift": distance, "drift_noise": noise}


def locality_values(lag: Any, lag_tokens: Any, distinct: Any, windows: Any, spec: Spec) -> Values:  # noqa: ANN401
    """Overlaps and distinct experts: sums ``[..., lags]`` and ``[..., sizes]``, and how many were summed."""
    overlap = of.ratio(lag, lag_tokens * spec.top_k)
    fraction = of.ratio(distinct, windows * spec.num_experts)
    return {
        "consecutive_overlap": overlap[..., 0],
        "lag_overlap": {str(d): overlap[..., i] for i, d in enumerate(LAGS) if d > 1},
        "distinct_fraction_request": {str(b): fraction[..., i] for i, b in enumerate(DISTINCT)},
    }


def across_values(across: Any, tokens: int, spec: Spec) -> Values:  # noqa: ANN401
    """Distinct experts in windows of neighbouring tokens, whatever their request; sums ``[layers, 3]``."""
    windows = [max(0, tokens - size + 1) * spec.num_experts for size in DISTINCT]
    fraction = of.ratio(across, windows)
    return {"distinct_fraction": {str(b): fraction[:, i] for i, b in enumerate(DISTINCT)}}


def segment_values(hist: dict[int, Any], best: dict[int, Any]) -> Values:
    """Segment routing: how well one fixed group of experts serves `m` consecutive tokens."""
    values: Values = {"srp": {}, "srp_cache_ratio": {}, "segment_cover_k": {}, "segment_cover_2k": {}}
    for m in SEGMENTS:
        srp, ratio = segment_best(hist[m], m)
        values["srp"][str(m)], values["srp_cache_ratio"][str(m)] = srp, ratio
        chosen = (hist[m] * np.arange(m + 1)).sum(-1)
        cover = of.ratio(best[m], chosen[..., None])
        values["segment_cover_k"][str(m)], values["segment_cover_2k"][str(m)] = cover[..., 0], cover[..., 1]
    return values


def segment_best(hist: Any, m: int) -> tuple[Array, Array]:  # noqa: ANN401
    """SRP and the cache size it implies, in experts chosen per token, from ``[..., m + 1]`` window counts."""
    matches = np.flip(np.flip(hist * np.arange(m + 1), -1).cumsum(-1), -1)
    predicted = np.flip(np.flip(hist, -1).cumsum(-1), -1) * m
    chosen = matches[..., :1]
    score = of.ratio(2.0 * matches, predicted + chosen)
    best = np.nan_to_num(score, nan=-1.0).argmax(-1)[..., None]
    size = of.ratio(predicted, np.broadcast_to(chosen, predicted.shape))
    return np.take_along_axis(score, best, -1)[..., 0], np.take_along_axis(size, best, -1)[..., 0]


def coupling_values(joint: npt.NDArray[np.int64]) -> Values:
    """How much a layer's choice says of the next's: pairs ``[layers - 1, experts, experts]``.

    The pair is one expert of the token in either layer, drawn at random; its distribution is exact.
    """
    experts = joint.shape[-1]
    together, before, after = joint.reshape(-1, experts * experts), joint.sum(2), joint.sum(1)
    conditional = of.entropy(of.shares(together)) - of.entropy(of.shares(before))
    information = of.entropy(of.shares(after)) - conditional
    log = np.log(experts) if experts > 1 else np.nan
    return {
        "next_layer_entropy": _then_nothing(conditional / log),
        "next_layer_information_bits": _then_nothing(np.maximum(information, 0.0) / np.log(2.0)),
        "next_layer_cover": _then_nothing(cover(joint)),
    }


def pair_values(follow: npt.NDArray[np.int64], together: npt.NDArray[np.int64]) -> Values:
    """Next-token candidates and co-activation, from ``[layers, experts, experts]``."""
    layers, experts = follow.shape[:2]
    pairs = np.sort(together[:, *np.triu_indices(experts, 1)], -1)
    top = max(1, int(0.1 * pairs.shape[1]))
    share = of.ratio(pairs[:, -top:].sum(-1), pairs.sum(-1)) if experts > 1 else np.full(layers, np.nan)
    return {"next_token_cover": cover(follow), "top10_pair_share": share}


def cover(table: npt.NDArray[np.int64]) -> Array:
    """Share of pairs ``(a, b)`` in which ``b`` is among the most frequent 20 % of partners of ``a``."""
    top = of.top_count(table.shape[-1], 0.2)
    best = np.partition(table, -top, axis=-1)[..., -top:].sum((-1, -2))
    return of.ratio(best, table.sum((-1, -2)))


def cache_values(part: Partial) -> Values:
    """Hit ratio of a least-recently-used cache per layer, in token order, cold at the start."""
    depth, accesses = part.sums["depth"], part.tokens * part.spec.top_k
    hits = depth.cumsum(-1)
    sizes = {f: max(1, round(f * part.spec.num_experts)) for f in CACHE_FRACTIONS}
    return {"lru_hit_ratio": {f"{f:g}": of.ratio(hits[:, c - 1], accesses) for f, c in sizes.items()}}


def sample_values(part: Partial) -> tuple[Values, Values]:
    """Recall and segment cache hits of the sample: per layer, and for the model as a whole."""
    spec, kept = part.spec, part.kept
    values: Values = {}
    if "joint" in part.sums and spec.layers > 1:
        learnt = part.sums["joint"][:, 0]
        load = np.concatenate([learnt[:1].sum(2), learnt.sum(1)]) / spec.top_k
        found = recall(learnt, kept.test_ids, load, spec.top_k)
        for i, name in enumerate(("recall_k", "recall_2k", "popularity_recall_k")):
            values[name] = _then_nothing(found[:, i])
    hits, accesses = cache_hits(kept, spec.num_experts)
    size = min(2 * spec.top_k, spec.num_experts) - 1
    values["sch_2k"] = {str(m): of.ratio(hits[:, i, size], accesses) for i, m in enumerate(SEGMENTS)}
    pool = pool_hits(kept, spec.num_experts)
    if pool is None:
        return values, {"sch_2k_pool": None}
    size = min(2 * spec.top_k * spec.layers, pool[0].shape[1]) - 1
    ratio = of.ratio(pool[0][:, size], pool[1])
    return values, {"sch_2k_pool": {str(m): float(ratio[i]) for i, m in enumerate(SEGMENTS)}}


def _then_nothing(value: Array) -> Array:
    """The last layer has no next."""
    return np.append(value, np.nan)
