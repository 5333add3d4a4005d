"""Make the present errors on a table of measured serving rows the accepted ones.

    python benchmarks/accept_serving.py [--csv FILE] [--date DAY] [--note TEXT]

Writes ``moesim/validate/accepted.json``: the hash of the table, scores of physics alone on it (`moesim
validate serving --calibration none`), and the errors of the shipped calibration on held-out runs, as its fit
recorded them. The shipped calibration was fitted to these rows, so its errors on them are not asked for. What
`moesim validate serving` prints for the same table stands beside them. On one day, the same code and table
give the same file. The medians that the tests hold a sample of the rows to are written as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from datetime import date
from pathlib import Path

from moesim.correction import calibration_of, shipped
from moesim.validate import evaluate, predict_rows, read_serving
from moesim.validate.accepted import SHIPPED, write_accepted

SAMPLE = Path(__file__).parents[1] / "tests" / "validate" / "serving_accepted.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("MOESIM_SHARED", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--csv", type=Path, default=shared / "silicon" / "e2e_serving.csv")
    parser.add_argument("--date", default=date.today().isoformat())
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    rows = read_serving(options.csv)
    found = evaluate(rows, predict_rows(rows, calibration_of("none")))
    with options.csv.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    write_accepted(found.scores, digest, options.date, options.note, provenance=shipped().provenance)
    accept_sample()
    for metric, table in found.scores.items():
        judged = table["judged"]
        print(f"{metric}: {judged.n} judged rows, physics median {judged.median:.1%}, p90 {judged.p90:.1%}")
    print(f"wrote {SHIPPED} and {SAMPLE}")


def accept_sample() -> None:
    """The medians that `tests/validate/test_serving_gate.py` holds changes against."""
    rows = read_serving(SAMPLE.with_name("serving_sample.csv"))
    medians = {
        name: {
            metric: round(found["all"].median, 4)
            for metric, found in evaluate(rows, predict_rows(rows, used)).scores.items()
        }
        for name, used in (("physics", calibration_of("none")), ("calibrated", shipped()))
    }
    SAMPLE.write_text(json.dumps(medians, indent=2) + "\n")


if __name__ == "__main__":
    main()
