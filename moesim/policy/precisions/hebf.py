"""D2MoE's order of loads: what most tokens wait for first, and never a residual before its base."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def hebf(counts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Hottest expert, bits first (Wang et al. 2025, arXiv 2504.15299).

    Every expert has a queue of its pieces, base before residuals; again and again the head that most tokens
    wait for is taken. With one token per step all counts are 1, and the order is that of the experts.

    Parameters
    ----------
    counts
        Tokens that need each piece, by expert, base first; a token that needs a residual needs all below it,
        so that counts do not rise along a queue.

    Returns
    -------
    list of tuple
        Expert and piece in the order of loading; pieces that nobody needs are left out.

    Examples
    --------
    Expert 1's base is wanted most; its residual waits for expert 0's base.

    >>> hebf([[3, 1], [5, 2]])
    [(1, 0), (0, 0), (1, 1), (0, 1)]
    """
    heads = [(-queue[0], expert, 0) for expert, queue in enumerate(counts) if queue and queue[0] > 0]
    heapq.heapify(heads)
    order = []
    while heads:
        _, expert, piece = heapq.heappop(heads)
        order.append((expert, piece))
        queue = counts[expert]
        if piece + 1 < len(queue) and queue[piece + 1] > 0:
            heapq.heappush(heads, (-queue[piece + 1], expert, piece + 1))
    return order
