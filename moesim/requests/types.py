"""The value this room is about: when requests arrive, and how many tokens each brings and asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault

#: The most tokens one request may have, in or out.
MAX_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class RequestTrace:
    """Requests in the order in which they arrive; made by `request_trace`.

    Parameters
    ----------
    arrival_s
        Seconds since the trace began, rising, float64 ``[requests]``.
    input_tokens, output_tokens
        Prompt and generated tokens, at least 1, int32 ``[requests]``.
    session
        Conversation each request is part of, int32 ``[requests]``, or None.
    prefix_hashes, prefix_ptr
        Names of the blocks of each prompt: those of request i are ``prefix_hashes[prefix_ptr[i]:
        prefix_ptr[i + 1]]``, int64 ``[blocks]`` and ``[requests + 1]``, or None. Two prompts that begin
        with the same names begin with the same tokens.
    prefix_block_tokens
        Tokens of one such block.
    concurrency
        The most requests served at once; the others wait, and each that ends lets one in. None for no limit.
        A closed loop is this with all arrivals at 0.
    source, licence, warnings, metadata
        Where the trace comes from, and what its reader had to assume or drop.
    """

    arrival_s: npt.NDArray[np.float64]
    input_tokens: npt.NDArray[np.int32]
    output_tokens: npt.NDArray[np.int32]
    session: npt.NDArray[np.int32] | None = None
    prefix_hashes: npt.NDArray[np.int64] | None = None
    prefix_ptr: npt.NDArray[np.int64] | None = None
    prefix_block_tokens: int | None = None
    concurrency: int | None = None
    source: str = ""
    licence: str = ""
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.arrival_s)

    def hashes_of(self, request: int) -> npt.NDArray[np.int64]:
        """Names of the blocks of one prompt, int64 ``[blocks]``; empty if none are known."""
        if self.prefix_hashes is None or self.prefix_ptr is None:
            return np.zeros(0, np.int64)
        return self.prefix_hashes[self.prefix_ptr[request] : self.prefix_ptr[request + 1]]

    def head(self, requests: int) -> RequestTrace:
        """The first `requests` requests."""
        return take(self, np.arange(min(requests, len(self))))


def request_trace(
    arrival_s: npt.ArrayLike,
    input_tokens: npt.ArrayLike,
    output_tokens: npt.ArrayLike,
    *,
    session: npt.ArrayLike | None = None,
    prefix_hashes: npt.ArrayLike | None = None,
    prefix_ptr: npt.ArrayLike | None = None,
    prefix_block_tokens: int | None = None,
    concurrency: int | None = None,
    source: str = "",
    licence: str = "",
    warnings: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
) -> RequestTrace:
    """Check the parts of a trace and sort its requests by arrival; a tie keeps its order.

    Parameters
    ----------
    arrival_s, input_tokens, output_tokens, session, prefix_hashes, prefix_ptr
        As in `RequestTrace`, in any order of arrival.
    prefix_block_tokens, concurrency, source, licence, warnings, metadata
        As in `RequestTrace`.

    Raises
    ------
    ConfigError
        Naming every array whose shape, type or values are wrong.

    Examples
    --------
    >>> trace = request_trace([2.0, 0.5], [100, 200], [10, 20])
    >>> trace.arrival_s.tolist(), trace.input_tokens.tolist()
    ([0.5, 2.0], [200, 100])
    """
    arrival = np.asarray(arrival_s)
    n = len(arrival) if arrival.ndim == 1 else -1
    faults = _time_faults(arrival)
    columns = {"input_tokens": np.asarray(input_tokens), "output_tokens": np.asarray(output_tokens)}
    if session is not None:
        columns["session"] = np.asarray(session)
    for name, column in columns.items():
        faults += _whole_faults(name, column, n, 0 if name == "session" else 1)
    blocks = None
    if prefix_hashes is not None or prefix_ptr is not None:
        blocks = (np.asarray(prefix_hashes), np.asarray(prefix_ptr))
        faults += _prefix_faults(*blocks, n, prefix_block_tokens)
    if concurrency is not None and concurrency < 1:
        faults.append(Fault("must be at least 1", "concurrency", concurrency))
    if faults:
        raise ConfigError(faults, source)
    trace = RequestTrace(
        arrival_s=arrival.astype(np.float64),
        input_tokens=columns["input_tokens"].astype(np.int32),
        output_tokens=columns["output_tokens"].astype(np.int32),
        session=columns["session"].astype(np.int32) if "session" in columns else None,
        prefix_hashes=blocks[0].astype(np.int64) if blocks else None,
        prefix_ptr=blocks[1].astype(np.int64) if blocks else None,
        prefix_block_tokens=prefix_block_tokens if blocks else None,
        concurrency=concurrency,
        source=source,
        licence=licence,
        warnings=warnings,
        metadata=dict(metadata or {}),
    )
    if (np.diff(trace.arrival_s) >= 0).all():
        return trace
    return take(trace, np.argsort(trace.arrival_s, kind="stable"))


def take(trace: RequestTrace, chosen: npt.NDArray[np.int64]) -> RequestTrace:
    """The requests at the given places, in that order; their arrivals must rise."""
    hashes, ptr = trace.prefix_hashes, trace.prefix_ptr
    if hashes is not None and ptr is not None:
        lengths = np.diff(ptr)[chosen]
        new = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        # Entry j of the new list is entry j - new[i] of the old list of the request i it belongs to.
        hashes = hashes[np.arange(new[-1]) + np.repeat(ptr[chosen] - new[:-1], lengths)]
        ptr = new
    return replace(
        trace,
        arrival_s=trace.arrival_s[chosen],
        input_tokens=trace.input_tokens[chosen],
        output_tokens=trace.output_tokens[chosen],
        session=None if trace.session is None else trace.session[chosen],
        prefix_hashes=hashes,
        prefix_ptr=ptr,
    )


def _time_faults(arrival: npt.NDArray[Any]) -> list[Fault]:
    if arrival.ndim != 1 or arrival.dtype.kind not in "iuf" or len(arrival) == 0:
        what = f"is {arrival.dtype} {list(arrival.shape)}"
        return [Fault(what, "arrival_s", allowed="real numbers [requests], at least one")]
    wrong = ~np.isfinite(arrival) | (arrival < 0)
    if wrong.any():
        return [Fault("is no time", "arrival_s", float(arrival[wrong][0]), "finite seconds of at least 0")]
    return []


def _whole_faults(name: str, column: npt.NDArray[Any], n: int, low: int) -> list[Fault]:
    if column.ndim != 1 or column.dtype.kind not in "iu" or (n >= 0 and len(column) != n):
        what = f"is {column.dtype} {list(column.shape)}"
        return [Fault(what, name, allowed=f"whole numbers [{max(n, 0)}]")]
    if len(column) and not (column.min() >= low and column.max() <= MAX_TOKENS):
        worst = column.min() if column.min() < low else column.max()
        return [Fault("is out of range", name, int(worst), f"{low} to {MAX_TOKENS}")]
    return []


def _prefix_faults(
    hashes: npt.NDArray[Any], ptr: npt.NDArray[Any], n: int, block_tokens: int | None
) -> list[Fault]:
    faults = []
    if hashes.ndim != 1 or ptr.ndim != 1 or (len(hashes) and hashes.dtype.kind not in "iu"):
        return [Fault("must be whole numbers, both or neither", "prefix_hashes, prefix_ptr")]
    good = ptr.dtype.kind in "iu" and len(ptr) == n + 1 and ptr[0] == 0 and ptr[-1] == len(hashes)
    if not good or (np.diff(ptr.astype(np.int64)) < 0).any():
        faults.append(Fault("do not divide prefix_hashes among the requests", "prefix_ptr"))
    if block_tokens is None or block_tokens < 1:
        faults.append(Fault("must be at least 1 where there are hashes", "prefix_block_tokens", block_tokens))
    return faults
