"""Surfaces of the kernels of a layer, with their errors on layers left out of the fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.calibrate.rows import Array, Rows
from moesim.calibrate.surfaces import Error, Fitted, fit_form, predicted_apart
from moesim.hardware.types import Device, Memory, Processor

#: Layers are dealt into so many folds, each predicted by fits to the others.
FOLDS = 10


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What one core reaches at best.

    Parameters
    ----------
    flops_per_s
        By data type: of a large product, or of an expert if that was faster.
    read_bytes_per_s, write_bytes_per_s, copy_bytes_per_s
        Of memory far larger than the caches; a copy counts what it reads.
    """

    flops_per_s: dict[str, float]
    read_bytes_per_s: float
    write_bytes_per_s: float
    copy_bytes_per_s: float

    def best(self, other: Ceilings) -> Ceilings:
        """The higher of two measurements, number by number."""
        return Ceilings(
            {dtype: max(peak, other.flops_per_s[dtype]) for dtype, peak in self.flops_per_s.items()},
            max(self.read_bytes_per_s, other.read_bytes_per_s),
            max(self.write_bytes_per_s, other.write_bytes_per_s),
            max(self.copy_bytes_per_s, other.copy_bytes_per_s),
        )


def device_of(ceilings: Ceilings, capacity_bytes: float = 1e9) -> Device:
    """A core at its ceilings, without kernels: the roofline that fits start from."""
    read = ceilings.read_bytes_per_s
    core = Processor("core", ceilings.flops_per_s, 1, {"ram": read}, {})
    return Device("cpu", "one core", (core,), (Memory("ram", capacity_bytes, read),))


def raised(ceilings: Ceilings, flops_per_s: float, bytes_per_s: float) -> Ceilings:
    """Ceilings that no run exceeds: a roofline that real runs beat would be no bound."""
    # All data types are multiplied by the same units, in 32 bits.
    peaks = {dtype: max(peak, flops_per_s) for dtype, peak in ceilings.flops_per_s.items()}
    return replace(ceilings, flops_per_s=peaks, read_bytes_per_s=max(ceilings.read_bytes_per_s, bytes_per_s))


def fit_law(rows: Rows, device: Device) -> Fitted:
    """Fit a surface to all rows, and measure its error on layers left out.

    Parameters
    ----------
    rows
        Of one kernel; their groups are layers.
    device
        Whose peaks the roofline has.
    """
    fold = rows.group % FOLDS
    predicted = predicted_apart(rows, device, fold, (1.0, 0.0))
    log = np.log(rows.seconds / predicted)
    low, middle, high = (float(q) for q in np.round(np.quantile(log, (0.05, 0.5, 0.95)), 4))
    return Fitted(
        replace(fit_form(rows, device), log_error=(low, middle, high)),
        len(rows),
        tuple((float(a), float(b)) for a, b in zip(rows.sizes.min(0), rows.sizes.max(0), strict=True)),
        Error.of(predicted, rows.seconds),
        None,
    )


def line(size_bytes: Array, seconds: Array) -> tuple[float, float]:
    """Latency and bytes per second of copies: the line that leaves the least relative error, latency >= 0.

    >>> latency, rate = line(np.array([1e6, 4e6, 9e6]), np.array([1.1e-4, 4.1e-4, 9.1e-4]))
    >>> round(latency, 9), round(rate)
    (1e-05, 10000000000)
    """
    each = np.stack([np.ones(len(seconds)), size_bytes], axis=1) / seconds[:, None]
    latency, slope = np.linalg.lstsq(each, np.ones(len(seconds)), rcond=None)[0]
    if latency < 0 or slope <= 0:
        latency, slope = 0.0, float(np.median(seconds / size_bytes))
    return float(latency), float(1.0 / slope)
