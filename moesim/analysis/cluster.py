"""The same sums on a Dask cluster: workers sum ranges of row groups, and the sums are merged here."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from moesim.analysis.partial import Partial, Spec, merge
from moesim.errors import ConfigError, Fault

if TYPE_CHECKING:
    from moesim.trace import TraceReader

#: Tasks per worker thread: few, because each sends its sums over the network; more than one, to share evenly.
_TASKS_PER_THREAD = 4
#: How long a scheduler may take to answer.
TIMEOUT_S = 10.0


def sum_on_cluster(
    source: TraceReader, spec: Spec, address: str, rows: int, done: Callable[[int], None]
) -> Partial:
    """Sums of a canonical Parquet file that every worker can open under the same path.

    Parameters
    ----------
    source
        The open file.
    spec
        What is wanted.
    address
        Of the Dask scheduler, such as ``tcp://10.0.0.1:8786``.
    rows
        Tokens of one batch.
    done
        Called with the tokens done so far.

    Raises
    ------
    ConfigError
        If Dask is not installed, or the scheduler does not answer.
    """
    try:
        from distributed import Client

        connect: Any = Client
    except ImportError:
        raise ConfigError(
            Fault("needs dask: pip install 'moesim[cluster]'", "--scheduler", address)
        ) from None
    try:
        client: Any = connect(address, timeout=TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(Fault(f"no scheduler answers: {error}", "--scheduler", address)) from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise ConfigError(Fault("the scheduler has no workers", "--scheduler", address))
        path, parts = (
            os.fspath(source.path.resolve()),
            ranges(source.group_rows(), threads * _TASKS_PER_THREAD),
        )
        tasks = [client.submit(sum_range, path, spec, *part, rows, pure=False) for part in parts]
        whole: Partial | None = None
        # In order, because neighbours merge; a task's sums are let go once merged.
        while tasks:
            part = tasks.pop(0).result()
            whole = part if whole is None else merge(whole, part)
            done(whole.tokens)
    if whole is None:
        raise ConfigError(Fault("holds no row groups", value=path))
    return whole


def ranges(group_rows: list[int], parts: int) -> list[tuple[int, int, int]]:
    """Consecutive row groups cut into at most `parts` ranges: first group, group after the last, first row.

    >>> ranges([10, 10, 10], 2)
    [(0, 1, 0), (1, 3, 10)]
    """
    groups = len(group_rows)
    edges = sorted({i * groups // parts for i in range(parts)} | {0, groups})
    return [(a, b, sum(group_rows[:a])) for a, b in pairwise(edges)]


def sum_range(path: str, spec: Spec, first: int, stop: int, start: int, rows: int) -> Partial:
    """The sums of a range of row groups; runs on a worker."""
    from moesim.analysis.stats import sum_up
    from moesim.trace import TraceReader

    with TraceReader(path) as reader:
        batches = (
            (batch.topk_ids, batch.request)
            for batch in reader.batches(rows=rows, row_groups=range(first, stop), weights=False)
        )
        return sum_up(batches, spec, start, lambda _: None)
