"""How fast a large trace is measured: loads, overlap and coupling between layers of up to 1e9 selections.

    python benchmarks/bench_stats.py --selections 1e9

Writes a synthetic trace (58 layers of 256 experts, top-8, requests of 1,000 tokens) as canonical Parquet in a
folder of its own, measures it with moesim in one process and with one and two Dask workers, and with pandas
and DuckDB SQL on a slice of the same file, and deletes the folder. CPU seconds are user plus system of the
process and its children; a rate is selections per CPU second, which for one thread is per core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LAYERS, EXPERTS, TOP_K, REQUEST = 58, 256, 8, 1000
FAMILIES = ("load", "locality", "coupling")
#: Tokens that pandas and SQL are given: they unfold a row per selection, and pairs of them.
SLICE = 100_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--selections", type=float, default=1e9)
    parser.add_argument("--runs", default="read,loads,moesim,everything,dask1,dask2")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(RUNS[args.run](args.path)))
        return
    tokens = round(args.selections / (LAYERS * TOP_K))
    folder = Path(tempfile.mkdtemp(prefix="moesim-bench-"))
    needed = 1.5 * tokens * LAYERS * TOP_K
    if shutil.disk_usage(folder).free < 2 * needed:
        sys.exit(f"needs {2 * needed / 1e9:.1f} GB free in {folder}")
    try:
        path, part = folder / "trace.parquet", folder / "slice.parquet"
        started = time.perf_counter()
        generate(path, tokens)
        generate(part, SLICE)
        total = tokens * LAYERS * TOP_K
        print(f"{total:.3g} selections, {path.stat().st_size / 1e9:.2f} GB, ", end="")
        print(f"written in {time.perf_counter() - started:.0f} s")
        child("everything", part)  # compiles the kernels
        show("start", 0, child("start", part))
        for name in args.runs.split(","):
            show(name, total, child(name, path))
        few = SLICE * LAYERS * TOP_K
        print(f"on a slice of {few:.3g} selections:")
        for name in ("moesim", "duckdb", "pandas"):
            show(name, few, child(name, part))
    finally:
        shutil.rmtree(folder)


def generate(path: Path, tokens: int) -> None:
    """A trace with skewed loads, repeats within a request, and layers that follow each other."""
    from moesim.trace import Header, TraceWriter

    header = Header("routing_trace", EXPERTS, tuple(range(3, 3 + LAYERS)), TOP_K, model="deepseek-v3")
    rng = np.random.default_rng(0)
    # A token takes four of the even and four of the odd experts, from tables of skewed draws: cheaper than a
    # draw per token, and hardly compressible. Some halves are the request's own.
    half = TOP_K // 2
    odds = rng.normal(0, 0.7, (2, 1, EXPERTS // 2)) + rng.gumbel(size=(2, 16384, EXPERTS // 2))
    tables = (2 * np.argsort(-odds, axis=2)[:, :, :half] + np.array([0, 1])[:, None, None]).astype(np.uint8)
    with TraceWriter(path, header) as out:
        for start in range(0, tokens, 65536):
            n = min(65536, tokens - start)
            row = np.arange(start, start + n, dtype=np.int64)
            request = (row // REQUEST).astype(np.int32)
            own = (request[:, None] * 37 + np.arange(LAYERS) * 11) % 16384
            ids = np.empty((n, LAYERS, TOP_K), np.uint8)
            for side in range(2):
                drawn = rng.integers(0, 16384, (n, LAYERS), dtype=np.int32)
                pick = np.where(rng.random((n, LAYERS), dtype=np.float32) < 0.3, own, drawn)
                ids[:, :, side * half : (side + 1) * half] = tables[side][pick]
            out.append(ids, request, (row % REQUEST).astype(np.int32), np.ones(n, np.int8))


def run_start(path: str) -> dict[str, float]:
    """Imports alone."""
    from moesim.analysis import statistics
    from moesim.trace import TraceReader

    TraceReader(path).close()
    return {"kernels": float(callable(statistics))}


def run_read(path: str) -> dict[str, float]:
    from moesim.trace import TraceReader

    with TraceReader(path) as reader:
        return {"tokens": sum(len(batch.request) for batch in reader.batches())}


def run_moesim(path: str, families: tuple[str, ...] = FAMILIES, scheduler: str | None = None):
    from moesim.analysis import statistics

    found = statistics(path, families=families, scheduler=scheduler)
    names = ("max_over_mean", "consecutive_overlap", "next_layer_information_bits")
    return {name: found.overall.get(name) for name in names}


def run_everything(path: str):
    from moesim.analysis.partial import FAMILIES as ALL

    return run_moesim(path, ALL)


def run_dask(path: str, workers: int):
    from distributed import LocalCluster

    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster:
        return run_moesim(path, scheduler=cluster.scheduler_address)


def run_duckdb(path: str):
    """Loads, consecutive overlap and the joint distribution of neighbouring layers, in SQL."""
    import duckdb

    db = duckdb.connect()
    db.execute("set threads = 1")
    skew, overlap, information = [], [], []
    for layer in range(3, 3 + LAYERS):
        db.execute(
            f"""create or replace temp table x as
            select file_row_number as t, request, unnest(L{layer:03d}) as e
            from read_parquet('{path}', file_row_number = true)"""
        )
        skew.append(
            db.sql(
                f"select max(n) * {EXPERTS} / sum(n) from (select count(*) n from x group by e)"
            ).fetchall()[0][0]
        )
        pairs = db.sql(
            """select count(*) from (select distinct t, request from x) a
            join (select distinct t, request from x) b on a.t = b.t + 1 and a.request = b.request"""
        ).fetchall()[0][0]
        repeats = db.sql(
            """select count(*) from x a join x b
            on a.t = b.t + 1 and a.request = b.request and a.e = b.e"""
        ).fetchall()[0][0]
        overlap.append(repeats / (pairs * TOP_K))
        if layer > 3:
            joint = db.sql(
                "select a.e, b.e, count(*) from old a join x b on a.t = b.t group by all"
            ).fetchnumpy()
            information.append(mutual(joint["e"], joint["e_1"], joint["count_star()"]))
        db.execute("create or replace temp table old as select * from x")
    return summary(skew, overlap, information)


def run_pandas(path: str):
    import pandas as pd

    skew, overlap, information, old = [], [], [], None
    for layer in range(3, 3 + LAYERS):
        frame = pd.read_parquet(path, columns=["request", f"L{layer:03d}"])
        frame["t"] = np.arange(len(frame))
        x = frame.explode(f"L{layer:03d}").rename(columns={f"L{layer:03d}": "e"}).astype(np.int64)
        load = x.groupby("e").size()
        skew.append(load.max() / load.sum() * EXPERTS)
        before = x.assign(t=x.t + 1)
        pairs = (frame.request == frame.request.shift()).sum()
        overlap.append(len(x.merge(before, on=["t", "request", "e"])) / (pairs * TOP_K))
        if old is not None:
            joint = old.merge(x, on="t").groupby(["e_x", "e_y"]).size().reset_index(name="n")
            information.append(mutual(joint.e_x, joint.e_y, joint.n))
        old = x
    return summary(skew, overlap, information)


def mutual(a, b, n) -> float:
    table = np.zeros((EXPERTS, EXPERTS))
    table[np.asarray(a), np.asarray(b)] = n
    p = table / table.sum()
    outer = np.outer(p.sum(1), p.sum(0))
    some = p > 0
    return float((p[some] * np.log2(p[some] / outer[some])).sum())


def summary(skew, overlap, information) -> dict[str, float]:
    return {
        "max_over_mean": float(np.mean(skew)),
        "consecutive_overlap": float(np.mean(overlap)),
        "next_layer_information_bits": float(np.mean(information)),
    }


RUNS = {
    "start": run_start,
    "read": run_read,
    "loads": lambda path: run_moesim(path, ("load",)),
    "moesim": run_moesim,
    "everything": run_everything,
    "dask1": lambda path: run_dask(path, 1),
    "dask2": lambda path: run_dask(path, 2),
    "duckdb": run_duckdb,
    "pandas": run_pandas,
}


def child(name: str, path: Path) -> tuple[float, float, float, dict[str, float]]:
    """Wall seconds, CPU seconds, peak bytes and answer of one run in a process of its own."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = [sys.executable, __file__, "--run", name, "--path", str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name} failed")
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, usage.ru_maxrss * 1024.0, json.loads(out.splitlines()[-1])


def show(name: str, total: int, run: tuple[float, float, float, dict[str, float]]) -> None:
    wall, cpu, peak, answer = run
    values = ", ".join(f"{value:.5g}" for value in answer.values() if value is not None)
    print(
        f"  {name:<11} {wall:7.1f} s wall {cpu:7.1f} s CPU {total / cpu / 1e6:7.2f} M selections per CPU s "
        f"{total / wall / 1e6:7.2f} M per s {peak / 1e9:5.2f} GB peak   {values}",
        flush=True,
    )


if __name__ == "__main__":
    main()
