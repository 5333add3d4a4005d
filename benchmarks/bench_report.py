"""How long a report of a large simulation takes, and how much memory.

    python benchmarks/bench_report.py [--requests 1000000] [--folder DIR]

Simulates so many requests with `moesim simulate`, which writes its document and the table of every request,
and makes the page, the PDF and the image of both with `moesim report`, each in a process of its own. Prints
seconds, CPU seconds and peak resident memory of each, and bytes of what was written. The targets for a
million requests are 10 s and 1 GB for the page, which itself is below 2 MB. With --folder, what is there is
not simulated again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET_S, TARGET_BYTES, TARGET_PAGE = 10.0, 1e9, 2_000_000

SIMULATE = (
    *("simulate", "--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--dp", "8", "--ep", "8"),
    *("--arrivals", "poisson:60", "--input-len", "lognormal:1024:0.6", "--output-len", "lognormal:256:0.6"),
    *("--goodput", "ttft:500", "--goodput", "tpot:20"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        measure(options.folder, options.requests)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.requests)


def measure(folder: Path, requests: int) -> None:
    """Simulate once, report three times."""
    document, table = folder / "simulation.json", folder / "requests.parquet"
    if not (document.exists() and table.exists()):
        count = ("--num-requests", str(requests))
        wall, cpu, memory = run([*SIMULATE, *count, "-o", str(table), "--json"], document)
        print(f"simulated: {wall:.1f} s, CPU {cpu:.1f} s, {memory / 1e6:,.0f} MB")
    print(f"{requests:,} requests, table of {table.stat().st_size:,} bytes")
    met = True
    for suffix in ("html", "pdf", "png"):
        out = folder / f"report.{suffix}"
        wall, cpu, memory = run(["report", str(document), str(table), "-o", str(out)])
        size = out.stat().st_size
        print(f"{suffix}: {wall:.1f} s, CPU {cpu:.1f} s, {memory / 1e6:,.0f} MB, {size:,} bytes")
        met &= suffix != "html" or (wall < TARGET_S and memory < TARGET_BYTES and size < TARGET_PAGE)
    busy = f"with {os.getloadavg()[0]:.1f} processes running or waiting on {os.cpu_count()} cores"
    print("the page meets its targets" if met else f"THE PAGE MISSES ITS TARGETS, {busy}")


def run(arguments: list[str], out: Path | None = None) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak resident bytes of one `moesim`."""
    with (out or Path(os.devnull)).open("wb") as stream:
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "moesim", *arguments], stdout=stream)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"moesim {' '.join(arguments)} failed")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
