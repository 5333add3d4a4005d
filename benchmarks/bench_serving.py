"""How long `moesim validate serving` takes for a table of measured rows, and aiconfigurator beside it.

    python benchmarks/bench_serving.py [--csv FILE] [--rows N]

Prints CPU seconds for reading, predicting and scoring; the target is 20 s for the 3,477 public rows. Where
aiconfigurator can be imported, its `cli_estimate` is asked about N aggregated rows (evenly spaced among the
judged ones), and the errors of both stand side by side. moesim's are of physics alone: neither was fitted to
these runs, and aiconfigurator looks kernels up in the tables that moesim's surfaces were fitted to.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moesim.correction import calibration_of
from moesim.model import load_model
from moesim.validate import Evaluation, RowPrediction, ServingRow, evaluate, predict_rows, read_serving
from moesim.validate.score import score

TARGET_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("MOESIM_SHARED", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--csv", type=Path, default=shared / "silicon" / "e2e_serving.csv")
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    start = time.process_time()
    rows = read_serving(options.csv)
    read = time.process_time()
    predictions = predict_rows(rows)
    predicted = time.process_time()
    found = evaluate(rows, predictions)
    scored = time.process_time()
    print(f"{len(rows):,} rows, CPU: read {read - start:.1f} s, predicted {predicted - read:.1f} s, ", end="")
    print(f"scored {scored - predicted:.1f} s; {scored - start:.1f} s of {TARGET_S:.0f} s")
    beside(found, options.rows)


def beside(found: Evaluation, count: int) -> None:
    """Errors and times of both on the same rows."""
    try:
        from aiconfigurator.cli.api import cli_estimate
    except ImportError as error:
        print(f"aiconfigurator is not compared: {error}")
        return
    judged = found.sets["tpot"]["judged"] & found.sets["ttft"]["judged"]
    able = [r for r, good in zip(found.rows, judged, strict=True) if good and r.layout and r.tpot_ms]
    rows = [able[i] for i in np.unique(np.linspace(0, len(able) - 1, count).astype(int))]
    start = time.process_time()
    ours = predict_rows(rows, calibration_of("none"))
    ours_s = time.process_time() - start
    theirs: list[tuple[float, float]] = []
    failed: Counter[str] = Counter()
    start = time.process_time()
    for row in rows:
        try:
            answer = cli_estimate(row.model_path, row.system, **arguments(row))
            theirs.append((answer.ttft, answer.tpot))
        except Exception as error:  # whatever it raises is its answer
            failed[
                f"{type(error).__name__}: {str(error).splitlines()[0][:90]}" if str(error) else repr(error)
            ] += 1
            theirs.append((np.nan, np.nan))
    theirs_s = time.process_time() - start
    print(f"{len(rows)} rows: moesim {ours_s:.1f} s, aiconfigurator {theirs_s:.1f} s", end="")
    print(f", which answers {len(rows) - failed.total()}")
    for reason, number in failed.most_common(5):
        print(f"  {number} rows: {reason}")
    _compare(rows, ours, theirs)


def arguments(row: ServingRow) -> dict[str, object]:
    """A row in the words of `cli_estimate`; its batch is of one attention data-parallel rank."""
    layout = row.layout
    assert layout is not None
    words: dict[str, object] = {
        "mode": "agg",
        "backend_name": row.backend,
        "isl": int(row.isl),
        "osl": int(row.osl),
        "batch_size": max(round(row.concurrency / layout.dp), 1),
        "tp_size": layout.tp,
        "pp_size": layout.pp,
        "attention_dp_size": layout.dp,
    }
    if load_model(row.model).moe is not None:
        words |= {"moe_tp_size": layout.moe_tp, "moe_ep_size": layout.ep}
    return words


def _compare(
    rows: Sequence[ServingRow], ours: Sequence[RowPrediction], theirs: Sequence[tuple[float, float]]
) -> None:
    for i, metric in ((1, "tpot"), (0, "ttft")):
        measured = np.array([getattr(row, f"{metric}_ms") for row in rows], dtype=np.float64)
        other = np.array([answer[i] for answer in theirs], dtype=np.float64)
        own = np.array([getattr(p, f"{metric}_s") for p in ours], dtype=np.float64) * 1e3
        both = np.isfinite(own) & np.isfinite(other)
        for name, found in (("moesim, physics", own), ("aiconfigurator", other)):
            s = score(found[both], measured[both])
            print(f"{metric.upper()} {name:15}: {s.n} rows, median {s.median:.1%}, p90 {s.p90:.1%}, ", end="")
            print(f"signed {s.signed:+.1%}")


if __name__ == "__main__":
    main()
