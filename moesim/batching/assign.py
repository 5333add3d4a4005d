"""Which recorded routing sequence stands for which request."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.batching.kernel import rows_of
from moesim.batching.scheduler import Schedule
from moesim.errors import ConfigError, Fault
from moesim.requests import Arrivals, RequestTrace, parse_arrivals, request_trace
from moesim.trace.types import DECODE, RoutingTrace

WRAP, RESAMPLE = "wrap", "resample"
OVERRUNS = (WRAP, RESAMPLE)


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """The requests recorded in a routing trace.

    Parameters
    ----------
    order
        Rows of the trace, sequence after sequence, prefill before decode, int64 ``[tokens]``.
    parts
        Start and length in `order` of each sequence's prefill rows, then of its decode rows, int64
        ``[sequences, 4]``. A sequence recorded in one phase alone has that one twice: it stands for both.
    """

    order: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, trace: RoutingTrace) -> Sequences:
        """Find the sequences of a trace, in order of their request numbers."""
        order = np.lexsort((trace.phase, trace.request))
        request, phase = trace.request[order], trace.phase[order]
        starts = np.flatnonzero(np.r_[True, request[1:] != request[:-1]])
        lengths = np.diff(np.r_[starts, len(order)])
        decode = np.add.reduceat((phase == DECODE).astype(np.int64), starts)
        prefill = lengths - decode
        parts = np.stack([starts, prefill, starts + prefill, decode], axis=1)
        one = (prefill == 0) | (decode == 0)
        parts[one] = np.stack([starts, lengths, starts, lengths], axis=1)[one]
        return cls(order, parts)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def one_phase(self) -> npt.NDArray[np.bool_]:
        """Which sequences were recorded in one phase alone, ``[sequences]``."""
        return np.asarray(self.parts[:, 0] == self.parts[:, 2])

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """Tokens of each sequence, ``[sequences]``."""
        return np.asarray(np.where(self.one_phase, self.parts[:, 1], self.parts[:, 1] + self.parts[:, 3]))


def nearest_sequences(needed: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Give each request, in order, the sequence of nearest length among those used least so far.

    Parameters
    ----------
    needed
        Tokens of each request, ``[requests]``.
    lengths
        Tokens of each sequence, ``[sequences]``.

    Returns
    -------
    ndarray
        Sequence of each request, ``[requests]``. No sequence is used twice before all are used once.

    Examples
    --------
    >>> nearest_sequences(np.array([10, 9, 50, 1]), np.array([100, 10, 20])).tolist()
    [1, 2, 0, 1]
    """
    by_length = np.argsort(lengths, kind="stable")
    every = list(zip(lengths[by_length].tolist(), by_length.tolist(), strict=True))
    free: list[tuple[int, int]] = []
    chosen = np.empty(len(needed), np.int64)
    for r, wanted in enumerate(needed.tolist()):
        if not free:
            free = every.copy()
        at = bisect_left(free, (wanted, -1))
        if at == len(free) or (at > 0 and wanted - free[at - 1][0] < free[at][0] - wanted):
            at -= 1
        chosen[r] = free.pop(at)[1]
    return chosen


def recorded_requests(
    trace: RoutingTrace, arrivals: Arrivals | str, *, requests: int | None = None, seed: int = 0
) -> tuple[RequestTrace, npt.NDArray[np.int64]]:
    """The trace's own requests, arriving as told.

    Parameters
    ----------
    trace
        The routing trace; its sequences say how long prompts and outputs are. Where no prompt was recorded,
        the first token stands for it; where no decoding was, there is one output token.
    arrivals
        An arrival process, or its spelling: ``poisson:10``.
    requests
        How many; None for each sequence once. More start over from the first.
    seed
        Seed of the arrivals.

    Returns
    -------
    tuple
        The requests, and the sequence of each, int64 ``[requests]``.
    """
    found = Sequences.of(trace)
    parts, one = found.parts, found.one_phase
    count = len(found) if requests is None else requests
    if count < 1:
        raise ConfigError(Fault("must be at least 1", "requests", count))
    only_decode = one & (trace.phase[found.order[parts[:, 0]]] == DECODE)
    prompt = np.where(only_decode, 1, parts[:, 1])
    # One more output token than pass through the model after the prompt.
    output = np.where(one, np.where(only_decode, parts[:, 3], 1), parts[:, 3] + 1)
    sequence = np.arange(count) % len(found)
    process = parse_arrivals(arrivals) if isinstance(arrivals, str) else arrivals
    made = request_trace(
        process.times_s(count, np.random.default_rng(seed)),
        prompt[sequence],
        output[sequence],
        concurrency=process.concurrency,
        source=f"the requests of {trace.source or 'the trace'}, arriving as {process}"[:300],
    )
    return made, sequence


def trace_rows(
    plan: Schedule,
    requests: RequestTrace,
    sequences: Sequences,
    sequence: npt.NDArray[np.int64],
    overrun: str,
    seed: int,
) -> tuple[npt.NDArray[np.int32], int]:
    """Row of the trace of each scheduled token, int32 ``[tokens]``; how many lie beyond a sequence's end."""
    if overrun not in OVERRUNS:
        raise ConfigError(Fault("is no way to go on", "overrun", overrun, ", ".join(OVERRUNS)))
    if not 0 <= seed < 2**63:
        raise ConfigError(Fault("is out of range", "seed", seed, "0 to 2**63 - 1"))
    rows = np.empty(len(plan.request), np.int32)
    beyond = rows_of(
        plan.request,
        plan.position,
        plan.phase,
        requests.input_tokens.astype(np.int64),
        sequence,
        sequences.parts,
        sequences.order,
        overrun == RESAMPLE,
        seed,
        rows,
    )
    return rows, int(beyond)
