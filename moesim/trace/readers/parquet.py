"""The canonical Parquet files, of tokens and of load counts."""

from __future__ import annotations

from dataclasses import replace

from moesim.trace.peek import Peek
from moesim.trace.readers.base import Reader
from moesim.trace.schema import LOADS, Header
from moesim.trace.shape import Found, Hints, fit
from moesim.trace.types import Routing


def _sniff(peek: Peek) -> float:
    # Other Parquet schemas may come; one of their readers can be surer than this.
    return 0.5 if peek.head.startswith(b"PAR1") else 0.0


def _read(peek: Peek, hints: Hints) -> Routing:
    from moesim.trace.arrow import open_parquet, read_header
    from moesim.trace.counts_parquet import read_counts
    from moesim.trace.reader import TraceReader

    file = open_parquet(peek.path)
    try:
        kind = read_header(file, peek.path).kind
    finally:
        file.close()
    if kind == LOADS:
        header, loads = read_counts(peek.path)
        return _named(loads, header, hints, peek)
    with TraceReader(peek.path) as reader:
        _check(reader.header, hints, peek)
        return _named(reader.read(), reader.header, hints, peek)


def _check(header: Header, hints: Hints, peek: Peek) -> tuple[str, tuple[str, ...]]:
    found = Found(
        rows=len(header.moe_layer_ids),
        max_id=header.num_experts - 1,
        top_k=header.top_k,
        num_experts=header.num_experts,
        layer_ids=header.moe_layer_ids,
        model=header.model,
    )
    decided = fit(found, hints, peek.path)
    return decided.model, decided.warnings


def _named(trace: Routing, header: Header, hints: Hints, peek: Peek) -> Routing:
    model, warnings = _check(header, hints, peek)
    return replace(trace, model=model, warnings=(*trace.warnings, *warnings))


READER = Reader("parquet", "canonical Parquet", _sniff, _read)
