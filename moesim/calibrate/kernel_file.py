"""Fit all tables of one GPU, and write what the hardware descriptions name as their kernels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moesim.calibrate.collectives import collectives
from moesim.calibrate.rows import Array, Rows
from moesim.calibrate.surfaces import FEWEST, HOST_BOUND_S, Fitted, fit_surface, host_bound
from moesim.calibrate.tables import BACKENDS, read_tables
from moesim.hardware.kernels import RESOLUTION
from moesim.hardware.types import Device

SOURCE = "ai-dynamo/aiconfigurator@095f58a systems/data"
LICENCE = "Apache-2.0"
#: A quantised kernel that takes so many times as long as the 16-bit one was not tuned for the device.
SLOWER = 1.1


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """All surfaces of one device.

    Parameters
    ----------
    device
        Its name.
    fits
        Surfaces with their errors.
    dropped
        What was measured but is of no use, and why.
    collectives
        Latency and bus bandwidth of collectives, as `moesim.calibrate.collectives` gives them.
    """

    device: str
    fits: tuple[Fitted, ...]
    dropped: tuple[tuple[Rows, str], ...]
    collectives: tuple[dict[str, Any], ...] = ()

    def to_dict(self, source: str = SOURCE, licence: str = LICENCE) -> dict[str, Any]:
        """The document that a file holds."""
        return {
            "schema_version": 1,
            "name": self.device,
            "source": source,
            "licence": licence,
            "collectives": list(self.collectives),
            "fits": [fit_entry(fit) for fit in self.fits],
            "dropped": [{**_key(rows), "rows": len(rows), "reason": reason} for rows, reason in self.dropped],
        }


def calibrate(folder: Path, device: Device, backends: Iterable[str] = BACKENDS) -> Calibrated:
    """Fit every kernel of the tables of one GPU.

    Parameters
    ----------
    folder
        Tables of one GPU, by operation.
    device
        The device they were measured on: its peaks carry the fits.
    backends
        Engines to read.
    """
    fits: list[Fitted] = []
    dropped: list[tuple[Rows, str]] = []
    tables = read_tables(folder, backends)
    plain = {(rows.kernel, rows.backend): rows for rows in tables if rows.dtype == "bf16"}
    for rows in tables:
        if len(rows) < FEWEST:
            dropped.append((rows, f"fewer than {FEWEST} rows"))
            continue
        slower = _slower(rows, plain.get((rows.kernel, rows.backend)))
        if slower > SLOWER:
            dropped.append(
                (rows, f"takes {slower:.1f} times as long as 16-bit weights: nobody serves with it")
            )
            continue
        fitted = fit_surface(rows, device)
        if host_bound(fitted):
            floor = fitted.surface.floor_s
            dropped.append(
                (
                    rows,
                    f"timed the host: {floor * 1e6:.0f} us for nothing, more than {HOST_BOUND_S * 1e6:.0f}",
                )
            )
            continue
        fits.append(fitted)
    return Calibrated(device.name, tuple(fits), tuple(dropped), tuple(collectives(folder, backends)))


def _slower(rows: Rows, plain: Rows | None) -> float:
    """Median time of fp8 experts over that of the same work with 16-bit weights; 0 where there is no pair."""
    if plain is None or rows.dtype != "fp8" or not rows.kernel.startswith("experts"):
        return 0.0
    known = {key.tobytes(): t for key, t in zip(_work(plain), plain.seconds, strict=True)}
    pairs = [
        (t, known[key.tobytes()])
        for key, t in zip(_work(rows), rows.seconds, strict=True)
        if key.tobytes() in known
    ]
    return float(np.median([ours / theirs for ours, theirs in pairs])) if pairs else 0.0


def _work(rows: Rows) -> Array:
    return np.ascontiguousarray(np.column_stack([rows.sizes, rows.flops]))


def _key(rows: Rows) -> dict[str, str]:
    return {name: getattr(rows, name) for name in ("kernel", "dtype", "backend", "version")}


def fit_entry(fit: Fitted) -> dict[str, Any]:
    """A surface and what is known about it, as files hold it."""
    surface = fit.surface
    entry: dict[str, Any] = {
        name: getattr(surface, name) for name in ("kernel", "dtype", "backend", "version")
    }
    entry |= {
        "floor_us": round(surface.floor_s * 1e6, 6),
        "sharpness": surface.sharpness,
        "axes": [{"low": axis.low, "step": axis.step, "knots": axis.knots} for axis in surface.axes],
        "tile_rows": surface.tile_rows,
        "held": surface.held,
        "rows": fit.rows,
        "domain": [[float(f"{x:.6g}") for x in ends] for ends in fit.domain],
        "log_error": list(surface.log_error),
        "left_out": fit.left_out.to_dict(),
    }
    if fit.shapes_left_out is not None:
        entry["shapes_left_out"] = fit.shapes_left_out.to_dict()
    return entry | {"steps": [round(v / RESOLUTION) for v in surface.values]}


def text_of(document: dict[str, Any]) -> str:
    """JSON with one fit per line, the same for the same document."""
    head = {key: value for key, value in document.items() if not isinstance(value, list)}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for key, value in document.items():
        if isinstance(value, list):
            rows = ",\n".join(f"    {json.dumps(row, separators=(',', ':'))}" for row in value)
            lines.append(f"  {json.dumps(key)}: [\n{rows}\n  ]" if value else f"  {json.dumps(key)}: []")
    return "{\n" + ",\n".join(lines) + "\n}\n"
