"""The compiled loop of `moesim.analysis.buffers`: one layer of one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled

Array = npt.NDArray[Any]


def queued(tokens: int, top_k: int, first_choices_first: bool) -> npt.NDArray[np.int64]:
    """Order of the selections ``token * top_k + choice``: choice by choice, or token by token.

    >>> queued(2, 2, True).tolist(), queued(2, 2, False).tolist()
    ([0, 2, 1, 3], [0, 1, 2, 3])
    """
    line = np.arange(tokens * top_k).reshape(tokens, top_k)
    return (line.T if first_choices_first else line).ravel()


@compiled
def displace(
    ids: Array,
    owner: Array,
    line: Array,
    capacity: int,
    experts: int,
    hit: Array,
    hurt: Array,
    totals: Array,
) -> None:
    """Fill the buffers of one layer.

    Parameters
    ----------
    ids
        Experts of each token, int64 ``[tokens, top_k]``.
    owner
        Place of each token's request in the batch, ``[tokens]``.
    line
        Selections in the order in which they take places, ``[tokens * top_k]``.
    capacity, experts
        Places of a buffer; experts.
    hit
        Set where request ``i`` alone costs request ``j`` a selection, bool ``[requests, requests]``.
    hurt
        Set for tokens that others displace a selection of, bool ``[tokens]``.
    totals
        Dropped, and dropped also if alone, are added to ``[0]`` and ``[1]``.
    """
    top_k = ids.shape[1]
    requests = hit.shape[0]
    stood = np.zeros(experts, np.int64)
    held = np.zeros((experts, requests), np.int64)
    for at in line:
        token = at // top_k
        expert = ids[token, at % top_k]
        mine = owner[token]
        behind = stood[expert] - capacity
        if behind >= 0:
            totals[0] += 1
            if held[expert, mine] >= capacity:
                totals[1] += 1
            else:
                hurt[token] = True
                for other in range(requests):
                    # Without them, so many of those before it are gone.
                    if other != mine and held[expert, other] > behind:
                        hit[other, mine] = True
        stood[expert] += 1
        held[expert, mine] += 1
