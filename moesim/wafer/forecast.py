"""What the next token will ask for, learnt from other requests, and the copies that a die keeps for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.cost import ExpertShape
from moesim.errors import InfeasibleError
from moesim.policy import require_disjoint, taken
from moesim.policy.predictors import NextToken, Popular
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


def learn(train: RoutingTrace, trace: RoutingTrace | None = None) -> Forecast:
    """Tables from the requests of a trace, to be used on others.

    Parameters
    ----------
    train
        What to learn from; tokens of a request in order.
    trace
        What will be replayed. `moesim.policy.split` makes two that share no request.

    Raises
    ------
    ConfigError
        If requests of `trace` are in `train` too.
    """
    if trace is not None:
        require_disjoint(train, trace)
    prompts = train.phase == PREFILL
    seen = taken(train, prompts) if prompts.any() else train
    follow, popular = NextToken(1).fit(train).probability, Popular(1).fit(seen).share
    assert follow is not None
    assert popular is not None
    total = follow.sum(axis=2, keepdims=True, dtype=np.float64)
    share = np.divide(follow, total, out=np.zeros(follow.shape), where=total > 0)
    return Forecast(share, popular / popular.sum(axis=1, keepdims=True, dtype=np.float64))


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
