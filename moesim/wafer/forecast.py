"""What the next token will ask for, learnt from other requests, and the copies that a die keeps for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.cost import ExpertShape
from moesim.errors import InfeasibleError
from moesim.trace.types import PREFILL, RoutingTrace
from moesim.wafer.layer import Bools, Floats
from moesim.wafer.machine import Wafer


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What is known of the routing before it happens.

    Parameters
    ----------
    follow
        Share of each expert among those of the next token, given one of this token:
        float64 ``[layers, experts, experts]``, rows sum to 1 or are 0.
    popular
        Share of each expert in the prompts, or in all tokens where there are none, float64
        ``[layers, experts]``.
    """

    follow: Floats
    popular: Floats

    def top(self, n: int) -> Bools:
        """The `n` likeliest experts of the next token after each, and those as likely as the last of them.

        bool ``[layers, experts, experts]``.
        """
        n = min(n, self.follow.shape[-1])
        least = -np.partition(-self.follow, n - 1, axis=-1)[..., n - 1 : n]
        return (self.follow >= least) & (self.follow > 0)


def learn(train: RoutingTrace, layers: Sequence[int] | None = None) -> Forecast:
    """Tables from the requests of a trace; replay others (`moesim.policy.split`).

    Parameters
    ----------
    train
        Tokens of a request in order.
    layers
        Which of its MoE layers, by place; all if not given.
    """
    places = range(len(train.moe_layer_ids)) if layers is None else layers
    experts = train.num_experts
    order = np.argsort(train.request, kind="stable")
    request, ids = train.request[order], train.topk_ids[order]
    follows = np.flatnonzero(request[1:] == request[:-1])
    seen = train.phase[order] == PREFILL
    prompts = ids[seen] if seen.any() else ids
    follow, popular = [], []
    for place in places:
        before = ids[follows, place].astype(np.int64)
        after = ids[follows + 1, place].astype(np.int64)
        pairs = (before[:, :, None] * experts + after[:, None, :]).ravel()
        table = np.bincount(pairs, minlength=experts * experts).reshape(experts, experts).astype(np.float64)
        total = table.sum(axis=1, keepdims=True)
        follow.append(np.divide(table, total, out=np.zeros_like(table), where=total > 0))
        load = np.bincount(prompts[:, place].ravel(), minlength=experts).astype(np.float64)
        popular.append(load / max(load.sum(), 1.0))
    return Forecast(np.array(follow), np.array(popular))


def copy_slots(
    wafer: Wafer, shape: ExpertShape, layers: int, experts: int, share: float, part: float = 1.0
) -> int:
    """Experts of other dies that a die has room for, per layer.

    Parameters
    ----------
    share
        Of a die's memory that copies may take.
    part
        Of an expert that a copy is.

    Raises
    ------
    InfeasibleError
        Where the experts themselves leave less than that.
    """
    total = wafer.dies * wafer.memory_bytes
    needed = layers * experts * shape.weight_bytes
    if needed > (1.0 - share) * total * (1.0 + 1e-9):
        raise InfeasibleError(
            f"experts take {needed / 1e9:.0f} GB of the {(1.0 - share) * total / 1e9:.0f} GB for them",
            resource="memory of the dies",
            needed=needed,
            available=(1.0 - share) * total,
        )
    room = int(share * wafer.memory_bytes // (layers * part * shape.weight_bytes))
    return min(room, experts)


def keep(copies: Bools, read: Bools, score: Floats, slots: int) -> Bools:
    """Which copies each die has after a layer.

    A die keeps what it has just read from elsewhere and what it kept before, as far as there is room; the
    experts of the highest score stay, and what has no score is not taken in.

    Parameters
    ----------
    copies
        What is kept so far, bool ``[experts, dies]``.
    read
        What a die has just read from elsewhere, of the same shape.
    score
        How much a die expects to need an expert, of the same shape; 0 for not at all.
    slots
        Copies that a die has room for.

    Examples
    --------
    >>> read = np.array([[False], [True], [True]])
    >>> keep(~read & False, read, np.array([[1.0], [0.2], [0.7]]), 1).ravel()
    array([False, False,  True])
    """
    wanted = copies | (read & (score > 0))
    if slots < 1:
        return np.zeros_like(copies)
    # Of equal scores what is there already stays.
    rank = np.where(wanted, score + copies * 1e-12, -1.0)
    order = np.argsort(-rank, axis=0, kind="stable")[:slots]
    kept = np.zeros_like(copies)
    np.put_along_axis(kept, order, True, axis=0)
    return np.asarray(kept & wanted)
