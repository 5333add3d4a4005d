"""The last step: from sums to statistics per layer and overall, intervals, reasons for what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.analysis import values as of
from moesim.analysis.partial import SEGMENTS, Partial
from moesim.trace import LoadCounts

Array = npt.NDArray[np.float64]
Result = tuple[dict[str, Any], list[dict[str, Any]], dict[str, str], dict[str, Any] | None]

#: Ending of reasons for what was left out by choice.
NOT_ASKED = "was not asked for"
#: Statistics that need tokens, by family.
NAMES = {
    "locality": ("consecutive_overlap", "lag_overlap", "distinct_fraction", "distinct_fraction_request"),
    "coupling": ("next_layer_entropy", "next_layer_information_bits", "next_layer_cover"),
    "pairs": ("next_token_cover", "top10_pair_share"),
    "segments": ("srp", "srp_cache_ratio", "segment_cover_k", "segment_cover_2k"),
    "cache": ("lru_hit_ratio",),
    "sample": ("recall_k", "recall_2k", "popularity_recall_k", "sch_2k"),
}
#: Statistics of the model alone, without a value per layer.
WHOLE = ("srp_model", "sch_2k_pool")
_CHUNK = 64


def finish(part: Partial, layer_ids: Sequence[int], ep: Sequence[int], bootstrap: int, seed: int) -> Result:
    """Statistics of a routing trace: overall, per layer, reasons for None, intervals."""
    spec, sums = part.spec, part.sums
    values: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    loaded = np.full(spec.layers, part.tokens > 0)
    if "load" in sums:
        load = sums["load"].reshape(spec.layers, spec.windows, spec.groups, spec.num_experts)
        values |= of.load_values(load.sum((1, 2)), spec.top_k, ep)
        values |= of.drift_values(load.sum(2).transpose(1, 0, 2), spec.top_k)
    if "lag" in sums:
        lag, lag_tokens, distinct, windows = (sums[name].sum(-2) for name in _LOCALITY)
        values |= of.across_values(sums["across"], part.tokens, spec)
        values |= of.locality_values(lag, lag_tokens, distinct, windows, spec)
    if "joint" in sums:
        values |= of.coupling_values(sums["joint"].sum(1))
    if "follow" in sums:
        values |= of.pair_values(sums["follow"], sums["together"])
    if "segment4" in sums:
        hist = {m: sums[f"segment{m}"].sum(1) for m in SEGMENTS}
        values |= of.segment_values(hist, {m: sums[f"best{m}"].sum(1) for m in SEGMENTS})
        model = {m: of.segment_best(h.sum(0), m) for m, h in hist.items()}
        whole["srp_model"] = {str(m): _number(model[m][0]) for m in SEGMENTS}
    if "depth" in sums:
        values |= of.cache_values(part)
    if "sample" in spec.families:
        found, pool = of.sample_values(part)
        values |= found
        whole |= pool
        if pool["sch_2k_pool"] is None:
            reasons["sch_2k_pool"] = "the pool of all layers is too large to replay"
    for family, names in NAMES.items():
        if family not in spec.families:
            whole_only = {"segments": WHOLE[:1], "sample": WHOLE[1:]}.get(family, ())
            reasons |= dict.fromkeys((*names, *whole_only), f"{family} {NOT_ASKED}")
        elif family == "sample" and "coupling" not in spec.families:
            reasons |= dict.fromkeys(names[:3], "needs coupling as well")
    overall, layers = tabulate(values, layer_ids, loaded)
    for name in [*values, *whole]:
        if _is_empty((overall | whole)[name]) and name not in reasons:
            reasons[name] = _REASONS.get(name, "the trace has no tokens of this kind")
    interval = _intervals(part, ep, bootstrap, seed) if bootstrap else None
    return overall | whole, layers, reasons, interval


def finish_counts(
    counts: LoadCounts, ep: Sequence[int]
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, str]]:
    """Statistics of load counts; what needs tokens is None, with the reason."""
    totals = counts.totals
    values = of.load_values(totals, counts.top_k, ep)
    reasons = {name: "load counts have no tokens" for names in (*NAMES.values(), WHOLE) for name in names}
    steps = len(counts.counts)
    if steps > 1:
        edges = np.unique(np.arange(17) * steps // 16)[:-1]
        values |= of.drift_values(np.add.reduceat(counts.counts, edges, axis=0), counts.top_k or 1)
    else:
        reasons |= dict.fromkeys(("drift", "drift_noise"), "load counts of one step")
    if counts.top_k is None:
        lost = ("random_pair_overlap", "distinct_fraction_mixed", "distinct_fraction_uniform")
        reasons |= dict.fromkeys(lost, "top-k is not known; name the model")
    overall, layers = tabulate(values, counts.moe_layer_ids, totals.sum(1) > 0)
    return overall, layers, reasons


def tabulate(
    values: dict[str, Any], layer_ids: Sequence[int], loaded: npt.NDArray[np.bool_]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Means over loaded layers, and a row per layer."""

    def pick(value: Any, take: Callable[[Array], float | None]) -> Any:  # noqa: ANN401
        return {k: take(v) for k, v in value.items()} if isinstance(value, dict) else take(value)

    overall = {name: pick(value, lambda a: _mean(a, loaded)) for name, value in values.items()}
    layers = [
        {"layer_id": int(layer)} | {n: pick(v, lambda a, i=i: _number(a[i])) for n, v in values.items()}  # type: ignore[misc]
        for i, layer in enumerate(layer_ids)
    ]
    return overall, layers


