"""The requests of a trace: their rows in order, and how many of them are prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.trace.types import PREFILL, RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Rows of a trace by request, in order of each request's first row.

    Parameters
    ----------
    rows
        Rows of the first request in order, then those of the second..., int64 ``[tokens]``.
    first
        Where each request begins in `rows`, int64 ``[requests + 1]``.
    prompt
        Rows with which each request begins that are prefill, int64 ``[requests]``.
    """

    rows: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    prompt: npt.NDArray[np.int64]

    @classmethod
    def of(cls, trace: RoutingTrace) -> Requests:
        """The requests of a trace.

        Examples
        --------
        >>> ids, request = np.zeros((4, 1, 1), np.uint8), np.array([7, 3, 7, 3], np.int32)
        >>> phase = np.array([0, 0, 1, 0], np.int8)
        >>> found = Requests.of(RoutingTrace(ids, request, 1, (0,), np.zeros(4, np.int32), phase))
        >>> found.rows.tolist(), found.first.tolist(), found.prompt.tolist()
        ([0, 2, 1, 3], [0, 2, 4], [1, 2])
        """
        _, seen, number, sizes = np.unique(
            trace.request, return_index=True, return_inverse=True, return_counts=True
        )
        by_appearance = np.argsort(seen)
        rank = np.empty_like(by_appearance)
        rank[by_appearance] = np.arange(len(by_appearance))
        rows = np.argsort(rank[number], kind="stable").astype(np.int64)
        first = np.concatenate(([0], np.cumsum(sizes[by_appearance]))).astype(np.int64)
        decoding = trace.phase[rows] != PREFILL
        # Rows before the first that is decoded: a prefill row after it counts as decoded, one by one.
        place = np.where(decoding, np.arange(len(rows)) - np.repeat(first[:-1], np.diff(first)), len(rows))
        prompt = np.minimum(np.minimum.reduceat(place, first[:-1]), np.diff(first)) if len(rows) else place
        return cls(rows, first, prompt.astype(np.int64))


def require(faults_of: str, least: Mapping[str, tuple[int, int]]) -> None:
    """Raise where a number of a batcher is below its least, all at once.

    Parameters
    ----------
    faults_of
        The batcher, for messages.
    least
        Value and least allowed, by name.
    """
    faults = [
        Fault("is too small", f"{faults_of}.{name}", value, f"at least {low}")
        for name, (value, low) in least.items()
        if value < low
    ]
    if faults:
        raise ConfigError(faults)
