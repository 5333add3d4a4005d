"""How alike the expert loads of two traces are: two tasks, two phases, two days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, TraceError
from moesim.layout import ExpertMap
from moesim.trace import DECODE, PREFILL, Routing, RoutingTrace

Floats = npt.NDArray[np.float64]
#: Share of the experts that counts as the hottest.
HOTTEST = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """What a placement fitted on trace A gives on trace B, at one expert-parallel size.

    Each array is the largest over mean rank load, float64 ``[layers]``.

    Parameters
    ----------
    ranks
        Expert-parallel ranks.
    contiguous
        Of B with experts in order.
    dealt_on_a
        Of A with A's experts dealt out by A's load.
    dealt_on_b
        Of B with the same placement.
    dealt_for_b
        Of B with experts dealt out by B's own load: what knowing B would give.
    """

    ranks: int
    contiguous: Floats
    dealt_on_a: Floats
    dealt_on_b: Floats
    dealt_for_b: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Likeness of the expert loads of two traces, layer by layer.

    Arrays are float64 ``[layers]``.

    Parameters
    ----------
    layer_ids
        Decoder indices of the layers that both traces have.
    cosine
        Of the two load vectors: 1 for the same, 0 for disjoint.
    total_variation
        Half the sum of absolute differences of the load shares: the share of the selections that would have
        to move. 0 for the same, 1 for disjoint.
    noise
        The total variation to be expected of two samples of this size from one and the same traffic, were all
        selections independent. Real tokens of a request are alike, so the true floor is higher.
    jensen_shannon
        Jensen-Shannon divergence in bits, 0 to 1.
    spearman
        Rank correlation of the experts' loads; NaN where all experts of a trace are equally loaded.
    top_overlap
        Share of A's hottest tenth of the experts that is also in B's.
    selections
        Mean selections per layer of A and B.
    left_out
        Layers that only one of the traces has.
    transfers
        Placements, one per expert-parallel size.
    """

    layer_ids: tuple[int, ...]
    cosine: Floats
    total_variation: Floats
    noise: Floats
    jensen_shannon: Floats
    spearman: Floats
    top_overlap: Floats
    selections: tuple[float, float]
    left_out: tuple[int, ...] = ()
    transfers: tuple[Transfer, ...] = ()


def compare_traces(a: Routing, b: Routing, *, ranks: Sequence[int] = ()) -> Comparison:
    """Compare the expert loads of two traces of one model.

    Parameters
    ----------
    a, b
        Routing traces or load counts, of the same number of experts. Layers that both have are compared.
    ranks
        Expert-parallel sizes at which to try A's placement on B; each must divide the experts.

    Returns
    -------
    Comparison

    Raises
    ------
    TraceError
        If the traces have different numbers of experts, or no layer in common that carries load in both.
    ConfigError
        If a number of ranks does not divide the experts.
    """
    one, two = a.load_counts(), b.load_counts()
    if one.num_experts != two.num_experts:
        what = f"the first trace has {one.num_experts} experts per layer, the second {two.num_experts}"
        raise TraceError(Fault(what, allowed="two traces of one model"))
    wrong = [n for n in ranks if n < 1 or one.num_experts % n]
    if wrong:
        allowed = f"a divisor of {one.num_experts}"
        raise ConfigError([Fault("does not divide the experts", "--ep", n, allowed) for n in wrong])
    both = sorted(set(one.moe_layer_ids) & set(two.moe_layer_ids))
    loads_a = one.totals[[one.moe_layer_ids.index(i) for i in both]]
    loads_b = two.totals[[two.moe_layer_ids.index(i) for i in both]]
    loaded: npt.NDArray[np.bool_] = np.asarray(loads_a.any(axis=1) & loads_b.any(axis=1))
    if not loaded.any():
        raise TraceError(
            Fault(
                "the traces have no loaded layer in common",
                allowed=f"layers {one.moe_layer_ids} and {two.moe_layer_ids} must overlap",
            )
        )
    layers = tuple(i for i, keep in zip(both, loaded.tolist(), strict=True) if keep)
    left_out = tuple(sorted((set(one.moe_layer_ids) | set(two.moe_layer_ids)) - set(layers)))
    found = _of_loads(loads_a[loaded], loads_b[loaded], layers, left_out)
    transfers = tuple(_transfer(loads_a[loaded], loads_b[loaded], n) for n in ranks)
    return replace(found, transfers=transfers)


def compare_phases(trace: Routing, *, ranks: Sequence[int] = ()) -> Comparison:
    """Compare prefill (A) and decode (B) of one trace.

    Raises
    ------
    TraceError
        If it is no token-level trace, or has only one of the phases.
    """
    if not isinstance(trace, RoutingTrace):
        raise TraceError(Fault("load counts do not tell prefill from decode", allowed="a token-level trace"))
    prefill, decode = trace.phase == PREFILL, trace.phase == DECODE
    if not (prefill.any() and decode.any()):
        missing = "decode" if prefill.any() else "prefill"
        raise TraceError(Fault(f"the trace has no {missing} tokens", "phase", allowed="both phases"))
    return compare_traces(_part(trace, prefill), _part(trace, decode), ranks=ranks)


