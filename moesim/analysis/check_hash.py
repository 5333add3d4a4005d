"""Hashes of what a token chose: equal sets of experts have equal hashes, whatever their order.

Two different sets agree with a probability of about 2**-64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
_SEED = 0x6D6F6573696D


def mix(values: Hashes) -> Hashes:
    """Scatter 64-bit values: the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


class SetHash:
    """Hash the set of experts of each token and layer.

    Parameters
    ----------
    layers
        Layers of the arrays to come; equal sets of different layers hash alike in `each`, not in `joint`.
    """

    def __init__(self, layers: int) -> None:
        self._table = np.random.default_rng(_SEED).integers(0, 2**64, 256, np.uint64)
        self._layer = mix(np.arange(layers, dtype=np.uint64) + np.uint64(_SEED))

    def each(self, ids: npt.NDArray[np.unsignedinteger]) -> Hashes:
        """Hash of each set, uint64 ``[tokens, layers]`` of ids ``[tokens, layers, top_k]``."""
        highest = int(ids.max()) if ids.size else 0
        if highest >= len(self._table):
            self._table = np.random.default_rng(_SEED).integers(0, 2**64, 2**16, np.uint64)
        hashes = self._table[ids[:, :, 0]]
        for slot in range(1, ids.shape[2]):
            hashes = hashes + self._table[ids[:, :, slot]]
        return np.asarray(hashes)

    def joint(self, each: Hashes) -> Hashes:
        """One hash per token, uint64 ``[tokens]``, of hashes ``[tokens, layers]``."""
        return np.asarray(mix(each ^ self._layer[: each.shape[1]]).sum(axis=1, dtype=np.uint64))


def running(values: Hashes, index: npt.NDArray[np.int64]) -> Hashes:
    """Terms whose running sum over a request is the hash of its prefix.

    Parameters
    ----------
    values
        Hash of each token, uint64 ``[tokens]``.
    index
        Place of each token in its request, int64 ``[tokens]``.
    """
    return mix(values ^ mix(index.astype(np.uint64)))
