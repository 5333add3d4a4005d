"""Damage a valid file of every format thousands of times and watch what the readers do.

    python benchmarks/fuzz_readers.py [--mutations 10000] [--only NAME] [--seed 0]

For every format: how many damaged files still are a trace, how many are refused with a `TraceError`, and
anything else - another exception, more than 5 s, more memory than 64 MiB plus 40 times the file, a dead
process. A finding names its seed; `--only NAME --replay SEED` reads that one file again. Two processes.
Exit code 1 if there is any finding.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "trace")]

from format_samples import SAMPLES, SHAPE, SHAPES  # noqa: E402
from mutations import Case, outcome  # noqa: E402

LIMIT_S = 5
FREE_BYTES, MULTIPLE = 64 * 2**20, 40
CHUNK = 250


class HangError(Exception):
    pass


def _alarm(*_):
    raise HangError(f"more than {LIMIT_S} s")


def peak_bytes() -> int:
    with Path("/proc/self/status").open() as stream:
        return next(int(line.split()[1]) * 1024 for line in stream if line.startswith("VmHWM"))


def reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def start():
    signal.signal(signal.SIGALRM, _alarm)
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    warnings.simplefilter("error")


def run(
    key: tuple[str, str], seed: int, first: int, count: int, note: Path
) -> tuple[Counter, list[str], float, float]:
    """Outcomes, findings, the longest time in s and the most memory beyond the start in MiB."""
    seen, findings, longest, most = Counter(), [], 0.0, 0
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        (Path(folder) / "good").mkdir()
        (Path(folder) / "bad").mkdir()
        case = Case(SAMPLES[key](Path(folder) / "good"), Path(folder) / "bad")
        shape = SHAPES.get(key, SHAPE)
        outcome(case.target, shape, "")  # Imports and caches are not to be charged to a damaged file.
        for n in range(first, first + count):
            name = f"{'/'.join(key)}:{seed}:{n}"
            note.write_text(name)
            path = case.damage(name)
            size = sum(
                p.stat().st_size for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()
            )
            before, began = reset_peak(), time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
            try:
                seen[outcome(path, shape, name)] += 1
            except BaseException as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}:{last.lineno}"
                findings.append(f"{name}: {type(error).__name__}: {str(error)[:200]} at {where}")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            longest = max(longest, time.perf_counter() - began)
            used = peak_bytes() - before
            most = max(most, used)
            if used > FREE_BYTES + MULTIPLE * size:
                findings.append(f"{name}: took {used / 2**20:.0f} MiB for {size} bytes")
    return seen, findings, longest, most / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--replay", default="")
    options = parser.parse_args()
    keys = [key for key in SAMPLES if options.only in ("", key[0], "/".join(key))]
    if options.replay:
        _, seed, n = options.replay.rsplit(":", 2)
        start()
        print(run(keys[0], int(seed), int(n), 1, Path(tempfile.mkdtemp()) / "note"))
        return 0
    bad = 0
    print(f"{'format':<28}{'traces':>8}{'refused':>9}{'findings':>10}{'longest s':>11}{'most MiB':>10}")
    context = multiprocessing.get_context("fork")
    notes = Path(tempfile.mkdtemp(prefix="fuzz"))
    for key in keys:
        seen, findings, longest, most = Counter(), [], 0.0, 0.0
        firsts = list(range(0, options.mutations, CHUNK))
        while firsts:
            with ProcessPoolExecutor(2, context, start) as pool:
                parts = {}
                for f in firsts:
                    count = min(CHUNK, options.mutations - f)
                    parts[f] = pool.submit(run, key, options.seed, f, count, notes / str(f))
                firsts, dead = [], []
                for first, part in parts.items():
                    try:
                        some, found, seconds, mib = part.result(timeout=CHUNK * LIMIT_S)
                    except BrokenProcessPool:
                        note = notes / str(first)
                        (dead if note.exists() else firsts).append(first)
                        continue
                    (notes / str(first)).unlink()
                    seen += some
                    findings += found
                    longest, most = max(longest, seconds), max(most, mib)
                for first in dead:
                    note = notes / str(first)
                    findings.append(f"{note.read_text()}: the process died here, or the one beside it")
                    note.unlink()
        name = "/".join(part for part in key if part)
        print(
            f"{name:<28}{seen['trace']:>8}{seen['refused']:>9}{len(findings):>10}{longest:>11.2f}{most:>10.1f}",
            flush=True,
        )
        for finding in findings[:20]:
            print("   ", finding)
        bad += len(findings)
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
