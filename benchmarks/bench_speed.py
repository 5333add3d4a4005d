"""How fast answers come: the program's start, one prediction cold and warm, a sweep of 10,000.

    python benchmarks/bench_speed.py

Prints CPU seconds (user and system), best of a few runs, one core. Warm predictions ask about a load that was
not asked before, on a layout that was. The sweep is timed with nothing remembered, and again with other
lengths and concurrencies, its draws of routing known.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

import moesim as ms

REPEATS = 5
#: Configurations that a sweep answers in a second on one core, once its draws of routing are known.
SWEPT_PER_S = 20_000


def child_cpu_s(*words: str) -> float:
    """CPU seconds of a child process."""
    best = float("inf")
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "moesim", *words], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def warm_predict_s() -> tuple[float, float]:
    """CPU seconds of a warm prediction: median over loads never asked before, and of one asked again."""
    model, hardware = ms.load_model("deepseek-v3"), ms.load_hardware("h200-sxm-8", nodes=4)
    layout = ms.Parallelism(dp=32, ep=32)
    for concurrency in range(64, 4097, 64):
        ms.predict(model, hardware, layout, ms.Workload(4096, 1024, concurrency))
    new, again = [], []
    for concurrency in range(100, 4000, 37):
        workload = ms.Workload(4096, 1024, concurrency)
        for times in (new, again):
            started = time.process_time()
            ms.predict(model, hardware, layout, workload)
            times.append(time.process_time() - started)
    return sorted(new)[len(new) // 2], sorted(again)[len(again) // 2]


def sweep_s() -> tuple[int, float, float]:
    """Configurations, and CPU seconds of a sweep with nothing remembered and with draws of routing known."""
    model, hardware = ms.load_model("deepseek-v3"), ms.load_hardware("h200-sxm-8", nodes=4)
    degrees = [
        (8, 1, 1, 1),
        (8, 1, 1, 8),
        (1, 1, 8, 8),
        (1, 1, 16, 16),
        (1, 1, 32, 32),
        (2, 1, 8, 16),
        (4, 1, 8, 32),
        (8, 1, 2, 16),
        (8, 2, 1, 8),
        (2, 4, 4, 8),
    ]
    layouts = [ms.Parallelism(*d) for d in degrees]
    times = []
    for more in range(REPEATS):
        workloads = [
            ms.Workload(i + more, o + more, c + more)
            for i in (128, 1024, 2048, 4096, 8192)
            for o in (128, 256, 512, 1024)
            for c in range(8, 1008, 20)
        ]
        started = time.process_time()
        table = ms.sweep(model, hardware, layouts, workloads)
        times.append(time.process_time() - started)
    return table["tpot_s"].size, times[0], min(times[1:])


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    predict = "predict --model gpt-oss-20b --hardware h100-sxm-8 --dp 8 --ep 8 --concurrency 256 --json"
    new, again = warm_predict_s()
    size, seconds, known = sweep_s()
    rows = {
        "moesim --help, s": (child_cpu_s("--help"), 0.4),
        "moesim predict, cold, s": (child_cpu_s(*predict.split()), 1.2),
        "predict, warm, new load, ms": (new * 1e3, 1.0),
        "predict, warm, same load, ms": (again * 1e3, 1.0),
        f"sweep of {size} configurations, s": (seconds, 2.0),
        "the same, draws known, s": (known, size / SWEPT_PER_S),
    }
    for name, (value, target) in rows.items():
        print(f"{name:40} {value:8.3f}   target {target:g}")
    print(json.dumps({name: round(value, 4) for name, (value, _) in rows.items()}))


if __name__ == "__main__":
    main()
