"""Run a study: what is not on the disk yet is evaluated, and the table written."""

from __future__ import annotations

import collections
import contextlib
import os
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from moesim.errors import ConfigError, Fault
from moesim.studies.contents import forget
from moesim.studies.door import load_study
from moesim.studies.grid import Grid, chunks
from moesim.studies.key import key_of, task_of
from moesim.studies.pool import Result, run_in_processes
from moesim.studies.progress import Progress
from moesim.studies.rows import FAILED
from moesim.studies.store import Store, results_in
from moesim.studies.table import TABLES, ask, study_table, write_table
from moesim.studies.worker import EVALUATOR

#: Results wait this long, or for so many others, before they are written: what a kill loses at most.
FLUSH_S, FLUSH_ROWS = 3.0, 512
#: Configurations that a process is given at once; a simulation takes long enough by itself.
_RUN = {"predict": 16, "simulate": 1}
#: Runs per process at least, so that all end at about the same time.
_SHARE = 4


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """What a run did.

    Parameters
    ----------
    study
        The configurations.
    table
        All rows, in order.
    path, folder
        Where table and results are.
    found, computed
        Configurations that had a result before, and that were evaluated now.
    statuses
        Rows by status.
    warnings
        What was wrong with the folder.
    seconds
        That the run took.
    """

    study: Grid
    table: pa.Table
    path: Path
    folder: Path
    found: int
    computed: int
    statuses: Mapping[str, int]
    warnings: tuple[str, ...]
    seconds: float

    @property
    def failed(self) -> int:
        """Rows that moesim owes an answer."""
        return sum(self.statuses.get(status, 0) for status in FAILED)


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """A study's configurations that differ, by number, and the keys of their results."""

    study: Grid
    numbers: tuple[int, ...]
    keys: Mapping[int, str]

    @classmethod
    def of(cls, path: Path) -> _Plan:
        forget()
        study = load_study(path)
        keys: dict[int, str] = {}
        seen = set()
        for number in study.numbers():
            key = key_of(task_of(study.kind, study.configuration(number))["identity"])
            if key not in seen:
                seen.add(key)
                keys[number] = key
        if not keys:
            raise ConfigError(Fault("the rules leave no configuration", "exclude"), path)
        return cls(study, tuple(keys), keys)

    def task(self, number: int) -> dict[str, Any]:
        return task_of(self.study.kind, self.study.configuration(number))

    def table(self, results: pa.Table) -> pa.Table:
        configurations = [_shown(self.task(n), self.study.configuration(n)) for n in self.numbers]
        return study_table(self.study.kind, configurations, list(self.keys.values()), results)


def results_folder(path: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Where a study keeps its results: `out`, or a folder beside the file.

    >>> results_folder("plans/h200.yaml").as_posix()
    'plans/h200-results'
    """
    return (
        Path(out) if out is not None else Path(path).with_suffix("").with_name(f"{Path(path).stem}-results")
    )


def run_study(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    processes: int = 1,
    scheduler: str | None = None,
    evaluator: str = EVALUATOR,
    progress: Callable[[int], Progress] = Progress,
    flush_s: float = FLUSH_S,
    flush_rows: int = FLUSH_ROWS,
) -> Done:
    """Evaluate what a study asks for and has no result yet.

    Parameters
    ----------
    path
        The study file.
    out
        Folder of results; studies that share one share results. See `results_folder`.
    processes
        On this machine.
    scheduler
        Address of a Dask scheduler instead, or ``local:4``.
    evaluator
        ``module:function`` that evaluates a task, as `moesim.studies.evaluate.evaluate` does.
    progress
        Makes what is told how far the run is, from the number of configurations to evaluate.
    flush_s, flush_rows
        Results are written after so many seconds, or so many results: a kill loses no more.

    Returns
    -------
    Done

    Raises
    ------
    ConfigError
        With every fault of the file; if another run writes to the folder; if no scheduler answers.
    MoesimError
        If processes cannot be started, or the scheduler is lost. What was evaluated is kept.
    """
    start = time.monotonic()
    if processes < 1:
        raise ConfigError(Fault("must be at least 1", "--processes", processes))
    plan = _Plan.of(Path(path))
    folder = results_folder(path, out)
    with contextlib.ExitStack() as stack:
        client = None
        if scheduler is not None:
            from moesim.studies.cluster import connected

            client = stack.enter_context(connected(scheduler))
        store = stack.enter_context(Store(folder))
        statuses = store.statuses()
        missing = [n for n, key in plan.keys.items() if statuses.get(key, FAILED[0]) in FAILED]
        hands = processes if client is None else sum(client.nthreads().values())
        most = min(_RUN[plan.study.kind], -(-len(missing) // (_SHARE * hands)) or 1)
        runs = chunks(plan.study, missing, most)
        results = _nothing()
        if client is not None:
            from moesim.studies.cluster import run_on_cluster

            results = run_on_cluster(client, runs, plan.task, evaluator)
        elif missing:
            results = run_in_processes(runs, plan.task, min(processes, len(missing)), evaluator)
        _keep(results, plan, store, progress(len(missing)), flush_s, flush_rows)
        table = plan.table(store.results())
        written = folder / TABLES / f"{plan.study.name}.parquet"
        write_table(table, written)
        return Done(
            plan.study,
            table,
            written,
            folder,
            len(plan.keys) - len(missing),
            len(missing),
            collections.Counter(table["status"].to_pylist()),
            tuple(store.warnings),
            time.monotonic() - start,
        )


def _nothing() -> Generator[Result | None]:
    yield from ()


def _keep(
    results: Generator[Result | None],
    plan: _Plan,
    store: Store,
    progress: Progress,
    flush_s: float,
    flush_rows: int,
) -> None:
    """Put results into the store as they come, and to the disk every so often, also when something fails."""
    flushed = time.monotonic()
    try:
        # Also when it is interrupted: processes end, and what they answered is kept.
        with contextlib.closing(results):
            for result in results:
                if result is not None:
                    number, found = result
                    store.add(plan.task(number), plan.keys[number], found)
                progress.add(result is not None)
                if store.waiting >= flush_rows or time.monotonic() - flushed >= flush_s:
                    store.flush()
                    flushed = time.monotonic()
    finally:
        store.flush()
        progress.end()


def query_study(
    path: str | os.PathLike[str], sql: str, out: str | os.PathLike[str] | None = None
) -> tuple[pa.Table, int]:
    """Ask in SQL what is known of a study so far; nothing is evaluated.

    Parameters
    ----------
    path, out
        As in `run_study`.
    sql
        A question to DuckDB about the table ``study``.

    Returns
    -------
    tuple
        The answer, and how many configurations have no result yet.

    Raises
    ------
    ConfigError
        If the file is wrong, or DuckDB does not take the question.
    """
    plan = _Plan.of(Path(path))
    table = plan.table(results_in(results_folder(path, out)))
    return ask({"study": table}, sql), len(plan.keys) - len(table)


def _shown(task: Mapping[str, Any], configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a table shows them: machines and models by their own names."""
    identity = task["identity"]
    names = {role: identity[role]["name"] for role in ("model", "hardware")}
    filled = {"scheduler": identity["scheduler"]} if "scheduler" in identity else {}
    return {**configuration, **names, **filled}
