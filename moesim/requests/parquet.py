"""The canonical Parquet of requests.

One row per request, in order of arrival: `arrival_s` float64, `input_tokens` int32, `output_tokens` int32,
optional `session` int32, optional `prefix_hashes` list of int64. The file's metadata hold `moesim.kind`
(``requests``), `moesim.schema_version`, and the other fields of `RequestTrace`, each as JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moesim.errors import ConfigError, Fault, TraceError
from moesim.files import atomic_write
from moesim.requests.rows import UNSORTED
from moesim.requests.source import MAX_REQUESTS, Source
from moesim.requests.types import RequestTrace, request_trace

KIND, SCHEMA_VERSION = "requests", 1
_COLUMNS = {"arrival_s": pa.float64(), "input_tokens": pa.int32(), "output_tokens": pa.int32()}
_SESSION, _HASHES = "session", "prefix_hashes"
_LISTS = (pa.list_(pa.int64()), pa.large_list(pa.int64()))
_ALLOWED = {
    "prefix_block_tokens": (int, type(None)),
    "concurrency": (int, type(None)),
    "source": (str,),
    "licence": (str,),
    "warnings": (list,),
    "metadata": (dict,),
}
_MAX_VALUES = 2**30
_BROKEN = (pa.ArrowException, OSError, ValueError, LookupError, MemoryError)


def write_parquet(trace: RequestTrace, path: str | os.PathLike[str]) -> None:
    """Write requests.

    Raises
    ------
    ConfigError
        If the path cannot be written.
    """
    fields: dict[str, Any] = {name: getattr(trace, name) for name in _ALLOWED}
    header = {"kind": KIND, "schema_version": SCHEMA_VERSION, **fields, "metadata": dict(trace.metadata)}
    arrays = {name: pa.array(getattr(trace, name)) for name in _COLUMNS}
    if trace.session is not None:
        arrays[_SESSION] = pa.array(trace.session)
    if trace.prefix_hashes is not None and trace.prefix_ptr is not None:
        arrays[_HASHES] = pa.LargeListArray.from_arrays(trace.prefix_ptr, trace.prefix_hashes)
    schema = pa.schema(
        [pa.field(name, array.type, nullable=False) for name, array in arrays.items()],
        metadata={f"moesim.{k}": json.dumps(v, sort_keys=True) for k, v in header.items()},
    )
    with atomic_write(path, "wb") as stream:
        pq.write_table(pa.Table.from_arrays(list(arrays.values()), schema=schema), stream, compression="zstd")


def read_parquet(source: Source) -> RequestTrace:
    """Read requests back.

    Raises
    ------
    TraceError
        If it is no such file, naming every column and field that is missing or wrong.
    """
    try:
        with pq.ParquetFile(source.path, pre_buffer=False, thrift_string_size_limit=2**26) as file:
            names = _check(file, source)
            fields = _fields(file, source)
            table = file.read(columns=names, use_threads=False)
    except _BROKEN as error:
        text = " ".join(str(error).split()) or type(error).__name__
        message = f"is no readable Parquet file, or is truncated: {text[:200]}"
        raise TraceError(Fault(message), source.path) from None
    columns = {name: table.column(name).combine_chunks() for name in names}
    nulls = [Fault("has nulls", name) for name, column in columns.items() if column.null_count]
    lists = columns.get(_HASHES)
    if lists is not None and lists.flatten().null_count:
        nulls.append(Fault("has nulls", _HASHES))
    if nulls:
        raise TraceError(nulls, source.path)
    arrays = {name: columns[name].to_numpy() for name in names if name != _HASHES}
    if lists is not None:
        lengths = lists.value_lengths().to_numpy()
        fields["prefix_ptr"] = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        fields[_HASHES] = lists.flatten().to_numpy()
    if (np.diff(arrays["arrival_s"]) < 0).any():
        fields["warnings"] = (*fields.get("warnings", ()), UNSORTED)
    try:
        return request_trace(**arrays, **fields)
    except ConfigError as error:
        raise TraceError(error.faults, source.path) from None


def _check(file: pq.ParquetFile, source: Source) -> list[str]:
    schema, metadata = file.schema_arrow, file.metadata
    wanted = dict(_COLUMNS)
    if _SESSION in schema.names:
        wanted[_SESSION] = pa.int32()
    faults = []
    for name, kind in wanted.items():
        if schema.names.count(name) != 1:
            what = "is there twice" if name in schema.names else "is missing"
            faults.append(Fault(what, name, allowed=str(kind)))
        elif schema.field(name).type != kind:
            faults.append(Fault("has the wrong type", name, str(schema.field(name).type), str(kind)))
    names = list(wanted)
    if _HASHES in schema.names:
        names.append(_HASHES)
        kind = schema.field(_HASHES).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not is_list or kind.value_type != pa.int64() or schema.names.count(_HASHES) != 1:
            faults.append(Fault("has the wrong type", _HASHES, str(kind), str(_LISTS[0])))
    if not 0 < metadata.num_rows <= MAX_REQUESTS:
        faults.append(Fault(f"holds {metadata.num_rows} requests", allowed=f"1 to {MAX_REQUESTS}"))
    elif _HASHES in names and (values := _stored_values(source)) > _MAX_VALUES:
        faults.append(Fault(f"holds {values} values", allowed=f"at most {_MAX_VALUES}"))
    if faults:
        raise TraceError(faults, source.path)
    return names


def _stored_values(source: Source) -> int:
    """Values in all columns, which for lists may be far more than the file has bytes.

    DuckDB counts them, because pyarrow ends the process over some damaged column metadata.
    """
    import duckdb

    query = "select sum(num_values) from parquet_metadata(?)"
    try:
        with duckdb.connect(config={"threads": "1"}) as connection:
            row = connection.execute(query, [_glob_free(source.path)]).fetchone()
    except duckdb.Error as error:
        text = str(error).splitlines()[0][:200]
        raise TraceError(Fault(f"is no readable Parquet file: {text}"), source.path) from None
    return int(row[0] or 0) if row else 0


def _glob_free(path: Path) -> str:
    """A path that DuckDB takes as it stands, not as a pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path))


def _fields(file: pq.ParquetFile, source: Source) -> dict[str, Any]:
    stored = file.schema_arrow.metadata or {}
    found: dict[str, Any] = {}
    faults = []
    for name, kinds in _ALLOWED.items():
        raw = stored.get(f"moesim.{name}".encode())
        if raw is None:
            continue
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            faults.append(Fault("is no JSON", f"moesim.{name}"))
            continue
        if type(value) not in kinds:
            allowed = " or ".join(kind.__name__ for kind in kinds)
            faults.append(Fault("is not what it should be", f"moesim.{name}", str(value)[:40], allowed))
        else:
            found[name] = tuple(map(str, value)) if name == "warnings" else value
    if faults:
        raise TraceError(faults, source.path)
    found["metadata"] = {str(k): str(v) for k, v in found.get("metadata", {}).items()}
    return found
