"""How well kernels are predicted on shapes, and on devices, that a fit has not seen.

    python benchmarks/kernel_accuracy.py TABLES [--device NAME ...]

Prints the tables of ``docs/calibration.md``: by kernel and device, median and 90 % quantile of the absolute
error in percent, as medians over engines and data types. Shapes: the sizes of a kernel that a model and its
layout fix are dealt into five folds, each predicted by fits to the others. Devices: another device's surfaces
with the device's own peaks and bandwidth. Kernels that are not shipped (tables that timed the host) are left
out. Takes minutes of CPU time for a device.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from moesim.calibrate import Error, Rows, folders, modelled, predicted_apart, read_tables
from moesim.hardware import load_hardware

FOLDS = 5
#: Sizes of a kernel that are of a shape, not of a load; experts have shapes by number.
SHAPE = {"gemm": (1, 2), "attention": (2, 3), "mla_bmm": (1, 2), "mla": (2,)}
TRANSFER = (
    ("h200_sxm", "h100_sxm"),
    ("b200_sxm", "h200_sxm"),
    ("gb200", "b200_sxm"),
    ("a100_sxm", "h100_sxm"),
    ("l40s", "h100_sxm"),
)
NAMES = {
    "gemm": "GEMM",
    "attention_decode": "attention, decode",
    "attention_prefill": "attention, prefill",
    "mla": "latent attention",
    "experts": "experts",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path)
    parser.add_argument("--device", nargs="*")
    parser.add_argument("--only", choices=("shapes", "devices"))
    options = parser.parse_args()
    found = folders(options.tables)
    devices = options.device or list(found)
    tables = {name: read_tables(found[name]) for name in devices}
    if options.only != "devices":
        show("whole shapes left out", devices, {d: shapes(tables[d], d) for d in devices})
    if options.only != "shapes":
        pairs = [(new, known) for new, known in TRANSFER if new in tables]
        columns = [f"{new} by {known}" for new, known in pairs]
        table = {c: transfer(tables[new], new, known) for c, (new, known) in zip(columns, pairs, strict=True)}
        show("surfaces of another device", columns, table)


def shapes(tables: list[Rows], name: str) -> dict[str, list[Error]]:
    """Errors on shapes left out, by kernel."""
    device, errors = load_hardware(name).device, defaultdict(list)
    for rows in tables:
        shipped = device.processor.kernels.get((rows.kernel, rows.dtype, rows.backend))
        group = folds_of(rows)
        if shipped is not None and len(np.unique(group)) > 1:
            form = shipped.tile_rows, shipped.held
            error = Error.of(predicted_apart(rows, device, group, form), rows.seconds)
            errors[name_of(rows.kernel)].append(error)
            print(f"{name} {rows.kernel} {rows.dtype} {rows.backend}: {error}", file=sys.stderr, flush=True)
    return errors


def folds_of(rows: Rows) -> np.ndarray:
    """Fold of each row: rows of one shape share it."""
    if rows.kernel.startswith("experts"):
        names = rows.group[:, None].astype(np.float64)
    else:
        columns = next(c for prefix, c in SHAPE.items() if rows.kernel.startswith(prefix))
        names = rows.sizes[:, list(columns)]
    shape = np.unique(names, axis=0, return_inverse=True)[1].ravel()
    order = np.random.default_rng(0).permutation(shape.max() + 1)
    return order[shape] % FOLDS


def transfer(tables: list[Rows], name: str, other: str) -> dict[str, list[Error]]:
    """Errors with the surfaces of another device, by kernel."""
    device, errors = load_hardware(name).device, defaultdict(list)
    known = load_hardware(other).device.processor.kernels
    own = device.processor.kernels
    for rows in tables:
        key = (rows.kernel, rows.dtype, rows.backend)
        if key in own and key in known and (not rows.tiled or known[key].tile_rows in rows.tiled):
            found = modelled(known[key], rows, device)
            errors[name_of(rows.kernel)].append(Error.of(found, rows.seconds))
    return errors


def name_of(kernel: str) -> str:
    return next(text for prefix, text in NAMES.items() if kernel.startswith(prefix))


def show(title: str, columns: list[str], table: dict[str, dict[str, list[Error]]]) -> None:
    """One row per kernel, one column per device."""
    print(f"\n{title}\n\n| kernel | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in NAMES.values():
        cells = []
        for column in columns:
            errors = table[column].get(name, [])
            median, p90 = (np.median([getattr(e, q) for e in errors] or [np.nan]) for q in ("median", "p90"))
            cells.append(f"{100 * median:.1f} / {100 * p90:.1f} ({len(errors)})" if errors else "")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
