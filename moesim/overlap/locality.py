"""LocMoE's capacity bound, and all-to-all cut over tensor-parallel ranks (arXiv:2401.13920)."""

from __future__ import annotations

import math


def capacity_bounds(experts: int, width: int, cosine: float) -> tuple[float, float]:
    """Least slots of an expert, as parts of all tokens, so that no token that belongs to it is lost.

    A token belongs to an expert if the cosine between the two is at least so large; the angles of random
    directions in `width` dimensions are close to normal.

    Parameters
    ----------
    experts
        Experts.
    width
        Dimensions of an activation.
    cosine
        Least cosine of the angle between a token and the weights of the gate of its expert.

    Returns
    -------
    tuple
        ``1 / (n erfc(sqrt(d**2 D / (2 - d**2))))``, and below it ``exp(d**2 D / (2 - d**2)) / n``.

    Examples
    --------
    >>> exact, simple = capacity_bounds(16, 1024, 0.03)
    >>> round(16 * exact, 2), round(16 * simple, 2)
    (2.97, 1.59)
    """
    exponent = cosine**2 * width / (2.0 - cosine**2)
    return 1.0 / (experts * math.erfc(math.sqrt(exponent))), math.exp(exponent) / experts


def grouped_exchange(exchange_s: float, gather_s: float, ranks: int) -> float:
    """Seconds when each of so many tensor-parallel ranks sends its part, and they gather afterwards.

    Parameters
    ----------
    exchange_s
        All-to-all of everything by every rank, as ranks with the same tokens do it otherwise.
    gather_s
        All-gather among the ranks of what arrives.

    >>> grouped_exchange(8.0, 1.0, 4)
    3.0
    """
    return exchange_s / ranks + gather_s


def capacity(tokens: int, factor: float, experts_per_rank: int, experts: int) -> int:
    """Slots of an expert, ``ceil(b c_f / (ep n))``.

    >>> capacity(4096, 1.1, 1, 16)
    282
    """
    return math.ceil(tokens * factor / (experts_per_rank * experts))


def busiest_sent(nodes: int, experts: int, local: float) -> float:
    """Largest part of a node's tokens that leave it, which is what an all-to-all waits for.

    Parameters
    ----------
    nodes, experts
        With as many nodes as experts or fewer, each node holds some; beyond, some nodes hold none.
    local
        Part of its tokens that a node with experts keeps; without a preference, its even share.

    Examples
    --------
    Preferring near experts helps until a node has none.

    >>> busiest_sent(8, 16, 0.5), busiest_sent(16, 16, 0.5), busiest_sent(32, 16, 0.5)
    (0.5, 0.5, 1.0)
    """
    return 1.0 if nodes > experts else 1.0 - max(local, 1.0 / nodes)
