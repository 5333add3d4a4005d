"""Which benchmark a file or folder is of, and on what machine its path says it ran."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from moesim.errors import ConfigError, Fault
from moesim.validate.bench_aiperf import (
    REQUESTS_FILE,
    STATISTICS_FILE,
    is_request,
    is_statistics,
    read_aiperf,
)
from moesim.validate.bench_serve import is_result, read_result, read_sglang
from moesim.validate.documents import read_document, read_lines
from moesim.validate.names import hardware_of
from moesim.validate.run_folder import is_run_folder, read_run_folder
from moesim.validate.runs import BenchmarkRun

FORMATS = (
    "the JSON of `vllm bench serve --save-result`, the JSONL of SGLang's bench_serving, "
    f"AIPerf's {STATISTICS_FILE} or {REQUESTS_FILE}, or a folder of meta.json and requests.jsonl"
)
#: Levels of folders, and files of one, that are searched.
_DEPTH, _FILES = 3, 1000


def read_runs(path: Path) -> list[BenchmarkRun]:
    """Every benchmark run of a file, or of a folder and the folders in it.

    Raises
    ------
    ConfigError
        If there is none, or one is damaged.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError):
        is_folder = is_file = False
    if not is_folder and not is_file:
        raise ConfigError(Fault("there is no such file or folder", allowed=FORMATS), path)
    runs = list(_of_folder(path, _DEPTH)) if is_folder else _of_file(path)
    if not runs:
        raise ConfigError(Fault("holds no benchmark run", allowed=FORMATS), path)
    return [replace(run, hardware=run.hardware or hardware_in(Path(run.path))) for run in runs]


def hardware_in(path: Path) -> str:
    """Machine that a part of a path names, the innermost first; empty if none does.

    Examples
    --------
    >>> hardware_in(Path("runs/RTXPRO6000/Qwen3-32B")), hardware_in(Path("runs/h200_sxm-tp8.json"))
    ('rtx-pro-6000-8', 'h200-sxm-8')
    """
    for part in reversed(path.resolve().parts):
        words = re.split(r"[-_. ]+", part.lower())[:12]
        for size in range(len(words), 0, -1):
            for start in range(len(words) - size + 1):
                name = hardware_of("-".join(words[start : start + size]))
                if name:
                    return name
    return ""


def _of_folder(path: Path, depth: int) -> Iterator[BenchmarkRun]:
    if is_run_folder(path):
        yield read_run_folder(path)
        return
    statistics, requests = path / STATISTICS_FILE, path / REQUESTS_FILE
    if statistics.is_file() or requests.is_file():
        yield read_aiperf(
            statistics if statistics.is_file() else None, requests if requests.is_file() else None
        )
        return
    for inner in sorted(path.iterdir())[:_FILES]:
        if inner.is_dir() and depth > 1:
            yield from _of_folder(inner, depth - 1)
        elif inner.suffix in (".json", ".jsonl") and inner.is_file():
            yield from _of_file(inner, strict=False)


def _of_file(path: Path, strict: bool = True) -> list[BenchmarkRun]:
    """Runs of one file; if not `strict`, none where it is something else."""
    if path.suffix == ".jsonl":
        first = next(read_lines(path), (0, {}))[1]
        if is_request(first):
            return [read_aiperf(None, path)]
        if is_result(first):
            return read_sglang(path)
    else:
        try:
            document = read_document(path)
        except ConfigError:
            if strict:
                raise
            return []
        if is_statistics(document):
            return [read_aiperf(path, None)]
        if is_result(document):
            # SGLang's result of one run is a document too; only it has these names.
            sglang = "mean_e2e_latency_ms" in document or "server_info" in document
            return [read_result(document, path, "sglang-bench" if sglang else "vllm-bench")]
    if strict:
        raise ConfigError(Fault("is no benchmark result", allowed=FORMATS), path)
    return []
