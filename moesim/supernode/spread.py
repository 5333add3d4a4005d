"""Shared experts on ranks of their own: placed, replicated and sent to as routed experts are.

CloudMatrix-Infer gives each of 320 dies one expert: 32 copies of the shared one, 256 routed, 32 spares.
A token then goes to one expert more, and no die computes the shared expert beside its routed one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.engine.routing import Array, LoadSource
from moesim.layout.expert_map import ExpertMap
from moesim.model.types import Layer, Model, MoE


def spread_shared(model: Model) -> Model:
    """The model with its shared expert as one more routed expert, which every token chooses.

    Raises
    ------
    ValueError
        If a shared expert is not as wide as a routed one.
    """
    return replace(
        model,
        layers=tuple(_spread(layer) for layer in model.layers),
        mtp_layers=tuple(_spread(layer) for layer in model.mtp_layers),
    )


def _spread(layer: Layer) -> Layer:
    moe = layer.ffn
    if not isinstance(moe, MoE):
        return layer
    if moe.shared_intermediate != moe.intermediate:
        raise ValueError(f"shared experts of width {moe.shared_intermediate}, routed of {moe.intermediate}")
    return replace(
        layer,
        ffn=replace(
            moe,
            num_experts=moe.num_experts + 1,
            top_k=moe.top_k + 1,
            shared_intermediate=0,
            groups=1,
            top_groups=1,
        ),
    )


def spread_source(routed: LoadSource) -> LoadSource:
    """Draws of routed experts, and behind them the shared expert with every token.

    >>> from moesim.engine.routing import uniform
    >>> spread_source(uniform(4, 2)).inclusion.tolist()
    [[0.5, 0.5, 0.5, 0.5, 1.0]]
    """
    return LoadSource(np.pad(routed.inclusion, ((0, 0), (0, 1)), constant_values=1.0), routed.top_k + 1)


def spread_plan(loads: Array, ranks: int, shared: int) -> ExpertMap:
    """One expert a rank: routed ones in order, spares of the most loaded, and copies of the shared one.

    A spare goes to the expert that has the most load per copy, as in EPLB; with one expert a rank there is
    nothing to pack.

    Parameters
    ----------
    loads
        Of routed experts, float64 ``[layers, num_experts]``.
    ranks
        All ranks.
    shared
        Ranks that hold the shared expert.

    Examples
    --------
    >>> spread_plan(np.array([[1.0, 5.0, 1.0]]), ranks=7, shared=2).physical_to_logical.tolist()
    [[0, 1, 2, 1, 1, 3, 3]]
    """
    layers, experts = loads.shape
    rows = np.empty((layers, ranks), dtype=np.int64)
    rows[:, :experts] = np.arange(experts)
    rows[:, ranks - shared :] = experts
    copies = np.ones_like(loads)
    for slot in range(experts, ranks - shared):
        rows[:, slot] = (loads / copies).argmax(axis=1)
        copies[np.arange(layers), rows[:, slot]] += 1.0
    return ExpertMap(rows, experts + 1, ranks)
