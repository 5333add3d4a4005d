"""Kinds of tokens: clusters of routing paths, found by k-means."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.synthesis.solve import one_hot

Array = npt.NDArray[Any]
#: What is drawn as an expert is, in one byte.
MAX_KINDS = 256
_SAMPLE, _ROUNDS, _RUN = 20_000, 12, 8192


def default_kinds(tokens: int) -> int:
    """How many kinds a trace of that size supports: one per 16 tokens, at most 256."""
    return min(MAX_KINDS, tokens // 16)


def find_kinds(ids: Array, num_experts: int, count: int, seed: int = 0) -> Array:
    """Cluster tokens by the experts they choose in all layers.

    Lloyd's k-means on the indicator vectors of the choices, on at most 20,000 tokens; the others join the
    nearest centre.

    Parameters
    ----------
    ids
        ``[tokens, layers, k]``.
    num_experts
        Experts per layer.
    count
        Clusters, at least 1.
    seed
        Of the sample and the first centres.

    Returns
    -------
    ndarray
        int64 ``[tokens]``, below `count`.
    """
    from scipy.sparse import csr_array

    tokens = len(ids)
    rng = np.random.default_rng(seed)
    sample = _paths(ids[np.sort(rng.permutation(tokens)[:_SAMPLE])], num_experts)
    centres = sample[rng.permutation(len(sample))[:count]]
    for _ in range(_ROUNDS):
        nearest = _nearest(sample, centres)
        sizes = np.bincount(nearest, minlength=len(centres))
        members = csr_array((np.ones(len(sample), np.float32), (nearest, np.arange(len(sample)))),
                            shape=(len(centres), len(sample)))  # fmt: skip
        sums = members @ sample
        full = sizes > 0
        centres[full] = sums[full] / sizes[full, None]
        centres[~full] = sample[rng.integers(0, len(sample), (~full).sum())]
    parts = [_nearest(_paths(ids[i : i + _RUN], num_experts), centres) for i in range(0, tokens, _RUN)]
    return np.concatenate(parts)


def _paths(ids: Array, num_experts: int) -> Array:
    tokens, layers, _ = ids.shape
    flat = ids.astype(np.int64) + (np.arange(layers) * num_experts)[None, :, None]
    return one_hot(flat.reshape(tokens, -1), layers * num_experts).astype(np.float32)


def _nearest(points: Array, centres: Array) -> Array:
    nearest: Array = (2 * points @ centres.T - (centres**2).sum(axis=1)).argmax(axis=1)
    return nearest
