"""Routing that repeats itself with a period, as dummy routers make it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.analysis.check_hash import Hashes, mix

MAX_PERIOD = 4096
#: Share of tokens that must be as they were a period earlier, and the fewest pairs to judge by.
_ALIKE, _PAIRS = 0.98, 64
_ANCHORS = 6
_WEIGHTS = mix(np.arange(4, dtype=np.uint64)) | np.uint64(1)


def period(values: Hashes, request: npt.NDArray[np.int32], index: npt.NDArray[np.int64]) -> int | None:
    """Smallest period of a sequence, or None.

    Parameters
    ----------
    values
        Hash of what each token chose in one layer, uint64 ``[tokens]``, in file order.
    request, index
        Request of each token and its place in it, ``[tokens]``. Tokens at the same place of two requests do
        not count: requests may be copies of each other.

    Examples
    --------
    >>> values = np.arange(300, dtype=np.uint64) % 7
    >>> one = np.zeros(300, np.int32)
    >>> period(values, one, np.arange(300))
    7
    """
    tokens = len(values)
    if tokens < _PAIRS + 1:
        return None
    last = tokens - len(_WEIGHTS) + 1
    gram = sum((values[i : last + i] * w for i, w in enumerate(_WEIGHTS)), np.zeros(last, np.uint64))
    candidates = set()
    for anchor in np.linspace(0, len(gram) // 2, _ANCHORS).astype(int):
        ahead = gram[anchor + 1 : anchor + 1 + MAX_PERIOD]
        again = np.flatnonzero(ahead == gram[anchor])
        if len(again):
            candidates.add(int(again[0]) + 1)
    for lag in sorted(candidates):
        counts = (request[lag:] == request[:-lag]) | (index[lag:] != index[:-lag])
        pairs = int(counts.sum())
        alike = int(((values[lag:] == values[:-lag]) & counts).sum())
        if pairs >= max(_PAIRS, lag) and alike >= _ALIKE * pairs:
            return lag
    return None
