"""Statistics of every request by itself, one layer of the trace in memory at a time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.analysis import kernels
from moesim.analysis import loads as of
from moesim.analysis.partial import DISTINCT, LAGS, runs
from moesim.errors import ConfigError, Fault
from moesim.trace import LoadCounts, Routing, RoutingTrace

if TYPE_CHECKING:
    from moesim.trace import TraceReader

Array = npt.NDArray[np.float64]
#: Requests times experts that are counted at once.
_CELLS = 100_000_000


def by_request(trace: Routing | str | os.PathLike[str], **hints: Any) -> dict[str, npt.NDArray[Any]]:  # noqa: ANN401
    """Load and locality of each request, means over the MoE layers.

    Parameters
    ----------
    trace
        A routing trace, or a file in any known format.
    **hints
        As for `moesim.trace.load_trace`.

    Returns
    -------
    dict of ndarray
        By name, a value per request: ``request`` (ids, rising), ``tokens``, ``max_over_mean``,
        ``entropy_normalised``, ``distinct_fraction`` (experts the request ever chooses) and
        ``consecutive_overlap`` (NaN for a single token).

    Raises
    ------
    ConfigError
        If the trace is of loads alone, or has too many requests.
    """
    from moesim.analysis.stats import open_trace

    source = trace if isinstance(trace, RoutingTrace | LoadCounts) else open_trace(trace, hints)
    if isinstance(source, LoadCounts):
        raise ConfigError(Fault("needs a trace of tokens; these are load counts", "--by", "request"))
    if isinstance(source, RoutingTrace):
        return _by_request(source, source.request, source.num_experts, len(source.moe_layer_ids))
    with source:
        layer = source.header.moe_layer_ids[:1]
        request = np.concatenate([b.request for b in source.batches(layers=layer, weights=False)])
        return _by_request(source, request, source.header.num_experts, len(source.header.moe_layer_ids))


def _by_request(
    source: RoutingTrace | TraceReader, request: npt.NDArray[Any], experts: int, layers: int
) -> dict[str, npt.NDArray[Any]]:
    names, which, tokens = np.unique(request, return_inverse=True, return_counts=True)
    if len(names) * experts > _CELLS:
        raise ConfigError(Fault(f"too many requests ({len(names)}) for {experts} experts", "--by", "request"))
    order = np.argsort(which, kind="stable")
    begin, end = runs(which[order])
    group = np.arange(len(names), dtype=np.int32)
    sums: dict[str, Array] = {}
    for layer in range(layers):
        x = np.ascontiguousarray(_layer(source, layer)[order], np.uint16)
        load = np.zeros((len(names), experts), np.int64)
        kernels.count(x, which[order].astype(np.int32), load)
        lag, window = (np.zeros((len(names), len(kind)), np.int64) for kind in (LAGS, DISTINCT))
        kernels.locality(x, begin, end, group, DISTINCT, experts, lag, window, window[0].copy())
        values = {
            "max_over_mean": of.max_over_mean(load),
            "entropy_normalised": of.entropy_normalised(load),
            "distinct_fraction": (load > 0).mean(1),
            "consecutive_overlap": of.ratio(lag[:, 0], (tokens - 1) * x.shape[1]),
        }
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / layers
    return {"request": names, "tokens": tokens, **sums}


def _layer(source: RoutingTrace | TraceReader, layer: int) -> npt.NDArray[Any]:
    if isinstance(source, RoutingTrace):
        return source.topk_ids[:, layer]
    wanted = source.header.moe_layer_ids[layer : layer + 1]
    return np.concatenate([b.topk_ids[:, 0] for b in source.batches(layers=wanted, weights=False)])
