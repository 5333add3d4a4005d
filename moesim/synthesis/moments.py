"""The few statistics that calibration watches, per layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.trace import count_ids

Array = npt.NDArray[Any]
_FAR = 16
#: Distances of the tokens whose overlap is watched.
LAGS = (1, 2, 3, 4)


@compiled
def _overlap(ids: Array, first: Array, second: Array, num_experts: int) -> Array:
    """Share of experts that two tokens have in common, per layer, averaged over pairs of tokens."""
    layers, _, k = ids.shape
    shared = np.zeros(layers)
    seen = np.full(num_experts, -1, np.int64)
    for layer in range(layers):
        seen[:] = -1
        for p in range(len(first)):
            for i in range(k):
                seen[ids[layer, first[p], i]] = p
            for i in range(k):
                shared[layer] += seen[ids[layer, second[p], i]] == p
    shared /= max(len(first) * k, 1)
    return shared


@compiled
def pair_counts(a: Array, b: Array, num_experts: int) -> Array:
    """How often expert i of `a` and expert j of `b` are chosen by the same token, float64 ``[E, E]``.

    Parameters
    ----------
    a, b
        Choices in two layers, ``[tokens, k]``.
    num_experts
        Experts per layer.
    """
    counts = np.zeros((num_experts, num_experts))
    for t in range(len(a)):
        for i in range(a.shape[1]):
            for j in range(b.shape[1]):
                counts[a[t, i], b[t, j]] += 1
    return counts


def mutual_information(counts: Array) -> float:
    """Mutual information of the two indices of a table of counts, bits.

    >>> mutual_information(np.eye(4))
    2.0
    """
    joint = counts / counts.sum()
    alone = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    some = joint > 0
    return float((joint[some] * np.log2(joint[some] / alone[some])).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Statistics of a trace.

    Parameters
    ----------
    load
        Share of tokens that choose each expert, ``[layers, E]``.
    lag
        Share of experts kept from each of the last four tokens, ``[layers, 4]``.
    far
        The same for two tokens of a request at least 16 apart, ``[layers]``.
    information
        Mutual information between an expert of a layer and one of the layer before, bits ``[layers]``; the
        first is 0. Without what shuffled tokens show, if asked for.
    """

    load: Array
    lag: Array
    far: Array
    information: Array


def moments(ids: Array, position: Array, num_experts: int, seed: int = 0, *, debias: bool = False) -> Moments:
    """Measure a trace whose requests lie one after the other.

    Parameters
    ----------
    ids
        ``[tokens, layers, k]``.
    position
        Place in the request, ``[tokens]``; 0 where one begins.
    num_experts
        Experts per layer.
    seed
        Of the pairs of distant tokens.
    debias
        Take away the mutual information that shuffled tokens show, which is the bias of a small sample.
    """
    rng = np.random.default_rng(seed)
    tokens = len(ids)
    layers = np.ascontiguousarray(ids.transpose(1, 0, 2))
    start = np.arange(tokens) - position
    lengths = np.diff(np.flatnonzero(position == 0), append=tokens)
    length = np.repeat(lengths, lengths)
    other = start + (rng.random(tokens) * length).astype(np.int64)
    apart = np.flatnonzero(np.abs(other - np.arange(tokens)) >= np.minimum(_FAR, length // 2))
    lags = [np.flatnonzero(position >= n) for n in LAGS]
    shuffled = rng.permutation(tokens)
    information = np.zeros(len(layers))
    for i in range(1, len(layers)):
        information[i] = mutual_information(pair_counts(layers[i - 1], layers[i], num_experts))
        if debias:
            chance = pair_counts(layers[i - 1][shuffled], layers[i], num_experts)
            information[i] -= mutual_information(chance)
    return Moments(
        load=count_ids(ids, num_experts) / tokens,
        lag=np.stack(
            [_overlap(layers, at, at - n, num_experts) for n, at in zip(LAGS, lags, strict=True)], axis=1
        ),
        far=_overlap(layers, apart, other[apart], num_experts),
        information=information,
    )
