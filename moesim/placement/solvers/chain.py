"""Which cluster of experts goes to which rank, layer after layer, when the clusters themselves are fixed.

On a flat topology only what stays on a rank from one layer to the next matters, and that depends on how the
clusters of two neighbouring layers are paired, not on what the ranks are called. So layers are paired one by
one, each against the one before it, and the whole is optimal:

total
    Least traffic in all: an assignment problem per pair of layers, solved by the Hungarian method.
largest
    Least traffic over the busiest pair of ranks, summed over layers, as in the second integer programme of
    MoETuner (arXiv 2502.06643): an entry that is not on a matched cell stays remote, so the largest entries
    are matched one after the other until two of them share a row or a column. What the rest allows is then
    decided by the total.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from moesim.errors import ConfigError, Fault
from moesim.placement.solvers.greedy import FloatArray, IntArray

AIMS = ("total", "largest")


def chain_lap(pairs: FloatArray, clusters: IntArray, parts: int, aim: str = "total") -> IntArray:
    """Order the clusters of every layer so that as little as possible leaves its part.

    Parameters
    ----------
    pairs
        Transitions, float64 ``[layers - 1, experts, experts]``; see `moesim.placement.traffic.transitions`.
    clusters
        physical_to_logical, int64 ``[layers, slots]``; what a part holds stays together. Replicas are taken
        with equal chance.
    parts
        The ranks; or the nodes, whose ranks then move as a block.
    aim
        One of `AIMS`.

    Returns
    -------
    ndarray
        physical_to_logical, int64 ``[layers, slots]``, the first layer as it was. No order has a smaller
        total (or sum over layers of the largest flow between two parts).

    Raises
    ------
    ConfigError
        If there is no such aim.

    Examples
    --------
    >>> pairs = np.array([[[0.0, 5.0], [5.0, 0.0]]])
    >>> chain_lap(pairs, np.array([[0, 1], [0, 1]]), parts=2).tolist()
    [[0, 1], [1, 0]]
    """
    if aim not in AIMS:
        raise ConfigError(Fault("is no aim", "aim", aim, ", ".join(AIMS)))
    layers, slots = clusters.shape
    blocks = clusters.reshape(layers, parts, slots // parts).copy()
    before = _share(blocks[0], pairs.shape[-1] if len(pairs) else int(clusters.max()) + 1)
    for layer in range(1, layers):
        after = _share(blocks[layer], pairs.shape[-1])
        flow = before.T @ pairs[layer - 1] @ after
        order = _pair(flow, largest=aim == "largest")
        blocks[layer] = blocks[layer][order]
        before = after[:, order]
    return blocks.reshape(layers, slots)


def largest_flow(pairs: FloatArray, table: IntArray, parts: int) -> FloatArray:
    """Largest flow between two different parts from each layer to the next, float64 ``[layers - 1]``."""
    blocks = table.reshape(len(table), parts, -1)
    share = [_share(block, pairs.shape[-1]) for block in blocks]
    flow = np.stack([a.T @ p @ b for a, p, b in zip(share, pairs, share[1:], strict=False)])
    flow[:, np.arange(parts), np.arange(parts)] = 0.0
    return np.asarray(flow.max(axis=(1, 2)))


def _pair(flow: FloatArray, *, largest: bool) -> IntArray:
    """Column that each row is paired with."""
    limit = np.inf
    if largest:
        rows, columns = set[int](), set[int]()
        order = np.argsort(-flow, axis=None, kind="stable")
        for cell in order.tolist():
            row, column = divmod(cell, flow.shape[1])
            if row in rows or column in columns:
                limit = flow[row, column]
                break
            rows.add(row)
            columns.add(column)
    # More than any pairing could stay away from: entries above the limit are matched whatever the rest says.
    must = (flow > limit) * (2.0 * flow.sum() + 1.0)
    return np.asarray(linear_sum_assignment(flow + must, maximize=True)[1])


def _share(block: IntArray, experts: int) -> FloatArray:
    """Part of each expert's tokens that each part takes, float64 ``[experts, parts]``."""
    parts, room = block.shape
    held = np.zeros((experts, parts))
    np.add.at(held, (block.ravel(), np.repeat(np.arange(parts), room)), 1.0)
    return np.asarray(held / np.maximum(1.0, held.sum(axis=1, keepdims=True)))
