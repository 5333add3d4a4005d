"""What a study costs beside its predictions: CPU of the process that hands out and keeps, and of a rerun.

    python benchmarks/bench_studies.py [CONFIGURATIONS]

Prints CPU seconds (user and system). Workers start cold, and draw the routing of each deployment once.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from moesim.studies import query, run_study

STUDY = """\
schema_version: 1
name: bench
base:
  model: deepseek-v3
  hardware: h200-sxm-8
  nodes: 4
  workload: {{input_len: 4096, output_len: 1024}}
grid:
  layout: [{{dp: 32, ep: 32}}, {{tp: 2, dp: 16, ep: 32}}, {{tp: 4, dp: 8, ep: 32}}, {{tp: 8, dp: 4, ep: 32}}]
  workload.concurrency: [{concurrency}]
max_configurations: 1000000
"""


def main(configurations: int) -> None:
    each = configurations // 4
    concurrency = ", ".join(str(8 + i) for i in range(each))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(STUDY.format(concurrency=concurrency))
        for name in ("cold", "again"):
            own, wall = time.process_time(), time.monotonic()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = run_study(path, processes=os.cpu_count() or 1)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            own, wall = time.process_time() - own, time.monotonic() - wall
            children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(
                f"{name}: {done.computed:,} of {len(done.table):,} evaluated, {wall:.1f} s by the clock; "
                f"CPU s: here {own:.2f} ({own / len(done.table) * 1e3:.2f} ms each), workers {children:.2f}"
            )
        answer = query(
            done.folder, "select sum(seconds) s, median(seconds) * 1e3 ms from results"
        ).to_pylist()
        size = sum(file.stat().st_size for file in done.folder.rglob("*.parquet"))
        print(f"one evaluation: median {answer[0]['ms']:.2f} ms; {size:,} bytes of results")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4_000)