def _part(trace: RoutingTrace, tokens: npt.NDArray[np.bool_]) -> RoutingTrace:
    return replace(
        trace,
        topk_ids=trace.topk_ids[tokens],
        request=trace.request[tokens],
        position=trace.position[tokens],
        phase=trace.phase[tokens],
        topk_weights=None,
        token_id=None,
    )


def _of_loads(a: Floats, b: Floats, layers: tuple[int, ...], left_out: tuple[int, ...]) -> Comparison:
    total_a, total_b = a.sum(axis=1, keepdims=True), b.sum(axis=1, keepdims=True)
    p, q = a / total_a, b / total_b
    norms = np.sqrt((p * p).sum(axis=1) * (q * q).sum(axis=1))
    pooled = (a + b) / (total_a + total_b)
    # E|x| of a normal variable is sqrt(2 / pi) of its deviation; shares of a multinomial are nearly normal.
    spread = np.sqrt(pooled * (1 - pooled) * (1 / total_a + 1 / total_b))
    return Comparison(
        layer_ids=layers,
        cosine=np.minimum((p * q).sum(axis=1) / norms, 1.0),
        total_variation=0.5 * np.abs(p - q).sum(axis=1),
        noise=0.5 * np.sqrt(2 / np.pi) * spread.sum(axis=1),
        jensen_shannon=jensen_shannon(p, q),
        spearman=spearman(p, q),
        top_overlap=top_overlap(p, q),
        selections=(float(total_a.mean()), float(total_b.mean())),
        left_out=left_out,
    )


def jensen_shannon(p: Floats, q: Floats) -> Floats:
    """Jensen-Shannon divergence of the rows of two arrays of shares, in bits.

    >>> jensen_shannon(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    array([1.])
    """
    middle = 0.5 * (p + q)
    return np.asarray(np.maximum(0.5 * (_divergence(p, middle) + _divergence(q, middle)), 0.0))


def _divergence(p: Floats, q: Floats) -> Floats:
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return np.asarray((p * np.log2(ratio)).sum(axis=1))


def spearman(p: Floats, q: Floats) -> Floats:
    """Rank correlation of the rows of two arrays; equal values share the mean of their ranks.

    >>> spearman(np.array([[1.0, 2.0, 3.0]]), np.array([[10.0, 30.0, 20.0]]))
    array([0.5])
    """
    x, y = ranks_of(p), ranks_of(q)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    norm = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.asarray(np.divide((x * y).sum(axis=1), norm, out=np.full(len(norm), np.nan), where=norm > 0))


def ranks_of(values: Floats) -> Floats:
    """Rank of each value in its row, from 1; equal values share the mean of their ranks.

    >>> ranks_of(np.array([[5.0, 1.0, 5.0]]))
    array([[2.5, 1. , 2.5]])
    """
    ranks = np.empty(values.shape)
    for row, of_row in zip(values, ranks, strict=True):
        _, inverse, times = np.unique(row, return_inverse=True, return_counts=True)
        of_row[:] = (np.cumsum(times) - (times - 1) / 2)[inverse]
    return ranks


def top_overlap(p: Floats, q: Floats, share: float = HOTTEST) -> Floats:
    """Share of the hottest experts of `p` that are among as many hottest of `q`, for each row.

    Of equally loaded experts, the one of the lower id is the hotter.
    """
    n = max(1, round(p.shape[1] * share))
    hot_p = np.argsort(-p, axis=1, kind="stable")[:, :n]
    hot_q = np.argsort(-q, axis=1, kind="stable")[:, :n]
    both = (hot_p[:, :, None] == hot_q[:, None, :]).any(axis=2)
    return np.asarray(both.mean(axis=1))


def deal(loads: Floats, ranks: int) -> ExpertMap:
    """Deal experts out to ranks, hottest first, forwards and backwards in turn.

    Parameters
    ----------
    loads
        float64 ``[layers, experts]``.
    ranks
        Divides the experts.

    Examples
    --------
    >>> deal(np.array([[4.0, 3.0, 2.0, 1.0]]), 2).physical_to_logical
    array([[0, 3, 1, 2]])
    """
    layers, experts = loads.shape
    rounds = np.argsort(-loads, axis=1, kind="stable").reshape(layers, experts // ranks, ranks)
    rounds[:, 1::2] = rounds[:, 1::2, ::-1]
    return ExpertMap(rounds.transpose(0, 2, 1).reshape(layers, experts), experts, ranks)


def _transfer(a: Floats, b: Floats, ranks: int) -> Transfer:
    layers, experts = a.shape
    fitted = deal(a, ranks)
    return Transfer(
        ranks=ranks,
        contiguous=ExpertMap.contiguous(layers, experts, ranks).load_imbalance(b),
        dealt_on_a=fitted.load_imbalance(a),
        dealt_on_b=fitted.load_imbalance(b),
        dealt_for_b=deal(b, ranks).load_imbalance(b),
    )
