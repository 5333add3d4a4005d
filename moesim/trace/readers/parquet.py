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
    from moesim.trace.counts_parquet import read_counts
    from moesim.trace.reader import TraceReader

    if stored_header(peek).kind == LOADS:
        loads = read_counts(peek.path)
        header = fitted(Header.of(loads), hints, peek.path)
        return replace(loads, model=header.model, top_k=header.top_k, warnings=header.warnings)
    with TraceReader(peek.path) as reader:
        reader.header = fitted(reader.header, hints, peek.path)
        return reader.read()


def stored_header(peek: Peek) -> Header:
    """The header of a canonical Parquet file; nothing else of it is read."""
    from moesim.trace.arrow import BROKEN_PARQUET, damaged, open_parquet, read_header

    file = open_parquet(peek.path)
    try:
        return read_header(file, peek.path)
    except BROKEN_PARQUET as error:
        raise damaged(error, peek.path) from None
    finally:
        file.close()


def fitted(header: Header, hints: Hints, path: object) -> Header:
    """A header checked against what the caller knows, with the model named and warnings added."""
    found = Found(
        rows=len(header.moe_layer_ids),
        max_id=header.num_experts - 1,
        top_k=header.top_k,
        num_experts=header.num_experts,
        layer_ids=header.moe_layer_ids,
        model=header.model,
    )
    decided = fit(found, hints, path)
    warnings = (*header.warnings, *decided.warnings)
    return replace(header, model=decided.model, top_k=decided.top_k, warnings=warnings)


READER = Reader("parquet", "canonical Parquet", _sniff, _read)
