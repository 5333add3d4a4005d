"""Processes on this machine that evaluate tasks: one that is killed is replaced, and the task is named.

Each process has one run of tasks at a time and answers them one by one, so that what it was killed by is the
first that it did not answer. A process ends when its input does: none is left behind when this one is killed.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import moesim
from moesim.errors import MoesimError
from moesim.studies.rows import KILLED
from moesim.studies.worker import EVALUATOR, READY

#: Times that a task may kill its process, and that a process may end before it is ready.
ATTEMPTS = 3
#: One thread each: as many processes as processors are enough, and sums come in the same order everywhere.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

_PROGRAM = "import sys; from moesim.studies.worker import main; main(sys.argv[1])"
#: Stands for being started where attempts are counted.
_START = -1

Result = tuple[int, dict[str, Any]]


def given_up(reason: str) -> dict[str, Any]:
    """The result of a task that killed its process again and again."""
    return {"status": KILLED, "reason": reason, "values": {}, "seconds": None}


@dataclass(slots=True, eq=False)
class _Worker:
    """One process, and the tasks that it has not answered yet."""

    process: subprocess.Popen[str]
    ready: bool = False
    tasks: collections.deque[int] = field(default_factory=collections.deque)


def run_in_processes(
    runs: Iterable[Sequence[int]],
    task_of: Callable[[int], Mapping[str, Any]],
    processes: int,
    evaluator: str = EVALUATOR,
    tick_s: float = 0.5,
) -> Generator[Result | None]:
    """Evaluate numbered tasks in processes, and yield results as they come.

    Parameters
    ----------
    runs
        Numbers of tasks; those of one run go to one process.
    task_of
        The task behind a number; asked for when a process is free.
    processes
        How many.
    evaluator
        ``module:function`` that evaluates a task.
    tick_s
        None is yielded whenever nothing came for so long.

    Raises
    ------
    MoesimError
        If processes end before they are ready.
    """
    waiting = iter(runs)
    again: collections.deque[list[int]] = collections.deque()
    attempts: collections.Counter[int] = collections.Counter()
    said: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
    workers: list[_Worker] = []

    def feed(worker: _Worker) -> bool:
        numbers = again.popleft() if again else next(waiting, None)
        if numbers is None:
            return False
        worker.tasks.extend(numbers)
        assert worker.process.stdin is not None
        # Of one that is dead its reader says so, and the tasks are given to another.
        with contextlib.suppress(OSError):
            worker.process.stdin.write(json.dumps([[n, task_of(n)] for n in numbers]) + "\n")
            worker.process.stdin.flush()
        return True

    def replace(dead: _Worker) -> Iterator[Result]:
        code = _stop(dead)
        if not dead.ready:
            attempts[_START] += 1
            if attempts[_START] >= ATTEMPTS:
                raise MoesimError(f"processes for evaluations end before they begin (exit status {code})")
        if dead.ready and dead.tasks:
            guilty = dead.tasks.popleft()
            attempts[guilty] += 1
            if attempts[guilty] < ATTEMPTS:
                again.append([guilty])
            else:
                yield guilty, given_up(f"its process was killed {ATTEMPTS} times (exit status {code})")
        if dead.tasks:
            again.append(list(dead.tasks))

    try:
        workers += [_start(evaluator, said) for _ in range(processes)]
        while workers:
            try:
                worker, line = said.get(timeout=tick_s)
            except queue.Empty:
                yield None
                continue
            if line is None:
                # One that was stopped has been forgotten already.
                if worker in workers:
                    workers.remove(worker)
                    yield from replace(worker)
                    again.extend(list(run) for run in itertools.islice(waiting, 0 if again else 1))
                    if again:
                        workers.append(_start(evaluator, said))
                continue
            answer = json.loads(line)
            if answer == READY:
                worker.ready = True
            else:
                number, result = answer
                worker.tasks.remove(number)
                yield number, result
            if not worker.tasks and not feed(worker):
                workers.remove(worker)
                _stop(worker)
    finally:
        for worker in workers:
            worker.process.kill()
            _stop(worker)


def _start(evaluator: str, said: queue.Queue[tuple[_Worker, str | None]]) -> _Worker:
    # The same moesim as here, whatever else is installed; nothing from the folder that happens to be current.
    home = str(Path(moesim.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH", ""))))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, evaluator],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | _ONE_THREAD | {"PYTHONPATH": path},
    )
    worker = _Worker(process)

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.endswith("\n"):
                    said.put((worker, line))
        said.put((worker, None))

    threading.Thread(target=read, daemon=True).start()
    return worker


def _stop(worker: _Worker) -> int:
    """Let a process end, and say with which status it did."""
    assert worker.process.stdin is not None
    with contextlib.suppress(OSError):
        worker.process.stdin.close()
    return worker.process.wait()
