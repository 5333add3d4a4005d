"""Error of the shipped kernel surfaces against tables of measured kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moesim.calibrate import BACKENDS, Error, Rows, folder_of, folders, modelled, read_tables
from moesim.cost.surface import find_surface
from moesim.errors import ConfigError, Fault
from moesim.hardware import load_hardware
from moesim.hardware.types import Hardware


@dataclass(frozen=True, slots=True)
class KernelError:
    """Error of one kernel in one data type of one engine on one device.

    Parameters
    ----------
    device
        Name of the folder.
    kernel, dtype, backend, version
        What was measured.
    modelled_by
        Engine and version whose surface a prediction uses; empty where there is none.
    error
        Of modelled over measured time; None where there is no surface.
    """

    device: str
    kernel: str
    dtype: str
    backend: str
    version: str
    modelled_by: str
    error: Error | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "device": self.device,
            "kernel": self.kernel,
            "dtype": self.dtype,
            "backend": self.backend,
            "version": self.version,
            "modelled_by": self.modelled_by,
            "n": self.error.n if self.error else 0,
            "median_abs_error": self.error.median if self.error else None,
            "mean_abs_error": self.error.mean if self.error else None,
            "p90_abs_error": self.error.p90 if self.error else None,
            "median_signed_error": self.error.bias if self.error else None,
        }


def validate_kernels(
    root: Path, device: str | None = None, backends: Sequence[str] = BACKENDS
) -> list[KernelError]:
    """Compare every kernel of the tables with the surface a prediction uses for it.

    Parameters
    ----------
    root
        Folder of ``<gpu>/<operation>/<backend>-<version>/*.parquet``, or that of one GPU.
    device
        Only this GPU: the folder's name, or that of a machine that has it.
    backends
        Engines to compare.

    Raises
    ------
    ConfigError
        With every folder that is no known device, and every table that cannot be read.
    """
    found = folders(root)
    machines, faults = _machines(found, device)
    tables: dict[str, list[Rows]] = {}
    for name in machines:
        try:
            tables[name] = read_tables(found[name], backends)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults, root)
    return [_compare(name, rows, machines[name]) for name, many in tables.items() for rows in many]


def _machines(found: dict[str, Path], device: str | None) -> tuple[dict[str, Hardware], list[Fault]]:
    if device is not None:
        try:
            name = folder_of(found, device)
            # A folder whose name is no machine's holds tables of the one that is named.
            return {name: load_hardware(name if device == name else device)}, []
        except ConfigError as error:
            return {}, list(error.faults)
    machines: dict[str, Hardware] = {}
    faults: list[Fault] = []
    for name in found:
        try:
            machines[name] = load_hardware(name)
        except ConfigError as error:
            faults += [Fault(f"folder {name}: {fault}") for fault in error.faults]
    return machines, faults


def _compare(name: str, rows: Rows, machine: Hardware) -> KernelError:
    processor = machine.device.processor
    surface = find_surface(processor.kernels, rows.kernel, rows.dtype, rows.backend)
    key = (name, rows.kernel, rows.dtype, rows.backend, rows.version)
    if surface is None or (rows.tiled and surface.tile_rows not in rows.tiled):
        return KernelError(*key, "", None)
    times = modelled(surface, rows, machine.device)
    return KernelError(*key, f"{surface.backend} {surface.version}", Error.of(times, rows.seconds))


def summary(errors: Sequence[KernelError]) -> dict[str, Any]:
    """Totals over kernels: each kernel, data type and engine counts once, whatever its number of rows."""
    known = [e.error for e in errors if e.error is not None]
    medians = [e.median for e in known]
    return {
        "kernels": len(errors),
        "without_surface": len(errors) - len(known),
        "n": sum(e.n for e in known),
        "median_of_medians": float(np.median(medians)) if medians else None,
        "median_of_p90": float(np.median([e.p90 for e in known])) if known else None,
        "worst_median": max(medians, default=None),
    }
