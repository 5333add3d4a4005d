"""Surfaces of the small kernels around the experts, and the curve of the sorting before them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log

import numpy as np

from moesim.calibrate.fit import axes_of, bare, correction, interpolation
from moesim.calibrate.reference.cuda_waves import FOLDS
from moesim.calibrate.rows import Array, Rows
from moesim.calibrate.surfaces import Error, Fitted, times
from moesim.cost.roofline import peak_of
from moesim.hardware.curves import Curve, Surface
from moesim.hardware.kernels import RESOLUTION
from moesim.hardware.types import Device
from moesim.ops.primitives import gemm, top_k, weighted_sum
from moesim.ops.table import Op

#: Distance of knots on each axis of a kernel, in doublings.
STEPS = {"gemm": (1.0, 2.0, 2.0), "top_k": (1.0, 1.5, 1.5), "weighted_sum": (1.0, 1.5, 1.0)}
#: What the time of a kernel is made of, by its sizes: once, by what it reads and writes, by what it computes.
TERMS: dict[str, Callable[..., Array]] = {
    "gemm": lambda t, n, k: np.stack([np.ones_like(t), t * k, n * k, t * n, t * n * k], axis=1),
    "top_k": lambda t, e, k: np.stack([np.ones_like(t), t * e, t * k], axis=1),
    "weighted_sum": lambda t, w, k: np.stack([np.ones_like(t), t * w, t * w * k], axis=1),
}
#: Work of a kernel by its sizes, as the simulator counts it.
OPS: dict[str, Callable[..., Op]] = {
    "gemm": lambda t, n, k: gemm("gemm", t, k, n),
    "top_k": top_k,
    "weighted_sum": weighted_sum,
}
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
    """A law of few terms at the knots, and what it leaves, smoothed."""
    axes = axes_of(rows.sizes, STEPS[rows.kernel])
    knots = np.stack(
        np.meshgrid(*(2.0 ** (a.low + a.step * np.arange(a.knots)) for a in axes), indexing="ij"), axis=-1
    ).reshape(-1, len(axes))
    per_term = _terms(rows, floor_s)
    op = OPS[rows.kernel](*knots.T)
    processor = device.processor
    compute = np.asarray(op.flops) / peak_of(processor, rows.kind, rows.weights)
    memory = np.asarray(op.bytes) / processor.bandwidth_bytes_per_s[device.memory.name]
    law = TERMS[rows.kernel](*knots.T) @ per_term
    values = np.log(law / bare(compute, memory, floor_s, SHARPNESS))
    between = interpolation(rows.sizes, axes) @ values
    left = np.log(rows.seconds / bare(*times(rows, device), floor_s, SHARPNESS)) - between
    values = np.round((values + correction(rows.sizes, axes, left)) / RESOLUTION) * RESOLUTION
    found = tuple(float(value) for value in values)
    return Surface(rows.kernel, rows.dtype, rows.backend, rows.version, floor_s, SHARPNESS, axes, found)


def _terms(rows: Rows, floor_s: float) -> Array:
    """Seconds of each term with least relative error, none negative; never less than half a launch."""
    from scipy.optimize import nnls

    design = TERMS[rows.kernel](*rows.sizes.T) / rows.seconds[:, None]
    scale = np.maximum(design.max(axis=0), 1e-300)
    found, _ = nnls(design / scale, np.ones(len(design)))
    per_term = np.asarray(found / scale)
    per_term[0] = max(per_term[0], floor_s / 2, 1e-9)
    return per_term


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
