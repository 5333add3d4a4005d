"""What there is to say about a trace at a glance; canonical Parquet is streamed, not held."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesim.trace.peek import Peek
from moesim.trace.readers import find_reader
from moesim.trace.readers.parquet import READER as PARQUET
from moesim.trace.readers.parquet import fitted, stored_header
from moesim.trace.schema import ROUTING, Header
from moesim.trace.shape import Candidates, Hints, ShapeLike
from moesim.trace.types import DECODE, LoadCounts, RoutingTrace, count_ids

if TYPE_CHECKING:
    from moesim.trace.reader import TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """A trace at a glance.

    Parameters
    ----------
    header
        What the trace is of; its `warnings` say what was assumed.
    counts
        Selections of each expert, float64 ``[moe_layers, num_experts]``.
    format
        Name of the reader.
    tokens, requests, decode_tokens
        Of a routing trace; None for load counts.
    steps
        Of load counts; None for a routing trace.
    has_weights, has_token_ids
        Whether router weights and token ids are there.
    """

    header: Header
    counts: npt.NDArray[np.float64]
    format: str = ""
    tokens: int | None = None
    requests: int | None = None
    decode_tokens: int | None = None
    steps: int | None = None
    has_weights: bool = False
    has_token_ids: bool = False

    @property
    def max_over_mean(self) -> npt.NDArray[np.float64]:
        """Largest over mean expert load, float64 ``[moe_layers]``; NaN for a layer without load."""
        mean = self.counts.mean(axis=1)
        skew: npt.NDArray[np.float64] = np.full(len(mean), np.nan)
        np.divide(self.counts.max(axis=1), mean, out=skew, where=mean > 0)
        return skew

    @property
    def unused_experts(self) -> npt.NDArray[np.int64]:
        """Experts never chosen, int64 ``[moe_layers]``."""
        return np.asarray((self.counts == 0).sum(axis=1), np.int64)


def summarise(
    path: str | os.PathLike[str],
    *,
    shape: ShapeLike | None = None,
    num_experts: int | None = None,
    candidates: Candidates = (),
    top_k: int | None = None,
) -> Summary:
    """Summarise a trace file; parameters and errors are those of `moesim.trace.load_trace`."""
    hints, peek = Hints.of(shape, num_experts, candidates, top_k), Peek(path)
    reader = find_reader(peek)
    if reader is PARQUET and stored_header(peek).kind == ROUTING:
        from moesim.trace.reader import TraceReader

        with TraceReader(path) as stream:
            header = fitted(stream.header, hints, path)
            return _of_batches(
                header, reader.name, stream.batches(), stream.has_weights, stream.has_token_ids
            )
    trace = reader.read(peek, hints)
    header = Header.of(trace)
    if isinstance(trace, LoadCounts):
        return Summary(header, trace.totals, reader.name, steps=len(trace.counts))
    return _of_batches(
        header, reader.name, [trace], trace.topk_weights is not None, trace.token_id is not None
    )


def _of_batches(
    header: Header,
    name: str,
    batches: Iterable[TokenBatch | RoutingTrace],
    has_weights: bool,
    has_token_ids: bool,
) -> Summary:
    counts = np.zeros((len(header.moe_layer_ids), header.num_experts), np.int64)
    tokens = decode = 0
    requests: set[int] = set()
    for batch in batches:
        counts += count_ids(batch.topk_ids, header.num_experts)
        tokens += len(batch.request)
        decode += int((batch.phase == DECODE).sum())
        requests.update(np.unique(batch.request).tolist())
    return Summary(
        header,
        counts.astype(np.float64),
        name,
        tokens=tokens,
        requests=len(requests),
        decode_tokens=decode,
        has_weights=has_weights,
        has_token_ids=has_token_ids,
    )
