"""The canonical Parquet; see `moesim.requests.parquet`."""

from __future__ import annotations

from moesim.requests.readers.base import RequestReader
from moesim.requests.source import Source
from moesim.requests.types import RequestTrace


def _sniff(source: Source) -> bool:
    return source.head.startswith(b"PAR1")


def _read(source: Source) -> RequestTrace:
    from moesim.requests.parquet import read_parquet

    return read_parquet(source)


READER = RequestReader("parquet", "moesim's Parquet of requests", _sniff, _read)
