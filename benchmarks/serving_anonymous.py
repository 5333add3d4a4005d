"""Errors of held-out serving runs of which the campaign is not known, as `moesim predict` is asked.

`moesim calibrate serving` prints errors of runs whose campaign and date are known: what a campaign did not
record (drafts, versions, flags) is then known from its other runs. Here the same runs are predicted without,
believed as far as the shipped calibration believes effects. Takes minutes.

    python benchmarks/serving_anonymous.py e2e_serving.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from moesim.learning.held_out import fit_pair, held_out, sides, table_of
from moesim.learning.serving import EFFECTS, _without, family_of
from moesim.learning.spread import bounds_of, left_out_scale, residuals
from moesim.learning.traits_fit import fit_traits, probes_of
from moesim.learning.trust import trust, trusted
from moesim.validate import dedupe, read_serving
from moesim.validate.physics import physics_of


def main() -> None:
    """Print medians, 90 % quantiles, and how many runs the intervals hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path)
    rows = dedupe(read_serving(parser.parse_args().csv))
    rows = [row for row in rows if row.supported and row.ttft_ms and row.tpot_ms]
    probes = {name: probes_of([r for r in rows if family_of(r) == name]) for name in EFFECTS}
    aggregated = [probes["moe"], probes["dense"]]
    traits, without = fit_traits(aggregated), _without(aggregated)
    print("| family (runs) | held out | metric | median / p90 | interval holds | median hi/lo |")
    print("|---|---|---|---|---|---|")
    for name, effects in EFFECTS.items():
        table = table_of(probes[name].rows, physics_of(probes[name].rows, traits))
        pair = fit_pair(effects, table)
        for kind in ("sweep", "layout", "system"):
            means = held_out(
                effects, probes[name], kind, without, (pair.tpot.parameters, pair.ttft.parameters)
            )
            known = residuals(table, trusted(table, means["campaign"], kind))
            spread = residuals(table, trusted(table, means["anonymous"], kind))
            shares = np.empty((2, len(table.rows)))
            for side in sides(table, kind):
                shares[:, side] = np.array(trust(table, means["campaign"], kind, ~side))[:, None]
            residual = residuals(table, means["anonymous"].predicted(*shares))
            for metric in ("tpot", "ttft"):
                scale = left_out_scale(table, known[metric], kind)
                low, high = bounds_of(table, spread[metric], scale, kind, 0.9)
                error = np.abs(np.expm1(-residual[metric]))
                holds = np.mean((residual[metric] >= low) & (residual[metric] <= high))
                errors = f"{100 * np.median(error):.1f} / {100 * np.quantile(error, 0.9):.0f}"
                width = np.median(np.exp(high - low))
                what = f"{name} ({len(table.rows)}) | {kind}s | {metric.upper()}"
                print(f"| {what} | {errors} | {holds:.1%} | {width:.2f} |", flush=True)


if __name__ == "__main__":
    main()
