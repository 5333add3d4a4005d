"""How engines choose among the replicas of an expert, and what part of its tokens each replica gets.

Home ranks hold equal parts of a batch. What a rule gives is a share per slot: the part of its expert's tokens
that the slot receives. The shares of an expert's replicas sum to one.

even
    Replicas share alike: what EPLB assumes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, nearest
from moesim.layout.expert_map import ExpertMap

DISPATCH = ("even",)


def dispatch_faults(name: str, option: str = "dispatch") -> list[Fault]:
    """What keeps a name from being a dispatch rule."""
    if name in DISPATCH:
        return []
    near = nearest(name, DISPATCH)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return [Fault("is no dispatch rule", option, name, hint + ", ".join(DISPATCH))]


def slot_shares(plan: ExpertMap, dispatch: str = "even", nodes: int = 1) -> npt.NDArray[np.float64]:
    """Part of its expert's tokens that each slot receives.

    Parameters
    ----------
    plan
        The placement.
    dispatch
        One of `DISPATCH`.
    nodes
        Nodes the ranks lie on, in order.

    Returns
    -------
    ndarray
        float64 ``[moe_layers, slots]``.

    Examples
    --------
    >>> slot_shares(ExpertMap(np.array([[0, 1, 2, 0]]), num_experts=3, ranks=2))
    array([[0.5, 1. , 1. , 0.5]])
    """
    del dispatch, nodes
    return np.asarray(1.0 / np.take_along_axis(plan.replica_counts, plan.physical_to_logical, axis=1))
