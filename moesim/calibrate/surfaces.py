"""From rows of a table to a surface with its error on shapes left out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.calibrate.fit import (
    CURVATURE,
    Array,
    axes_of,
    bare,
    correction,
    floor_of,
    interpolation,
    sharpness_of,
)
from moesim.calibrate.rows import IntArray, Rows
from moesim.cost.roofline import peak_of
from moesim.hardware.curves import KERNELS, Surface
from moesim.hardware.kernels import RESOLUTION
from moesim.hardware.types import Device

#: Distance of knots on each axis of a kernel, in doublings.
STEPS: dict[str, tuple[float, ...]] = {
    "gemm": (1.5, 2.0, 2.0),
    "attention_decode": (2.0, 2.0, 3.0, 1.0),
    "attention_decode_window": (2.0, 2.0, 3.0, 1.0),
    "attention_mixed": (1.0, 1.0, 3.0, 1.0),
    "attention_prefill": (2.0, 2.0, 3.0, 1.0),
    "attention_prefill_window": (2.0, 2.0, 2.5, 1.0),
    "mla_decode": (2.0, 2.0, 2.0),
    "mla_prefill": (2.0, 2.0, 2.0),
    "mla_bmm": (1.5, 2.0, 4.0),
    "experts": (1.5, 2.0, 2.0),
    "experts_ep": (1.5, 2.0, 2.0),
    "expert": (1.0, 1.0, 1.0),
    "top_k": (1.5, 1.5, 1.5),
    "weighted_sum": (1.5, 1.5, 1.5),
}
#: TensorRT-LLM on Hopper picks kernels by the number of heads that share a key-value head.
FINER: dict[tuple[str, str], tuple[float, ...]] = {
    ("attention_decode", "trtllm"): (2.0, 2.0, 1.0, 1.0),
    ("attention_decode_window", "trtllm"): (2.0, 2.0, 1.0, 1.0),
}
#: Kernels of which one row is another case than more, how much curvature weighs, and kernels whose launch is
#: hidden behind others. Chosen on layers of the calibration left out of their fit.
APART, BENT = frozenset((("expert", "reference"), ("gemm", "reference"))), {"reference": 0.1}
FLOORLESS = frozenset(("weighted_sum",))
#: Crossings of the memory by outputs of pairs, tried for ranks that share experts.
HELD = (0.0, 1.0, 2.0, 4.0)
#: Fewest rows that make a surface.
FEWEST = 100
#: One row in so many is left out to measure the error.
LEAVE = 5
#: A kernel other than grouped GEMMs that takes this long for nothing was timed with the host in its way.
HOST_BOUND_S = 40e-6


@dataclass(frozen=True, slots=True)
class Error:
    """Error of modelled times, as fractions of the measured ones.

    Parameters
    ----------
    n
        Rows.
    median, mean, p90
        Of the absolute error.
    bias
        Median signed error.
    """

    n: int
    median: float
    mean: float
    p90: float
    bias: float

    @classmethod
    def of(cls, modelled: Array, measured: Array) -> Error:
        """Compare times."""
        signed = modelled / measured - 1.0
        size = np.abs(signed)
        return cls(
            len(size),
            float(np.median(size)),
            float(size.mean()),
            float(np.quantile(size, 0.9)),
            float(np.median(signed)),
        )

    def to_dict(self) -> dict[str, float | int]:
        """Rounded, for files."""
        return {
            "n": self.n,
            **{name: round(getattr(self, name), 4) for name in ("median", "mean", "p90", "bias")},
        }


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A surface and what is known about it.

    Parameters
    ----------
    surface
        Fitted to all rows.
    rows
        Number of rows.
    domain
        Smallest and largest of each size.
    left_out
        Error on rows left out at random.
    shapes_left_out
        Error on whole model shapes left out one after the other; None where rows have none.
    """

    surface: Surface
    rows: int
    domain: tuple[tuple[float, float], ...]
    left_out: Error
    shapes_left_out: Error | None


def times(rows: Rows, device: Device, tile_rows: float = 1.0, held: float = 0.0) -> tuple[Array, Array]:
    """Seconds at bare peaks: compute and memory."""
    processor = device.processor
    flops = rows.tiled[tile_rows] if rows.tiled else rows.flops
    data = rows.data if rows.held is None else rows.data + held * rows.held
    compute = flops / peak_of(processor, rows.kind, rows.weights)
    return compute, data / processor.bandwidth_bytes_per_s[device.memory.name]


