"""How soon an answer is there: 300 requests in a fresh process, and where the time goes.

    python benchmarks/serving/bench_cold.py [--first]

Prints CPU seconds (user and system) and wall seconds, best of a few runs. Compiled code is on disk before;
with `--first` it also runs once with an empty cache, as after an installation.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

REPEATS = 5
COMMAND = (
    "-m moesim simulate --model {model} --hardware h100-sxm-8 --arrivals poisson:10 --input-len 1024 "
    "--output-len 256 --num-requests 300 --json"
)
PARTS = """
import time
began = [time.process_time()]
def lap(name):
    print(f"  {name:24}{time.process_time() - began[0]:.3f}")
    began[0] = time.process_time()
import numba; lap("import numba")
import moesim as ms
from moesim.requests import generate_requests
from moesim.serving.simulate import prepare
from moesim.serving.statistics import summarise; lap("import moesim")
hardware = ms.load_hardware("h100-sxm-8"); lap("hardware (YAML)")
model, requests = ms.load_model(MODEL), generate_requests(300, "poisson:10", 1024, 256); lap("requests")
ready = prepare(model, hardware, ms.Parallelism(), requests); lap("tables of step times")
outcome = ready.serve(requests); lap("load compiled loops, serve")
summarise(outcome); lap("statistics")
ready.serve(requests); lap("serve again")
"""


def child(words: list[str], env: dict[str, str] | None = None) -> tuple[float, float]:
    """CPU and wall seconds of a fresh Python."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        time.perf_counter() - began,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", action="store_true", help="also with an empty cache of compiled code")
    first = parser.parse_args().first
    for model in ("qwen3-30b-a3b", "llama-3.1-8b"):
        words = COMMAND.format(model=model).split()
        child(words)
        runs = [child(words) for _ in range(REPEATS)]
        cpu, wall = (min(times) for times in zip(*runs, strict=True))
        print(f"moesim simulate, 300 requests of {model}: {cpu:.2f} s CPU, {wall:.2f} s wall")
    text = PARTS.replace("MODEL", repr("qwen3-30b-a3b"))
    print("of which (in Python)", flush=True)
    subprocess.run([sys.executable, "-c", text], check=True)
    if first:
        with tempfile.TemporaryDirectory() as folder:
            cpu, wall = child(words, os.environ | {"NUMBA_CACHE_DIR": folder})
        print(f"the very first run, which compiles: {cpu:.1f} s CPU, {wall:.1f} s wall")


if __name__ == "__main__":
    main()
