"""Lower bounds on traffic under any plan without replicas: valid, instant, and loose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.placement.solvers.greedy import FloatArray


def least_leaving(pairs: FloatArray, parts: int) -> FloatArray:
    """Share of transitions that leave their part under any plan without replicas: a bound, not a tight one.

    With indicators ``X``, ``Y`` of who is where in two layers, ``c`` experts to a part, ``tr(X' N Y)`` stays.
    Their means give ``sum(N) / parts``; what is left has ``parts - 1`` directions of length ``sqrt(c)``, so
    at most ``c`` times the sum of the ``parts - 1`` largest singular values of N without its row and column
    means (von Neumann). Besides, no expert sends more to a part than to its ``c`` favourites.

    Parameters
    ----------
    pairs
        Transitions, float64 ``[layers - 1, experts, experts]``.
    parts
        The ranks, or the nodes; divides the experts.

    Returns
    -------
    ndarray
        float64 ``[layers - 1]``, NaN where nothing was counted.

    Examples
    --------
    >>> least_leaving(np.array([[[8.0, 0], [0, 8]]]), parts=2)
    array([0.])
    """
    experts = pairs.shape[1]
    size = experts // parts
    found = []
    for flow in pairs:
        total = flow.sum()
        centred = flow - flow.mean(axis=0) - flow.mean(axis=1, keepdims=True) + flow.mean()
        strongest = np.linalg.svd(centred, compute_uv=False)[: parts - 1].sum()
        favourites = min(np.sort(side, axis=1)[:, -size:].sum() for side in (flow, flow.T))
        stays = min(total / parts + size * strongest, favourites, total)
        found.append(1.0 - stays / total if total > 0 else np.nan)
    return np.maximum(found, 0.0)


def least_remote(ids: npt.NDArray[np.integer], experts: int, nodes: int) -> FloatArray:
    """Other nodes per token under any plan without replicas: a bound, not a tight one.

    Pairs of experts of one token that share a node are bounded like transitions, by the ``nodes - 1`` largest
    eigenvalues of the counts of pairs. A token with few such pairs reaches many nodes: the fewest nodes for
    so many pairs, over all ways to divide ``top_k`` experts on nodes, bounded from below by a convex curve.

    Parameters
    ----------
    ids
        ``[tokens, layers, top_k]``.
    experts
        Experts per layer.
    nodes
        Divides `experts`.

    Returns
    -------
    ndarray
        float64 ``[layers]``.

    Examples
    --------
    >>> least_remote(np.array([[[0, 1]], [[2, 3]]]), experts=4, nodes=2)
    array([0.5])
    """
    tokens, layers, top_k = ids.shape
    size = experts // nodes
    corners = _fewest_for_pairs(top_k, nodes, size)
    found = []
    for layer in range(layers):
        member = np.zeros((tokens, experts), dtype=np.float32)
        np.put_along_axis(member, ids[:, layer].astype(np.int64), 1.0, axis=1)
        both = (member.T @ member).astype(np.float64)
        np.fill_diagonal(both, 0.0)
        # The diagonal shifts every plan's sum alike: one that evens the rows out leaves smaller eigenvalues.
        shift = both.sum(axis=1) / max(1, experts - 1)
        np.fill_diagonal(both, shift)
        centred = both - both.mean(axis=0) - both.mean(axis=1, keepdims=True) + both.mean()
        strongest = np.linalg.eigvalsh(centred)[::-1][: nodes - 1].sum()
        pairs = 0.5 * (both.sum() / nodes + size * strongest - shift.sum()) / tokens
        least = np.interp(pairs, [q for q, _ in corners], [n for _, n in corners])
        found.append(least * (nodes - 1) / nodes)
    return np.array(found)


def _fewest_for_pairs(top_k: int, nodes: int, size: int) -> list[tuple[float, float]]:
    """Corners of the convex curve under (pairs that share a node, nodes) of all divisions of a token."""
    points: dict[int, int] = {}

    def divide(left: int, most: int, used: int, pairs: int) -> None:
        if left == 0:
            points[pairs] = min(points.get(pairs, used), used)
            return
        for here in range(min(left, most), 0, -1):
            if used < nodes and here * (nodes - used) >= left:
                divide(left - here, here, used + 1, pairs + here * (here - 1) // 2)

    divide(top_k, size, 0, 0)
    hull: list[tuple[float, float]] = []
    for q, n in sorted(points.items()):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (q - hull[-2][0]) >= (n - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((float(q), float(n)))
    return hull
