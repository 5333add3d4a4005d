"""The formats of requests that moesim reads: one small module each, found by content, never by name."""

from __future__ import annotations

from moesim.errors import Fault, TraceError
from moesim.requests.readers import (
    aiperf,
    azure,
    bench,
    burstgpt,
    llmservingsim,
    mooncake,
    parquet,
    sharegpt,
)
from moesim.requests.readers.base import RequestReader
from moesim.requests.source import Source

READERS = (
    parquet.READER,
    azure.READER,
    burstgpt.READER,
    mooncake.READER,
    llmservingsim.READER,
    aiperf.READER,
    *bench.READERS,
    sharegpt.READER,
)


def find_reader(source: Source) -> RequestReader:
    """The reader that knows a file.

    Raises
    ------
    TraceError
        If none does; the message lists the formats.
    """
    for reader in READERS:
        if reader.sniff(source):
            return reader
    formats = "; ".join(reader.title for reader in READERS)
    what = f"is in no known format of requests (it begins with {source.head[:24]!r})"
    raise TraceError(Fault(what, allowed=formats), source.path)


__all__ = ["READERS", "RequestReader", "find_reader"]
