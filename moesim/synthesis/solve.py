"""Maximum likelihood of log weights, given which features each token has and which experts it chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_BATCH = 2048


@dataclass(frozen=True, slots=True)
class Block:
    """A group of features that share a ridge penalty.

    Parameters
    ----------
    name
        What it is called in the answer.
    columns
        For each token the features it has, ``[tokens, n]``, below `size`.
    size
        Features.
    ridge
        The penalty on each squared weight, in units of the log likelihood.
    """

    name: str
    columns: Array
    size: int
    ridge: float


def one_hot(ids: Array, size: int) -> Array:
    """Which ids each row holds, bool ``[rows, size]``.

    >>> one_hot(np.array([[0, 2]]), 3).tolist()
    [[True, False, True]]
    """
    held = np.zeros((len(ids), size), bool)
    held[np.arange(len(ids))[:, None], ids] = True
    return held


def solve(
    blocks: list[Block],
    chosen: Array,
    lagged: list[Array],
    top_k: int,
    *,
    steps: int,
    seed: int,
    rate: float = 0.08,
) -> tuple[dict[str, Array], Array]:
    """Fit log weights by Adam on minibatches.

    Token i chooses expert e with log weight ``a = base[e] + sum of weights[f, e]`` over its features f.
    Drawing k experts one after the other in proportion to exp(a) is a race of exponential clocks; an expert
    is among the first k with probability about ``1 - exp(-c exp(a))``, c such that these sum to k (Rosén
    1997). That is the likelihood used; for k = 1 it is the softmax, which is exact.

    Parameters
    ----------
    blocks
        The features.
    chosen
        bool ``[tokens, E]``, `top_k` true in each row.
    lagged
        Earlier choices, bool ``[tokens, E]`` each, that get one number per lag for all experts.
    top_k
        Choices per token.
    steps
        Minibatches.
    seed
        Of their order.
    rate
        Learning rate; constant for half of the steps, then falling to zero.

    Returns
    -------
    weights, recency
        Natural log weights by block, ``[size, E]``, with ``base`` ``[1, E]``; and ``[lags]``.
    """
    from scipy.sparse import csr_array

    tokens, E = chosen.shape
    rng = np.random.default_rng(seed)
    blocks = [*blocks, Block("base", np.zeros((tokens, 1), np.int64), 1, 0.0)]
    starts = np.cumsum([0, *(b.size for b in blocks)])
    columns = np.concatenate([b.columns + s for b, s in zip(blocks, starts, strict=False)], axis=1)
    width = columns.shape[1]
    rows = np.arange(0, columns.size + 1, width)
    entries = np.ones(columns.size, np.float32), columns.ravel().astype(np.int32), rows
    features = csr_array(entries, shape=(tokens, starts[-1]))
    ridge = np.concatenate([np.full(b.size, b.ridge, np.float32) for b in blocks])[:, None]
    weights = np.zeros((starts[-1], E), np.float32)
    share = np.clip(chosen.mean(axis=0), 1e-4, 0.99)
    weights[-1] = np.log(-np.log1p(-share)) if top_k > 1 else np.log(share)
    recency = np.zeros(len(lagged), np.float32)
    adam = [(p, np.zeros_like(p), np.zeros_like(p)) for p in (weights, recency)]
    clock = np.zeros((tokens, 1), np.float32)
    batch = min(_BATCH, tokens)
    order, at = rng.permutation(tokens), 0
    for step in range(steps):
        if at + batch > tokens:
            order, at = rng.permutation(tokens), 0
        rows = order[at : at + batch]
        at += batch
        x, y, past = features[rows], chosen[rows], [h[rows] for h in lagged]
        logs = x @ weights
        for number, held in zip(recency, past, strict=True):
            logs += number * held
        slope, clock[rows] = _slope(logs, y, top_k, clock[rows])
        slope *= tokens / batch
        gradients = (
            x.T @ slope - ridge * weights,
            np.array([(slope * held).sum() for held in past], np.float32),
        )
        now = rate * min(1.0, 2 * (1 - step / steps))
        for (values, mean, square), gradient in zip(adam, gradients, strict=True):
            mean += 0.1 * (gradient - mean)
            square += 0.01 * (gradient**2 - square)
            fresh = 1 - 0.9 ** (step + 1), 1 - 0.99 ** (step + 1)
            values += now * (mean / fresh[0]) / (np.sqrt(square / fresh[1]) + 1e-6)
    parts = {b.name: weights[s : s + b.size] for b, s in zip(blocks, starts, strict=False)}
    return parts, recency


def _slope(logs: Array, chosen: Array, top_k: int, clock: Array) -> tuple[Array, Array]:
    """Derivative of the log likelihood by the log weights, and the clock c of each row."""
    if top_k == 1:
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        return chosen - weights / weights.sum(axis=1, keepdims=True), clock
    weights = np.exp(np.minimum(logs, 30.0))
    fresh = clock == 0
    clock = np.where(fresh, top_k / weights.sum(axis=1, keepdims=True), clock)
    E = logs.shape[1]
    # Newton from below: the sum is concave in c, so that no step overshoots.
    for _ in range(5 if fresh.any() else 2):
        left = np.exp(-clock * weights)
        short = top_k - E + left.sum(axis=1, keepdims=True)
        slope = np.maximum((weights * left).sum(axis=1, keepdims=True), 1e-9)
        clock = np.clip(clock + short / slope, 0.2 * clock, 1e12)
    hazard = np.minimum(clock * weights, 50.0)
    left = np.exp(-hazard)
    return np.where(chosen, hazard * left / np.maximum(1 - left, 1e-9), -hazard), clock
