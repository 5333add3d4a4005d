"""Print the tables of published kernels and steps in ``docs/validation.md``.

python benchmarks/published_table.py [--csv FILE]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from moesim.validate import compare_published, published_document, read_published

KINDS = {"kernel": ("system", "model"), "step": ("system", "phase", "parallelism", "batch", "input_len")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("MOESIM_SHARED", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--csv", type=Path, default=shared / "published" / "measurements.csv")
    rows = published_document(compare_published(read_published(parser.parse_args().csv)))["rows"]
    steps = ("decode", "prefill")
    for kind, columns in KINDS.items():
        chosen = [
            row
            for row in rows
            if row["status"] == "predicted" and ("step" if row["kind"] in steps else row["kind"]) == kind
        ]
        print(f"\n| {' | '.join(columns)} | hardware | published | ours | error | grade |")
        print("|" + "---|" * (len(columns) + 5))
        for row in chosen:
            what = " | ".join(row[name] for name in columns)
            ours = f"{row['ours']:,.0f}" if row["ours"] >= 1000 else f"{row['ours']:.4g}"
            measured = f"{row['published']:,.6g} {row['unit']} | {ours}"
            print(f"| {what} | {row['hardware']} | {measured} | {row['error']:+.1%} | {row['grade']} |")


if __name__ == "__main__":
    main()
