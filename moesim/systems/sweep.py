"""The assumptions of a row, moved over their ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from moesim.systems.row import Assumption

#: All corners are visited up to this many assumptions; beyond, a Latin hypercube stands in for them.
MOST_CORNERS = 4
#: Points of the Latin hypercube.
POINTS = 24


def points(assumed: Sequence[Assumption], seed: int = 0) -> Iterator[dict[str, float]]:
    """Settings to try: each assumption alone at both ends, then all together.

    Parameters
    ----------
    assumed
        With their ranges.
    seed
        Of the Latin hypercube (McKay, Beckman and Conover, Technometrics 21(2), 1979).

    Examples
    --------
    >>> list(points([Assumption("link", 10.0, 8.0, 12.0, "example")]))
    [{'link': 8.0}, {'link': 12.0}]
    """
    central = {a.name: a.value for a in assumed}
    for a in assumed:
        for end in (a.low, a.high):
            if end != a.value:
                yield {**central, a.name: end}
    if len(assumed) < 2:
        return
    if len(assumed) <= MOST_CORNERS:
        for corner in product(*((a.low, a.high) for a in assumed)):
            yield {a.name: end for a, end in zip(assumed, corner, strict=True)}
        return
    rng = np.random.default_rng(seed)
    cells = rng.permuted(np.tile(np.arange(POINTS), (len(assumed), 1)), axis=1)
    places = (cells + rng.random(cells.shape)) / POINTS
    for place in places.T:
        yield {a.name: float(a.low + p * (a.high - a.low)) for a, p in zip(assumed, place, strict=True)}
