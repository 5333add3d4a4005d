"""Tasks on a Dask cluster: the same results, from machines that see the same files."""

from __future__ import annotations

import collections
import contextlib
import queue
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moesim.errors import ConfigError, Fault, MoesimError
from moesim.studies.pool import Result, given_up
from moesim.studies.rows import ERROR
from moesim.studies.worker import EVALUATOR, evaluate_all

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

#: How long a scheduler may take to answer.
TIMEOUT_S = 10.0
#: Runs of tasks in flight per worker thread: one is evaluated while the next is on its way.
_IN_FLIGHT = 2
_LOCAL = re.compile(r"local:(\d{1,4})")
_INSTALL = "needs dask: pip install 'moesim[cluster]'"


def connected(address: str) -> AbstractContextManager[Any]:
    """A client of the scheduler at an address, or of workers started here for ``local:4``.

    Raises
    ------
    ConfigError
        If Dask is not installed, no scheduler answers, or it has no workers.
    """
    local = _LOCAL.fullmatch(address)
    if local is None and "://" not in address:
        raise ConfigError(Fault("is no scheduler", "--scheduler", address, "tcp://HOST:PORT, local:4"))
    if local is not None and not int(local[1]):
        raise ConfigError(Fault("has no workers", "--scheduler", address, "local:1 and more"))
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ConfigError(Fault(_INSTALL, "--scheduler", address)) from None
    return _open(address, int(local[1]) if local else None, Client, LocalCluster)


@contextlib.contextmanager
def _open(address: str, workers: int | None, client_class: Any, cluster_class: Any) -> Iterator[Any]:  # noqa: ANN401
    with contextlib.ExitStack() as stack:
        try:
            target = address
            if workers is not None:
                target = stack.enter_context(
                    cluster_class(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
                )
            client = stack.enter_context(client_class(target, timeout=TIMEOUT_S, set_as_default=False))
        except (OSError, ValueError, TimeoutError) as error:
            raise ConfigError(Fault(f"no scheduler answers: {error}", "--scheduler", address)) from None
        if not client.nthreads():
            raise ConfigError(Fault("the scheduler has no workers", "--scheduler", address))
        yield client


def run_on_cluster(
    client: Any,  # noqa: ANN401 - Dask has no types
    runs: Iterable[Sequence[int]],
    task_of: Callable[[int], Mapping[str, Any]],
    evaluator: str = EVALUATOR,
    tick_s: float = 0.5,
) -> Generator[Result | None]:
    """Evaluate numbered tasks on a cluster; as `moesim.studies.pool.run_in_processes`.

    Dask gives the tasks of a lost worker to another, and blames all that a worker had when that happens
    several times. Each task so blamed is tried once more when the cluster has nothing else to do: what kills
    workers then is given up.
    """
    from distributed import KilledWorker

    waiting = iter(runs)
    blamed: collections.deque[int] = collections.deque()
    flying: dict[Any, list[int]] = {}
    landed: queue.Queue[Any] = queue.Queue()

    def send(numbers: Sequence[int]) -> Any:  # noqa: ANN401 - a future
        tasks = [task_of(number) for number in numbers]
        future = client.submit(evaluate_all, evaluator, tasks, pure=False)
        flying[future] = list(numbers)
        future.add_done_callback(landed.put)
        return future

    alone: Any = None
    while True:
        most = _IN_FLIGHT * max(sum(client.nthreads().values()), 1)
        while len(flying) < most and (numbers := next(waiting, None)) is not None:
            send(numbers)
        if not flying:
            if not blamed:
                return
            alone = send([blamed.popleft()])
        try:
            future = landed.get(timeout=tick_s)
        except queue.Empty:
            if client.status != "running":
                raise MoesimError("the scheduler is gone; run the study again to go on") from None
            yield None
            continue
        if future.status == "pending":
            # Its worker was lost with the result, which is computed again.
            future.add_done_callback(landed.put)
            continue
        done = flying.pop(future)
        if future.status == "finished":
            yield from zip(done, future.result(), strict=True)
        elif future.status != "error":
            raise MoesimError("the scheduler is gone, or dropped tasks; run the study again to go on")
        elif future is not alone:
            blamed.extend(done)
        elif isinstance(error := future.exception(), KilledWorker):
            yield done[0], given_up("it killed one worker of the cluster after the other")
        else:
            reason = f"{type(error).__name__}: {error}"
            yield done[0], {"status": ERROR, "reason": reason, "values": {}, "seconds": None}
