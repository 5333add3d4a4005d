"""QMoE's code of ternary weights: how many bits a weight takes.

Frantar and Alistarh (arXiv:2310.16795): most weights are zero after quantisation to {-, 0, +}. A dictionary
of 2**16 sequences of pairs of weights, the most probable ones of up to 14 pairs, replaces each run of weights
by 16 bits; the longest sequence that matches is taken.
"""

from __future__ import annotations

import functools
import heapq
import math

import numpy as np
import numpy.typing as npt

CODE_BITS = 16
MOST_PAIRS = 14
PAIRS = 9


def entropy_bits(zeros: float) -> float:
    """Bits per weight that no code can go below, for independent weights of which a part is zero.

    >>> round(16 / entropy_bits(0.885), 1)
    25.4
    """
    other = (1.0 - zeros) / 2.0
    return -zeros * math.log2(zeros) - 2.0 * other * math.log2(other)


def _odds(zeros: float) -> npt.NDArray[np.float64]:
    """How probable each pair of weights is, ``[9]``."""
    one = np.array([zeros, (1.0 - zeros) / 2.0, (1.0 - zeros) / 2.0])
    return np.outer(one, one).ravel()


def dictionary(zeros: float, entries: int = 2**CODE_BITS) -> npt.NDArray[np.int64]:
    """The most probable sequences as a tree: parent, last pair and number of pairs of each, ``[entries, 3]``.

    A sequence is at most as probable as what it starts with, so that the most probable ones form a tree, and
    a parent comes before its children. Parent -1 is the empty sequence.
    """
    odds = _odds(zeros)
    # Most probable first; the counter breaks ties by age. The nine single pairs come first of all, so that
    # everything can be written.
    waiting: list[tuple[float, int, int, int, int]] = []
    found = [(-1, pair, 1) for pair in range(PAIRS)]
    counter = 0

    def grow(parent: int, minus: float, pairs: int) -> None:
        nonlocal counter
        if pairs <= MOST_PAIRS:
            for pair in range(PAIRS):
                heapq.heappush(waiting, (minus * odds[pair], counter, parent, pair, pairs))
                counter += 1

    for pair in range(PAIRS):
        grow(pair, -odds[pair], 2)
    while waiting and len(found) < entries:
        minus, _, parent, pair, pairs = heapq.heappop(waiting)
        found.append((parent, pair, pairs))
        grow(len(found) - 1, minus, pairs + 1)
    return np.array(found, np.int64)


@functools.lru_cache(maxsize=32)
def bits_per_weight(zeros: float, entries: int = 2**CODE_BITS) -> float:
    """Bits per weight of the code, for independent weights: exact, no weights are drawn.

    A run of the longest match ends at a node when the next pair has no child there, and that pair starts the
    next run. The first pairs of runs thus form a Markov chain; its stationary law gives the mean length.

    >>> bits_per_weight(0.5, 9)
    8.0
    """
    odds = _odds(zeros)
    parent, pair, depth = dictionary(zeros, entries).T
    size = len(parent)
    # Probability to pass a node in a run, by the first pair of the run.
    reach = np.zeros((size, PAIRS))
    reach[np.arange(PAIRS), np.arange(PAIRS)] = 1.0
    for level in range(2, int(depth.max()) + 1):
        at = np.flatnonzero(depth == level)
        reach[at] = odds[pair[at], None] * reach[parent[at]]
    ends = np.broadcast_to(odds, (size, PAIRS)).copy()
    inner = parent >= 0
    ends[parent[inner], pair[inner]] = 0.0
    # From the first pair of a run to that of the next; a run of full length ends before any pair.
    law = np.linalg.matrix_power(reach.T @ ends, 1 << 20)[0]
    pairs = float(law @ ((reach * ends.sum(axis=1)[:, None]).T @ depth))
    return CODE_BITS / (2.0 * pairs)
