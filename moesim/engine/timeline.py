"""Lay tasks on streams: each stream does its tasks in the order given, each task waits for those it needs.

This is max-plus algebra: ``finish = max(stream free, needed finished) + seconds``, for many batches at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from moesim.engine.routing import Array


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One piece of work.

    Parameters
    ----------
    name
        Unique.
    stream
        What it occupies.
    seconds
        ``[batches]``.
    after
        Names of earlier tasks it needs.
    """

    name: str
    stream: str
    seconds: Array
    after: tuple[str, ...] = ()


def finish_times(tasks: Iterable[Task]) -> dict[str, Array]:
    """When each task is done, with everything idle at 0.

    Examples
    --------
    >>> one = np.array([1.0])
    >>> tasks = [Task("a", "gpu", one), Task("send", "net", 3 * one, ("a",)), Task("b", "gpu", one)]
    >>> done = finish_times(tasks)
    >>> {name: float(t[0]) for name, t in done.items()}
    {'a': 1.0, 'send': 4.0, 'b': 2.0}
    """
    free: dict[str, Array] = {}
    done: dict[str, Array] = {}
    for task in tasks:
        start = free.get(task.stream, np.zeros_like(task.seconds))
        for name in task.after:
            start = np.maximum(start, done[name])
        done[task.name] = free[task.stream] = start + task.seconds
    return done


def makespan(tasks: Iterable[Task]) -> Array:
    """When the last task is done, ``[batches]``."""
    return np.asarray(np.max(list(finish_times(tasks).values()), axis=0))


def two_batch_layers(
    layers: int, attention: Array, dispatch: Array, experts: Array, combine: Array
) -> Iterator[Task]:
    """Two half batches taking turns: one computes while the other's tokens travel (two-batch overlap).

    Parameters
    ----------
    layers
        MoE layers in a row.
    attention, dispatch, experts, combine
        Seconds of one layer for one half batch, ``[batches]``.
    """
    for layer in range(layers):
        for half in "ab":
            before = (f"combine{layer - 1}{half}",) if layer else ()
            yield Task(f"attention{layer}{half}", "compute", attention, before)
            yield Task(f"dispatch{layer}{half}", "network", dispatch, (f"attention{layer}{half}",))
        for half in "ab":
            yield Task(f"experts{layer}{half}", "compute", experts, (f"dispatch{layer}{half}",))
            yield Task(f"combine{layer}{half}", "network", combine, (f"experts{layer}{half}",))
