"""What FSMoE writes instead of a timeline: four paths, and a number of chunks chosen by them.

A layer cut into ``r`` chunks is as long as the longest of four paths (FSMoE, arXiv:2501.10714, Sec. 4.2),
with ``t`` the seconds of one chunk:

* ``2 r t_a2a + t_gradients``: the network between nodes never rests;
* ``2 t_a2a + t_ag + t_rs + r t_experts``: the cores never rest;
* ``2 r t_a2a + t_ag + t_rs``: the network rests only for one chunk inside the node;
* ``2 t_a2a + r (t_ag + t_rs)``: the links inside the node never rest.

The paper picks one of them by inequalities; these are what makes it the longest of the four.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.engine.routing import Array
from moesim.overlap.layer import LayerSeconds
from moesim.overlap.schedules import DEGREES, Chosen

PATHS = ("inter with gradients", "compute", "inter", "intra")


def path_seconds(layer: LayerSeconds, degree: float) -> Array:
    """Seconds of the four paths in the order of `PATHS`, ``[4, layers]``.

    >>> layer = LayerSeconds(dispatch=2.0, gather=1.0, experts=8.0, scatter=1.0, combine=2.0)
    >>> path_seconds(layer, 2).tolist()
    [4.0, 11.0, 5.0, 4.0]
    """
    start = {n: layer.startup(n) for n in ("dispatch", "gather", "experts", "scatter", "combine")}
    part = {n: start[n] + (layer.whole(n) - start[n]) / degree for n in start}
    exchange = part["dispatch"] + part["combine"]
    inside = part["gather"] + part["scatter"]
    return np.stack(
        [
            degree * exchange + layer.whole("gradients"),
            exchange + inside + degree * part["experts"],
            degree * exchange + inside,
            exchange + degree * inside,
        ]
    )


def closed_form(layer: LayerSeconds, degrees: Sequence[int] = DEGREES) -> Chosen:
    """The number of chunks whose longest path is shortest, and that path's seconds.

    >>> layer = LayerSeconds(dispatch=2.0, gather=1.0, experts=8.0, scatter=1.0, combine=2.0)
    >>> chosen = closed_form(layer)
    >>> int(chosen.degree), float(chosen.seconds)
    (8, 8.75)
    """
    longest = np.stack([path_seconds(layer, degree).max(axis=0) for degree in degrees])
    around = layer.whole("before") + layer.whole("shared") + layer.whole("after")
    best = np.argmin(longest, axis=0)
    return Chosen(np.asarray(longest.min(axis=0) + around), np.asarray(degrees)[best])
