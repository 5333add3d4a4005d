"""Fit the law of tiles and waves to measured grouped GEMMs.

What is fitted is few and physical: of each configuration the share of the peak in its loop, the seconds to
fill a tile and to drain the kernel; of all together the time between kernels, the share of the bandwidth by
bytes moved, and how sharply arithmetic and memory meet. The logarithm of time is fitted, robustly, so that a
kernel of 5 us weighs as much as one of 5 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
import numpy.typing as npt

from moesim.calibrate.rows import Array, IntArray
from moesim.calibrate.surfaces import Error
from moesim.cost.roofline import at, soft_max
from moesim.hardware.curves import Curve
from moesim.hardware.tiles import Tile, TileLaw

#: Bytes at which the share of the bandwidth is fitted.
KNOTS = (1e6, 1e7, 1e8, 1e9)
#: Least ratio of neighbouring shares, so that more bytes never take less time (`moesim.hardware.check`).
STEEPEST = 1.0 / (1.0 + log(KNOTS[1] / KNOTS[0]))
#: Error of the logarithm beyond which rows weigh less.
CLOSE = 0.05
#: Parts that rows are left out in, one after the other.
FOLDS = 5
#: Least and most of: share of the peak; seconds to fill; to drain; between kernels.
COMPUTE, FILL_S, DRAIN_S, LAUNCH_S = (0.005, 1.0), (0.0, 2e-5), (0.0, 2e-5), (0.0, 1e-4)
TOP, SHARPNESS = (0.05, 1.0), (1.0, 40.0)


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """Measured times of one or more products each; arrays are ``[rows]`` or ``[rows, products]``.

    Parameters
    ----------
    tile
        Number of the configuration, int ``[rows]``.
    waves, inputs, data
        Waves, inputs, and bytes moved (0 for no product), ``[rows, products]``.
    rest_s
        Seconds of what was measured along with the products and is known, ``[rows]``.
    roof_s
        What the bare roofline allows, ``[rows]``.
    seconds
        Measured, ``[rows]``.
    group
        Rows of one group are left out together, int ``[rows]``.
    """

    tile: IntArray
    waves: Array
    inputs: Array
    data: Array
    rest_s: Array
    roof_s: Array
    seconds: Array
    group: IntArray

    def __len__(self) -> int:
        return len(self.seconds)

    def pick(self, chosen: npt.NDArray[np.bool_]) -> Products:
        """Some of the rows."""
        return Products(*(getattr(self, name)[chosen] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Machine:
    """What the law is stated in shares of.

    Parameters
    ----------
    core_flops_per_s
        Share of the peak of one core.
    bandwidth_bytes_per_s
        Of the main memory.
    """

    core_flops_per_s: float
    bandwidth_bytes_per_s: float


@dataclass(frozen=True, slots=True, eq=False)
class FittedWaves:
    """A law and its error on rows left out.

    Parameters
    ----------
    law
        Fitted to all rows.
    left_out
        Error of each row by a law fitted without its group.
    log_ratio
        ``ln(measured / modelled)`` of each row, by the same, ``[rows]``.
    """

    law: TileLaw
    left_out: Error
    log_ratio: Array


def fit_waves(
    rows: Products,
    tiles: Sequence[Tile],
    machine: Machine,
    *,
    launch_s: float | None = None,
    launches: int = 0,
    moves: Curve = ((1.0, 1.0),),
    source: str = "",
) -> FittedWaves:
    """Fit a law, and measure its error on groups of rows left out.

    Parameters
    ----------
    rows
        The measurements.
    tiles
        Configurations: names, sizes and limits count, the rest is where the search starts.
    machine
        Its peaks.
    launch_s
        Time between kernels, where it was measured on its own; fitted if not given.
    launches, moves, source
        As of `moesim.hardware.tiles.TileLaw`.
    """
    start = _start(tiles, launch_s)
    values = _solve(rows, tiles, machine, start, launch_s)
    law = _law(values, tiles, launch_s)
    folds = _folds(rows.group)
    modelled = np.empty(len(rows))
    for fold in np.unique(folds):
        out = folds == fold
        found = _solve(rows.pick(~out), tiles, machine, values, launch_s)
        modelled[out] = modelled_s(rows.pick(out), _law(found, tiles, launch_s), machine)
    ratio = np.log(rows.seconds / modelled)
    low, middle, high = (round(float(q), 4) for q in np.quantile(ratio, (0.05, 0.5, 0.95)))
    law = replace(law, launches=launches, moves=moves, source=source, log_error=(low, middle, high))
    return FittedWaves(law, Error.of(modelled, rows.seconds), ratio)


def modelled_s(rows: Products, law: TileLaw, machine: Machine) -> Array:
    """Seconds that a law gives for rows; as `moesim.cost.waves`, of many configurations at once."""
    compute, fill, drain, area = (
        np.array(values)[rows.tile][:, None]
        for values in zip(
            *((t.compute, t.fill_s, t.drain_s, 2.0 * t.rows * t.columns) for t in law.tiles), strict=True
        )
    )
    there = rows.data > 0
    busy = rows.waves * (fill + area * rows.inputs / (compute * machine.core_flops_per_s)) + drain
    fetch = rows.data / (machine.bandwidth_bytes_per_s * at(law.memory, rows.data))
    each = np.where(there, law.launch_s + soft_max(busy, fetch, law.sharpness), 0.0)
    return np.asarray(np.maximum(rows.rest_s + each.sum(axis=1), rows.roof_s))


def _folds(group: IntArray) -> IntArray:
    """Fold of every row: groups dealt out in a fixed random order."""
    names, number = np.unique(group, return_inverse=True)
    order = np.random.default_rng(len(names)).permutation(len(names))
    return np.asarray(order[number.ravel()] % min(FOLDS, len(names)))


def _bounds(tiles: Sequence[Tile], launch_s: float | None) -> Array:
    """Least and most of every number that is fitted, ``[2, numbers]``."""
    each = [COMPUTE, FILL_S, DRAIN_S] * len(tiles)
    steps = [(STEEPEST, 1.0)] * (len(KNOTS) - 1)
    return np.array([*each, TOP, *steps, SHARPNESS, *([LAUNCH_S] if launch_s is None else [])]).T


def _start(tiles: Sequence[Tile], launch_s: float | None) -> Array:
    """Middle of the road, as fractions of the bounds."""
    first = [x for tile in tiles for x in (tile.compute, 1e-6, 2e-6)]
    values = [*first, 0.8, 0.9, 0.8, 0.8, 4.0, *([3e-6] if launch_s is None else [])]
    return _scaled(np.array(values), _bounds(tiles, launch_s))


def _scaled(values: Array, bounds: Array) -> Array:
    low, high = bounds
    return np.asarray(np.clip((values - low) / (high - low), 1e-3, 1 - 1e-3))


def _solve(
    rows: Products, tiles: Sequence[Tile], machine: Machine, start: Array, launch_s: float | None
) -> Array:
    from scipy.optimize import least_squares

    measured = np.log(rows.seconds)

    def residual(values: Array) -> Array:
        return np.log(modelled_s(rows, _law(values, tiles, launch_s), machine)) - measured

    found = least_squares(residual, start, bounds=(0.0, 1.0), loss="soft_l1", f_scale=CLOSE, max_nfev=60)
    return np.asarray(np.clip(found.x, 1e-6, 1 - 1e-6))


def _law(values: Array, tiles: Sequence[Tile], launch_s: float | None) -> TileLaw:
    """The law that fractions of the bounds stand for."""
    low, high = _bounds(tiles, launch_s)
    numbers = low + values * (high - low)
    n = 3 * len(tiles)
    made = []
    for tile, (compute, fill_s, drain_s) in zip(tiles, numbers[:n].reshape(-1, 3).tolist(), strict=True):
        made.append(replace(tile, compute=compute, fill_s=fill_s, drain_s=drain_s))
    shares = np.cumprod(numbers[n : n + len(KNOTS)])[::-1]
    memory = tuple((knot, float(share)) for knot, share in zip(KNOTS, shares, strict=True))
    between = float(numbers[-1]) if launch_s is None else launch_s
    return TileLaw(tuple(made), between, 0, memory=memory, sharpness=float(numbers[n + len(KNOTS)]))
