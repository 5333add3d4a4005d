"""The two kinds of routing data: which experts each token chose, and how often each expert was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

PREFILL, DECODE = 0, 1


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
        return self.topk_ids.shape[0]

    @property
    def top_k(self) -> int:
        """Experts per token and layer."""
        return self.topk_ids.shape[2]

    def load_counts(self) -> LoadCounts:
        """Total load of each expert, as one step."""
        layers = len(self.moe_layer_ids)
        flat = self.topk_ids.astype(np.int64) + (np.arange(layers) * self.num_experts)[None, :, None]
        counts = np.bincount(flat.ravel(), minlength=layers * self.num_experts)
        return LoadCounts(
            counts=counts.reshape(1, layers, self.num_experts).astype(np.float64),
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
        return self.counts.shape[2]

    @property
    def totals(self) -> npt.NDArray[np.float64]:
        """Selections summed over steps, float64 ``[moe_layers, num_experts]``."""
        return self.counts.sum(axis=0)

    def load_counts(self) -> LoadCounts:
        """Itself: every consumer of loads takes both kinds."""
        return self


Routing = RoutingTrace | LoadCounts
