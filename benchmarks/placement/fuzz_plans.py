"""Damage plan files of every format in many ways: each must give a sound plan or an error with a reason.

Run from the repository root: ``python benchmarks/placement/fuzz_plans.py 20000``.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "placement"), str(ROOT / "tests" / "trace")]

from mutations import damaged_file  # noqa: E402
from plan_samples import content, file_name  # noqa: E402
from test_plan_files_damage import outcome  # noqa: E402

from moesim.placement import FORMATS  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int, help="damaged files of each format")
    parser.add_argument("formats", nargs="*", default=list(FORMATS))
    asked = parser.parse_args()
    print(f"{'format':14s} {'plan':>6s} {'failed':>7s} {'refused':>8s} {'worst CPU s':>12s}")
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.formats:
            data, path = content(name), Path(folder) / file_name(name)
            found, worst = Counter(), 0.0
            for seed in range(asked.number):
                path.write_bytes(damaged_file(data, random.Random(f"big {name} {seed}")))
                started = time.process_time()
                found[outcome(path)] += 1
                worst = max(worst, time.process_time() - started)
            counts = f"{found['plan']:6d} {found['failed']:7d} {found['refused']:8d}"
            print(f"{name:14s} {counts} {worst:12.3f}", flush=True)


if __name__ == "__main__":
    main()
