"""Read requests from any known format, and write them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from moesim.errors import ConfigError, Fault, TraceError
from moesim.files import atomic_write
from moesim.requests.readers import find_reader
from moesim.requests.readers.mooncake import BLOCK_TOKENS
from moesim.requests.readers.sharegpt import read_sharegpt
from moesim.requests.rows import UNSORTED
from moesim.requests.source import Source
from moesim.requests.types import RequestTrace

#: Formats of recorded traffic, which is in order of arrival.
_TRACES = ("azure", "mooncake", "burstgpt", "parquet")
#: Formats that can be written, and the file suffixes that stand for them.
FORMATS = {"parquet": ".parquet", "mooncake": ".jsonl"}


def load_requests(
    path: str | os.PathLike[str],
    *,
    count_tokens: Callable[[str], int] | None = None,
    ordered: bool = False,
) -> RequestTrace:
    """Read requests from any known format, told by content.

    Parameters
    ----------
    path
        The file.
    count_tokens
        Tokens of a text, for formats that hold text (ShareGPT); None to estimate them.
    ordered
        Refuse a trace (Azure's, Mooncake's, BurstGPT's, Parquet) whose requests are not in order of arrival:
        it is damaged, or its times are not what they seem. Logs of benchmarks are in any order.

    Returns
    -------
    RequestTrace
        What was assumed or left out is in its `warnings`.

    Raises
    ------
    TraceError
        If the file cannot be read, is in no known format, or is damaged; every fault is named with its line.
    """
    source = Source(path)
    reader = find_reader(source)
    if reader.name == "sharegpt":
        return read_sharegpt(source, count_tokens)
    trace = reader.read(source)
    if ordered and reader.name in _TRACES and UNSORTED in trace.warnings:
        way = "rising times; to sort them: moesim requests convert FILE SORTED.parquet"
        raise TraceError(Fault("requests are not in order of arrival", allowed=way), source.path)
    return trace


def format_of(path: str | os.PathLike[str], to: str | None = None) -> str:
    """The format to write: `to`, or what the suffix of `path` says.

    Raises
    ------
    ConfigError
        If neither names one.

    Examples
    --------
    >>> format_of("requests.jsonl"), format_of("requests", "parquet")
    ('mooncake', 'parquet')
    """
    suffix = Path(path).suffix.lower()
    found = to if to is not None else next((f for f, s in FORMATS.items() if s == suffix), None)
    if found in FORMATS:
        return str(found)
    if to is not None:
        raise ConfigError(Fault("is no format to write", "--to", to, ", ".join(FORMATS)))
    allowed = ", ".join(FORMATS.values()) + ", or --to"
    raise ConfigError(Fault("has a suffix of no format", "OUT", str(path), allowed))


def write_requests(
    trace: RequestTrace, path: str | os.PathLike[str], to: str | None = None
) -> tuple[str, ...]:
    """Write requests; the file appears whole or not at all.

    Parameters
    ----------
    trace
        The requests.
    path
        The file to write.
    to
        ``parquet``, which holds everything, or ``mooncake``; None to go by the suffix of `path`.

    Returns
    -------
    tuple of str
        What the format does not hold.

    Raises
    ------
    ConfigError
        If the format is unknown or the path cannot be written.
    """
    if format_of(path, to) == "parquet":
        from moesim.requests.parquet import write_parquet

        write_parquet(trace, path)
        return ()
    # Blocks of another size cannot be named as blocks of 512 tokens.
    hashes = trace.prefix_hashes is not None and trace.prefix_block_tokens == BLOCK_TOKENS
    with atomic_write(path) as stream:
        text = cast("IO[str]", stream)
        for i in range(len(trace)):
            text.write(json.dumps(_mooncake(trace, i, hashes)) + "\n")
    lost = {
        "prefix hashes of blocks that are not 512 tokens": trace.prefix_hashes is not None and not hashes,
        "the closed loop": trace.concurrency is not None,
        "source and licence": bool(trace.licence),
    }
    return tuple(name for name, is_lost in lost.items() if is_lost)


def _mooncake(trace: RequestTrace, i: int, hashes: bool) -> dict[str, Any]:
    milliseconds = round(float(trace.arrival_s[i]) * 1e3, 6)  # to a nanosecond
    line: dict[str, Any] = {
        "timestamp": int(milliseconds) if milliseconds.is_integer() else milliseconds,
        "input_length": int(trace.input_tokens[i]),
        "output_length": int(trace.output_tokens[i]),
    }
    if hashes:
        line["hash_ids"] = trace.hashes_of(i).tolist()
    if trace.session is not None:
        line["session_id"] = str(trace.session[i])
    return line
