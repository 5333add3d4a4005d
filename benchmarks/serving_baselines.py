"""Two lines to stand beside `moesim calibrate serving`: boosted trees on the columns, and a fitted roofline.

Both see the folds of the calibration (sweeps, layouts, systems, models held out whole). The trees are what a
regression without physics reaches: scikit-learn's gradient boosting of log TPOT and log TTFT on model,
device, engine, data type, source, month, loads and degrees. Needs scikit-learn, which moesim does not.

    python benchmarks/serving_baselines.py e2e_serving.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from moesim.correction import CATEGORIES
from moesim.learning.held_out import Table, sides, table_of
from moesim.learning.serving import KINDS, family_of
from moesim.learning.traits_fit import probes_of
from moesim.validate import dedupe, read_serving
from moesim.validate.roofline import Peaks, fit, peaks

NAMED = tuple(CATEGORIES.index(name) for name in ("model", "system", "backend", "dtype", "source"))


def columns(table: Table) -> np.ndarray:
    """Codes of names, then values; what was not recorded is far below all others."""
    names = np.array(table.labels)
    codes = [np.unique(names[:, i], return_inverse=True)[1].astype(float) for i in NAMED]
    return np.nan_to_num(np.column_stack([*codes, table.values]), nan=-99.0)


def trees(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predictions of log y."""
    model = HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=400,
        learning_rate=0.05,
        max_leaf_nodes=12,
        min_samples_leaf=5,
        categorical_features=list(range(len(NAMED))),
        random_state=0,
    )
    return np.exp(model.fit(x[train], np.log(y[train])).predict(x[test]))


def roofline(floors: Peaks, table: Table, metric: str, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fractions of the peaks fitted by system and engine; for a new pair, to all rows."""
    y = table.tpot if metric == "tpot" else table.ttft
    cells = np.array([f"{row.hardware} {row.backend}" for row in table.rows])
    known = np.isfinite(floors.decode_compute)
    found = np.full(len(y), np.nan)
    if not (known & train).any():
        return found[test]
    for cell in np.unique(cells[test]):
        mine, own = known & train & (cells == cell), test & (cells == cell)
        part = mine if mine.any() else known & train
        found[own] = getattr(floors.part(own), metric)(*fit(floors.part(part), y[part], metric))
    return found[test]


def line(error: np.ndarray) -> str:
    """Median and 90 % of errors, in percent; blank where nothing was predicted (no roofline of two pools)."""
    known = error[np.isfinite(error)]
    return f"{100 * np.median(known):.1f} / {100 * np.quantile(known, 0.9):.0f}" if len(known) else ""


def main() -> None:
    """Print a table of medians and 90 % quantiles of errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path)
    rows = dedupe(read_serving(parser.parse_args().csv))
    rows = [row for row in rows if row.supported and row.ttft_ms and row.tpot_ms]
    print("| family | held out | metric | trees on columns | fitted roofline |\n|---|---|---|---|---|")
    for family in ("dense", "disaggregated", "moe"):
        probes = probes_of([row for row in rows if family_of(row) == family])
        table = table_of(probes.rows, probes.none)
        x = columns(table)
        floors = peaks(table.rows)
        for kind in KINDS:
            for metric, y in (("tpot", table.tpot), ("ttft", table.ttft)):
                tree, roof = np.full(len(y), np.nan), np.full(len(y), np.nan)
                for test in sides(table, kind):
                    tree[test] = trees(x, y, ~test, test)
                    roof[test] = roofline(floors, table, metric, ~test, test)
                errors = [line(np.abs(p / y - 1.0)) for p in (tree, roof)]
                print(
                    f"| {family} ({len(y)}) | {kind}s | {metric.upper()} | {' | '.join(errors)} |", flush=True
                )


if __name__ == "__main__":
    main()
