"""The two kinds of routing data: which experts each token chose, and how often each expert was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.shown import block, table

PREFILL, DECODE = 0, 1
_BLOCK = 4096


def count_ids(ids: npt.NDArray[np.unsignedinteger], num_experts: int) -> npt.NDArray[np.int64]:
    """How often each expert of each layer is chosen.

    Parameters
    ----------
    ids
        Expert ids below `num_experts`, ``[tokens, layers, top_k]``.
    num_experts
        Experts per layer.

    Returns
    -------
    ndarray
        int64 ``[layers, num_experts]``; every layer sums to ``tokens * top_k``.

    Examples
    --------
    >>> count_ids(np.array([[[0, 2]], [[2, 1]]], np.uint8), 4).tolist()
    [[1, 1, 2, 0]]
    """
    layers = ids.shape[1]
    offsets = (np.arange(layers) * num_experts)[None, :, None]
    total = np.zeros(layers * num_experts, np.int64)
    # In blocks, because bincount works on 8-byte integers and a trace has one byte per id.
    for start in range(0, len(ids), _BLOCK):
        total += np.bincount((ids[start : start + _BLOCK] + offsets).ravel(), minlength=len(total))
    return total.reshape(layers, num_experts)


@dataclass(frozen=True, slots=True, eq=False)
class RoutingTrace:
    """Which logical experts each token chose, held in memory.

    Parameters
    ----------
    topk_ids
        Logical expert ids, uint8 or uint16 ``[tokens, moe_layers, top_k]``.
    request
        Request of each token, int32 ``[tokens]``; tokens of a request are in order.
    num_experts
        Routed experts per layer.
    moe_layer_ids
        Decoder index of each of the ``moe_layers``.
    position
        Position inside the request, int32 ``[tokens]``.
    phase
        0 prefill, 1 decode, int8 ``[tokens]``.
    topk_weights
        Router weights, float16 of the shape of `topk_ids`, or None.
    token_id
        Vocabulary id of each token, int32 ``[tokens]``, or None.
    model, source, licence
        Where the trace comes from.
    warnings
        What the reader had to assume or drop.
    """

    topk_ids: npt.NDArray[np.unsignedinteger]
    request: npt.NDArray[np.int32]
    num_experts: int
    moe_layer_ids: tuple[int, ...]
    position: npt.NDArray[np.int32]
    phase: npt.NDArray[np.int8]
    topk_weights: npt.NDArray[np.float16] | None = None
    token_id: npt.NDArray[np.int32] | None = None
    model: str = ""
    source: str = ""
    licence: str = ""
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Tokens."""
        return int(self.topk_ids.shape[0])

    @property
    def top_k(self) -> int:
        """Experts per token and layer."""
        return int(self.topk_ids.shape[2])

    def _repr_html_(self) -> str:
        decoded = int((self.phase == DECODE).sum())
        rows = [
            ("tokens", self.num_tokens),
            ("of which decoded", decoded),
            ("requests", len(np.unique(self.request))),
            ("MoE layers", len(self.moe_layer_ids)),
            ("experts per layer", self.num_experts),
            ("experts per token", self.top_k),
        ]
        return _shown(self, table(["", "routing trace"], rows))

    def load_counts(self) -> LoadCounts:
        """Total load of each expert, as one step."""
        counts = count_ids(self.topk_ids, self.num_experts)
        return LoadCounts(
            counts=counts[None].astype(np.float64),
            moe_layer_ids=self.moe_layer_ids,
            top_k=self.top_k,
            model=self.model,
            source=self.source,
            licence=self.licence,
            warnings=self.warnings,
        )


@dataclass(frozen=True, slots=True, eq=False)
class LoadCounts:
    """How often each logical expert was chosen.

    Parameters
    ----------
    counts
        Token-expert selections, float64 ``[steps, moe_layers, num_experts]``; totals are one step.
    moe_layer_ids
        Decoder index of each of the ``moe_layers``; dense layers are left out.
    top_k
        Experts per token, when known.
    """

    counts: npt.NDArray[np.float64]
    moe_layer_ids: tuple[int, ...]
    top_k: int | None = None
    model: str = ""
    source: str = ""
    licence: str = ""
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_experts(self) -> int:
        """Routed experts per layer."""
        return int(self.counts.shape[2])

    @property
    def totals(self) -> npt.NDArray[np.float64]:
        """Selections summed over steps, float64 ``[moe_layers, num_experts]``."""
        totals: npt.NDArray[np.float64] = self.counts.sum(axis=0)
        return totals

    def _repr_html_(self) -> str:
        totals = self.totals
        mean = totals.mean(axis=1)
        skew = totals.max(axis=1)[mean > 0] / mean[mean > 0]
        rows = [
            ("steps", len(self.counts)),
            ("token-expert pairs", float(totals.sum())),
            ("MoE layers", len(self.moe_layer_ids)),
            ("experts per layer", self.num_experts),
            ("experts per token", self.top_k),
            ("largest over mean expert load, mean of layers", float(skew.mean()) if len(skew) else None),
        ]
        return _shown(self, table(["", "load counts"], rows))

    def load_counts(self) -> LoadCounts:
        """Itself: every consumer of loads takes both kinds."""
        return self


Routing = RoutingTrace | LoadCounts


def _shown(trace: Routing, facts: str) -> str:
    notes = [f"{word}: {said}" for word in ("source", "licence") if (said := getattr(trace, word))]
    return block(
        trace.model or "a model that the trace does not name", facts, notes=[*notes, *trace.warnings]
    )