def modelled(surface: Surface, rows: Rows, device: Device) -> Array:
    """Seconds that a surface gives for rows; never below the bare roofline."""
    compute, memory = times(rows, device, surface.tile_rows, surface.held)
    log = interpolation(rows.sizes, surface.axes) @ np.asarray(surface.values)
    bound = np.maximum(*times(rows, device, 1.0))
    return np.asarray(
        np.maximum(bare(compute, memory, surface.floor_s, surface.sharpness) * np.exp(log), bound)
    )


def fit_surface(rows: Rows, device: Device) -> Fitted:
    """Fit a surface to all rows, and measure the form's error on rows left out.

    Parameters
    ----------
    rows
        Of one kernel.
    device
        Whose peaks the roofline has.
    """
    out = _left_out(len(rows))
    form = _form(rows.pick(~out), device)
    trial = fit_form(rows.pick(~out), device, *form)
    tested = rows.pick(out)
    predicted = modelled(trial, tested, device)
    low, middle, high = np.round(np.quantile(np.log(tested.seconds / predicted), (0.05, 0.5, 0.95)), 4)
    surface = fit_form(rows, device, *form)
    return Fitted(
        replace(surface, log_error=(float(low), float(middle), float(high))),
        len(rows),
        tuple(
            (float(low), float(high)) for low, high in zip(rows.sizes.min(0), rows.sizes.max(0), strict=True)
        ),
        Error.of(predicted, tested.seconds),
        _shapes_left_out(rows, device, form),
    )


def host_bound(fitted: Fitted) -> bool:
    """Whether the table timed the host and not the kernel, as it would not run inside a CUDA graph."""
    return fitted.surface.floor_s > HOST_BOUND_S and not fitted.surface.kernel.startswith("experts")


def _left_out(rows: int) -> npt.NDArray[np.bool_]:
    """One row in `LEAVE`, drawn with a fixed seed."""
    return np.asarray(np.random.default_rng(rows).permutation(rows) % LEAVE == 0)


def _form(rows: Rows, device: Device) -> tuple[float, float]:
    """Rows of a tile and crossings of held outputs that leave the smallest error."""
    if not rows.tiled:
        return 1.0, 0.0
    inner = _left_out(len(rows))
    train, test = rows.pick(~inner), rows.pick(inner)

    def error(form: tuple[float, float]) -> float:
        found = modelled(fit_form(train, device, *form), test, device)
        return float(np.abs(np.log(found / test.seconds)).mean())

    tile = min(((rows_, 0.0) for rows_ in rows.tiled), key=error)[0]
    if rows.kernel != "experts_ep":
        return tile, 0.0
    return min(((tile, held) for held in HELD), key=error)


def fit_form(rows: Rows, device: Device, tile_rows: float = 1.0, held: float = 0.0) -> Surface:
    """Fit a surface to rows, for one size of tiles and number of crossings."""
    compute, memory = times(rows, device, tile_rows, held)
    floor = 0.0 if rows.kernel in FLOORLESS else floor_of(rows.seconds, compute, memory)
    floor = float(f"{floor:.3g}")
    sharpness = sharpness_of(rows.seconds, compute, memory, floor)
    axes = axes_of(rows.sizes, FINER.get((rows.kernel, rows.backend), STEPS[rows.kernel]))
    log = np.log(rows.seconds / bare(compute, memory, floor, sharpness))
    key = rows.kernel, rows.backend
    found = correction(rows.sizes, axes, log, BENT.get(rows.backend, CURVATURE), key in APART)
    steps = np.round(found / RESOLUTION)
    return Surface(
        rows.kernel,
        rows.dtype,
        rows.backend,
        rows.version,
        floor,
        sharpness,
        axes,
        tuple(float(s) * RESOLUTION for s in steps),
        tile_rows,
        held,
    )


def _shapes_left_out(rows: Rows, device: Device, form: tuple[float, float]) -> Error | None:
    if len(np.unique(rows.group)) < 3:
        return None
    return Error.of(predicted_apart(rows, device, rows.group, form), rows.seconds)


def predicted_apart(rows: Rows, device: Device, group: IntArray, form: tuple[float, float]) -> Array:
    """Seconds of every row by a surface fitted to the rows of other groups, ``[rows]``.

    Parameters
    ----------
    rows
        Of one kernel.
    device
        Whose peaks the roofline has.
    group
        Group of every row.
    form
        Rows of a tile and crossings of held outputs.
    """
    predicted = np.empty(len(rows))
    for name in np.unique(group):
        out = group == name
        predicted[out] = modelled(fit_form(rows.pick(~out), device, *form), rows.pick(out), device)
    return predicted


assert STEPS.keys() == KERNELS.keys()