_LOCALITY = ("lag", "lag_tokens", "distinct", "distinct_windows")
_REASONS = {
    "next_layer_entropy": "there is one MoE layer",
    "next_layer_information_bits": "there is one MoE layer",
    "next_layer_cover": "there is one MoE layer",
    "recall_k": "needs requests of even and of odd number",
    "recall_2k": "needs requests of even and of odd number",
    "popularity_recall_k": "needs requests of even and of odd number",
    "top10_pair_share": "a token has one expert",
    "lag_overlap": "no request is long enough",
    "consecutive_overlap": "no request is long enough",
    "distinct_fraction": "the trace is too short",
    "distinct_fraction_request": "no request is long enough",
    "srp": "no request is long enough",
    "srp_cache_ratio": "no request is long enough",
    "segment_cover_k": "no request is long enough",
    "segment_cover_2k": "no request is long enough",
    "srp_model": "no request is long enough",
}


def _intervals(part: Partial, ep: Sequence[int], draws: int, seed: int) -> dict[str, Any] | None:
    """Basic 95 % bootstrap intervals of the overall means: groups of requests are drawn with replacement."""
    spec, sums = part.spec, part.sums
    if "load" not in sums:
        return None
    load = sums["load"].reshape(spec.layers, spec.windows, spec.groups, spec.num_experts).sum(1)
    used = np.flatnonzero(load.sum((0, 2)) > 0)
    if len(used) < 2:
        return None
    rng = np.random.default_rng(seed)
    weight = rng.multinomial(len(used), np.full(len(used), 1 / len(used)), size=draws).astype(np.float64)
    samples: dict[str, list[Any]] = {}
    for at in range(0, draws, _CHUNK):
        for name, value in _drawn(part, load, used, weight[at : at + _CHUNK], ep).items():
            samples.setdefault(name, []).append(value)
    centre = _drawn(part, load, used, np.ones((1, len(used))), ep)
    out: dict[str, Any] = {"level": 0.95, "draws": draws, "groups": len(used)}
    for name, chunks in samples.items():
        low, high = np.nanquantile(np.concatenate(chunks), [0.025, 0.975])
        ends = [_number(2 * centre[name][0] - high), _number(2 * centre[name][0] - low)]
        head, _, tail = name.partition(".")
        if tail:
            out.setdefault(head, {})[tail] = ends
        else:
            out[head] = ends
    return out


def _drawn(part: Partial, load: Any, used: Any, weight: Array, ep: Sequence[int]) -> dict[str, Array]:  # noqa: ANN401
    """Overall statistics of weighted groups, ``[draws]`` each; nested names are joined by a dot."""
    spec, sums = part.spec, part.sums
    by_draw = np.einsum("dg,lge->dle", weight, load[:, used].astype(np.float64), optimize=True)
    values = of.load_values(by_draw, spec.top_k, ep)
    values.pop("distinct_fraction_uniform", None)
    if "lag" in sums:
        one = {
            name: np.einsum("dg,...gn->d...n", weight, np.take(sums[name], used, axis=-2).astype(np.float64))
            for name in _LOCALITY
        }
        tokens, windows = one["lag_tokens"][:, None], one["distinct_windows"][:, None]
        values |= of.locality_values(one["lag"], tokens, one["distinct"], windows, spec)
    if "segment4" in sums:
        hist, best = (
            {
                m: np.einsum("dg,lgn->dln", weight, sums[f"{kind}{m}"][:, used].astype(np.float64))
                for m in SEGMENTS
            }
            for kind in ("segment", "best")
        )
        values |= of.segment_values(hist, best)
    flat: dict[str, Array] = {}
    for name, value in values.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for key, array in parts:
            if not np.isnan(array).all():
                flat[f"{name}.{key}" if key else name] = array.mean(1)
    return flat


def _mean(value: Array, loaded: npt.NDArray[np.bool_]) -> float | None:
    known = value[loaded & ~np.isnan(value)]
    return float(known.mean()) if len(known) else None


def _number(value: Any) -> float | None:  # noqa: ANN401
    return float(value) if np.isfinite(value) else None


def _is_empty(value: Any) -> bool:  # noqa: ANN401
    return value is None or (
        isinstance(value, dict) and bool(value) and all(v is None for v in value.values())
    )
