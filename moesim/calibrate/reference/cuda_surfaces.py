"""Surfaces of the small kernels around the experts, and the curve of the sorting before them."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np

from moesim.calibrate.fit import axes_of, bare, correction, interpolation
from moesim.calibrate.reference.cuda_waves import FOLDS
from moesim.calibrate.rows import Array, Rows
from moesim.calibrate.surfaces import STEPS, Error, Fitted, times
from moesim.hardware.curves import Curve, Surface
from moesim.hardware.kernels import RESOLUTION
from moesim.hardware.types import Device

#: Bytes at which the share of the bandwidth is told.
KNOTS = (1e5, 1e6, 1e7, 1e8, 1e9)
#: Exponent that joins arithmetic and memory.
SHARPNESS = 3.0


def fit_small(rows: Rows, device: Device, floor_s: float) -> Fitted:
    """A surface over few rows, and its error on rows left out.

    Parameters
    ----------
    rows
        Of one kernel.
    device
        Whose peaks the roofline has.
    floor_s
        Time of the kernel with nothing to do; 0 where it is part of another's launch.
    """
    from threadpoolctl import threadpool_limits

    fold = np.random.default_rng(len(rows)).permutation(len(rows)) % FOLDS
    predicted = np.empty(len(rows))
    with threadpool_limits(1):  # the systems are small
        whole = _fit(rows, device, floor_s)
        for number in range(FOLDS):
            out = fold == number
            if out.any():
                predicted[out] = _modelled(_fit(rows.pick(~out), device, floor_s), rows.pick(out), device)
    quantiles = np.quantile(np.log(rows.seconds / predicted), (0.05, 0.5, 0.95))
    low, middle, high = (round(float(q), 4) for q in quantiles)
    return Fitted(
        replace(whole, log_error=(low, middle, high)),
        len(rows),
        tuple((float(a), float(b)) for a, b in zip(rows.sizes.min(0), rows.sizes.max(0), strict=True)),
        Error.of(predicted, rows.seconds),
        None,
    )


def _fit(rows: Rows, device: Device, floor_s: float) -> Surface:
    compute, memory = times(rows, device)
    axes = axes_of(rows.sizes, STEPS[rows.kernel])
    found = correction(rows.sizes, axes, np.log(rows.seconds / bare(compute, memory, floor_s, SHARPNESS)))
    values = tuple(float(step) * RESOLUTION for step in np.round(found / RESOLUTION))
    return Surface(rows.kernel, rows.dtype, rows.backend, rows.version, floor_s, SHARPNESS, axes, values)


def _modelled(surface: Surface, rows: Rows, device: Device) -> Array:
    compute, memory = times(rows, device)
    log_ratio = interpolation(rows.sizes, surface.axes) @ np.asarray(surface.values)
    return np.asarray(
        np.maximum(
            bare(compute, memory, surface.floor_s, surface.sharpness) * np.exp(log_ratio),
            np.maximum(compute, memory),
        )
    )


def moves_curve(data: Array, seconds: Array, launch_s: float, bandwidth: float) -> tuple[int, Curve]:
    """Kernels that sort tokens by expert, and the share of the bandwidth at which they move rows.

    Parameters
    ----------
    data, seconds
        Bytes of rows moved, and times.
    launch_s
        From one kernel to the next.
    bandwidth
        Of the memory.

    Returns
    -------
    int
        What the smallest take, in launches: kernels that wait for each other, and what they do besides.
    tuple
        Share by bytes; larger ones never take less time.
    """
    from scipy.optimize import least_squares

    small = float(np.median(seconds[data <= np.quantile(data, 0.1)]))
    launches = max(round(small / launch_s), 1) if launch_s > 0 else 1
    knots = np.array(KNOTS)

    def share(x: Array) -> Array:
        return np.exp(np.interp(np.log(data), np.log(knots), x))

    def residual(x: Array) -> Array:
        modelled = launches * launch_s + data / (bandwidth * share(x))
        return np.append(np.log(modelled / seconds), 0.02 * np.diff(x))

    found = least_squares(
        residual, np.full(len(knots), -0.5), bounds=(-6.0, 0.0), loss="soft_l1", f_scale=0.05
    )
    shares = np.exp(found.x)
    # A curve may not leap (`moesim.hardware.check`): what is small is raised as far as that takes.
    for i in reversed(range(len(knots) - 1)):
        shares[i] = max(shares[i], shares[i + 1] / (1.0 + log(knots[i + 1] / knots[i])) * (1 + 1e-9))
    return launches, tuple((float(k), float(s)) for k, s in zip(knots, shares, strict=True))
