"""Studies on a Dask cluster: the same table, also when a worker is killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from moesim.errors import ConfigError
from moesim.studies import run_study

pytest.importorskip("distributed", reason="needs the extra: pip install 'moesim[cluster]'")

LOGGED = "study_evaluators:logged"
MANY = """grid:
  layout.tp: [1, 2, 4]
  workload.concurrency: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
"""


@contextlib.contextmanager
def _cluster(tmp_path, workers: int):
    """A scheduler and workers as processes of their own: its address, and the workers' process ids."""
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    program = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    started = [subprocess.Popen([*program, "--no-dashboard", "--scheduler-file", str(file)], **quiet)]
    try:
        program = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", "--no-dashboard"]
        for _ in range(workers):
            started.append(
                subprocess.Popen(
                    [*program, "--nthreads", "1", "--scheduler-file", str(file)], cwd=tmp_path, **quiet
                )
            )
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        from distributed import Client

        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address, [process.pid for process in started[1:]]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_worker_killed_in_the_middle_changes_nothing(study, log, tmp_path, monkeypatch):
    path = study(MANY)
    alone = run_study(path, tmp_path / "alone", evaluator=LOGGED)
    before = len(log())
    monkeypatch.setenv("STUDY_SECONDS", "0.03")
    with _cluster(tmp_path, 2) as (address, pids):
        victim = []

        def kill() -> None:
            """Whoever has done something, as soon as it has."""
            while len(log()) < before + 5:
                time.sleep(0.005)
            victim.append(int(log()[-1][0]))
            os.kill(victim[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        done = run_study(path, tmp_path / "cluster", scheduler=address, evaluator=LOGGED)
        killer.join()
    assert victim[0] in pids
    assert {int(pid) for pid, _ in log()[before:]} == set(pids)
    assert done.path.read_bytes() == alone.path.read_bytes()
    assert done.computed == 48


@pytest.mark.usefixtures("log")
def test_what_kills_workers_is_named_and_its_neighbours_are_not(study, tmp_path):
    import dask

    # A lost worker's tasks are all blamed at once; workers with a nanny come back, as on a real cluster.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        done = run_study(
            study("grid: {workload.concurrency: [1, 2, 3, 4, 6, 7]}\n"),
            tmp_path / "out",
            scheduler="local:1",
            evaluator="study_evaluators:deadly",
        )
    rows = done.table.to_pylist()
    assert [row["status"] == "killed" for row in rows] == [False, False, True, False, False, False]
    assert "killed one worker" in rows[2]["reason"]


def test_predictions_on_a_local_cluster_are_those_of_processes(study, tmp_path):
    path = study("grid: {workload.concurrency: [1, 64]}\n")
    processes = run_study(path, tmp_path / "processes")
    cluster = run_study(path, tmp_path / "cluster", scheduler="local:1")
    assert cluster.computed == 2
    assert cluster.path.read_bytes() == processes.path.read_bytes()


def test_a_scheduler_that_does_not_answer(study, tmp_path, monkeypatch):
    monkeypatch.setattr("moesim.studies.cluster.TIMEOUT_S", 0.5)
    with pytest.raises(ConfigError, match="no scheduler answers"):
        run_study(study(MANY), tmp_path / "out", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ConfigError, match="has no workers"):
        run_study(study(MANY), tmp_path / "out", scheduler="local:0")


def test_without_dask_it_is_said_how_to_install_it(study, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'moesim\[cluster\]'"):
        run_study(study(MANY), tmp_path / "out", scheduler="tcp://127.0.0.1:9")
