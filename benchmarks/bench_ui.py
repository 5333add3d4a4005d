"""How fast the what-if page is answered: random walks over its sliders, against the real program.

    python benchmarks/bench_ui.py [--moves 400] [--seed 0] [--json]

Starts `moesim ui` on a free port, and plays people: a model, a machine, a layout, then moves of one slider at
a time. Prints milliseconds, as the page sees them over a kept connection:

* of the first answer about each machine and layout;
* of moves of traffic (median, 95 %, 99 %, worst), and of a request rate, one move in ten;
* of first answers in another layout;
* of all other layouts of the same devices, asked for the first time and after a move.

`cpu` is what the server worked for an answer; on a machine that others use, the rest is waiting for a core.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx2
import numpy as np

#: Model, machine, nodes, degrees and trace of each walk; from a desktop to a rack and a half.
PLACES = (
    ("gpt-oss-20b", "h100-sxm-8", 1, (1, 1, 8, 8), "gpt-oss-20b-synthetic"),
    ("deepseek-v3", "h200-sxm-8", 4, (1, 1, 32, 32), "deepseek-v3-synthetic"),
    ("qwen3-235b-a22b-fp8", "mi300x-8", 2, (4, 1, 4, 16), None),
    ("deepseek-v3", "gb200-nvl72", 16, (1, 1, 64, 64), None),
    ("llama-3.1-70b", "a100-sxm-80gb-8", 1, (8, 1, 1, 1), None),
    ("olmoe-1b-7b", "rtx-4090-workstation", 1, (1, 1, 1, 1), None),
)
#: Sliders of traffic and their ends.
SLIDERS = {"input_len": (64, 32_768), "output_len": (16, 8_192), "concurrency": (1, 4_096)}
ASKED = ("first", "move", "rate", "layout")
CPU = tuple(f"{name} cpu" for name in ASKED)


@contextmanager
def served():
    """A connection to a running program, with the page's token."""
    words = [sys.executable, "-m", "moesim", "ui", "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = process.stdout.readline().strip()
        with httpx2.Client(base_url=address, timeout=120) as client:
            token = re.search(r'moesim-token" content="([\w-]+)"', client.get("/").text)[1]
            client.headers["x-moesim"] = token
            # The program answers the first question by itself; this one waits for that.
            client.post("/api/answer", json={}).raise_for_status()
            yield client
    finally:
        process.terminate()
        process.wait()


def timed(client, scenario, path="/api/answer"):
    """Milliseconds of a request, those that the server worked for it, and the answer."""
    started = time.perf_counter()
    answer = client.post(path, json=scenario)
    took = (time.perf_counter() - started) * 1e3
    answer.raise_for_status()
    document = answer.json()
    return took, document.get("cpu_ms", 0.0), document


def walk(client, place, moves, rng):
    """One walk: times by what was asked."""
    model, hardware, nodes, degrees, trace = place
    scenario = dict(zip(("tp", "pp", "dp", "ep"), degrees, strict=True))
    scenario |= {"model": model, "hardware": hardware, "nodes": nodes, "trace": trace}
    scenario |= {"input_len": 2048, "output_len": 512, "concurrency": 64}
    times = {name: [] for name in (*ASKED, *CPU, "layouts first", "layouts moved")}
    put(times, "first", timed(client, scenario))
    at = {name: np.log(scenario[name]) for name in SLIDERS}
    for move in range(moves):
        name = list(SLIDERS)[rng.integers(len(SLIDERS))]
        low, high = np.log(SLIDERS[name])
        at[name] = float(np.clip(at[name] + rng.normal(0, 0.3), low, high))
        scenario[name] = round(float(np.exp(at[name])))
        open_loop = move % 10 == 9
        found = timed(client, scenario | ({"request_rate": 1.0} if open_loop else {}))
        put(times, "rate" if open_loop else "move", found)
    started = time.perf_counter()
    rows = all_layouts(client, scenario)
    times["layouts first"].append((time.perf_counter() - started) * 1e3)
    started = time.perf_counter()
    all_layouts(client, scenario | {"input_len": scenario["input_len"] + 1})
    times["layouts moved"].append((time.perf_counter() - started) * 1e3)
    for row in rows[:: max(len(rows) // 6, 1)]:
        own = {name: row[name] for name in ("tp", "pp", "dp", "ep")}
        put(times, "layout", timed(client, scenario | own))
    return times, len(rows)


def put(times, name, found):
    """Note what an answer took."""
    times[name].append(found[0])
    times[f"{name} cpu"].append(found[1])


def all_layouts(client, scenario):
    """Rows of all layouts, asked for until none is left."""
    while True:
        found = timed(client, scenario, "/api/alternatives")[2]
        if found["considered"] == found["total"]:
            return found["layouts"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=400, help="moves of each walk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    rows = []
    with served() as client:
        for place in PLACES:
            times, layouts = walk(client, place, asked.moves, rng)
            rows.append({"place": " ".join(map(str, place[:3])), "layouts": layouts, **times})
    every = {name: [t for row in rows for t in row[name]] for name in (*ASKED, *CPU)}
    shares = {name: np.percentile(values, [50, 95, 99, 100]).tolist() for name, values in every.items()}
    if asked.json:
        print(json.dumps({"milliseconds": shares, "places": rows}))
        return
    print("milliseconds             p50     p95     p99     max    n")
    for name, values in shares.items():
        print(f"{name:<20}" + "".join(f"{value:8.1f}" for value in values) + f"{len(every[name]):6}")
    print("\nplace                                 first   move p95   layouts   all first   all moved")
    for row in rows:
        p95 = np.percentile(row["move"], 95)
        print(
            f"{row['place']:<36}{row['first'][0]:7.0f}{p95:11.1f}{row['layouts']:10}"
            f"{row['layouts first'][0]:12.0f}{row['layouts moved'][0]:12.0f}"
        )


if __name__ == "__main__":
    main()
