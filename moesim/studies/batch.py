"""Result files: Parquet with a checksum over every byte, written whole and to the disk or not at all."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from moesim.errors import MoesimError
from moesim.files import atomic_write
from moesim.studies.rows import TEXTS

SUFFIX = ".parquet"
_CHECKSUM = b"moesim.sha256"
#: What stands in the file where its checksum comes, while that is computed.
_BLANK = b"0" * 64
#: Columns of every result file; the others are values of the result.
_COLUMNS = {
    "key": pa.string(),
    "kind": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "identity": pa.string(),
    "seconds": pa.float64(),
    "finished_s": pa.float64(),
}


class CorruptFileError(MoesimError):
    """A result file is not what was written."""


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Results as a table: `_COLUMNS`, then the values that any of them has."""
    names = sorted({name for row in rows for name in row["values"]})
    columns = {name: [row[name] for row in rows] for name in _COLUMNS}
    columns |= {name: [row["values"].get(name) for row in rows] for name in names}
    types = _COLUMNS | {name: pa.string() if name in TEXTS else pa.float64() for name in names}
    return pa.table({name: pa.array(columns[name], types[name]) for name in types})


def sealed(table: pa.Table) -> bytes:
    """A Parquet file that holds the SHA-256 of all its bytes, the digest itself taken as zeros."""
    sink = io.BytesIO()
    # Statistics would repeat values outside the pages, and the Arrow schema the metadata in base 64.
    with pq.ParquetWriter(sink, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_CHECKSUM: _BLANK})
    data = sink.getvalue()
    place = _place(data)
    return data[:place] + hashlib.sha256(data).hexdigest().encode() + data[place + len(_BLANK) :]


def write_batch(table: pa.Table, folder: Path) -> Path:
    """Write a result file named after what it holds; once this returns, it outlives a loss of power."""
    data = sealed(table)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:24]}{SUFFIX}"
    with atomic_write(path, "wb") as opened:
        stream = cast("io.BufferedWriter", opened)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    _sync_folder(folder)
    return path


def read_batch(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The results in a file, all columns or those named that it has.

    Raises
    ------
    CorruptFileError
        If a single bit is not as it was written: the file is not parsed then.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptFileError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    place = _place(data)
    blank = data[:place] + _BLANK + data[place + len(_BLANK) :]
    if place < 0 or hashlib.sha256(blank).hexdigest().encode() != data[place : place + len(_BLANK)]:
        raise CorruptFileError(f"its checksum is wrong ({len(data):,} bytes)")
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        if columns is None:
            return file.read()
        return file.read(columns=[name for name in columns if name in file.schema_arrow.names])


def _place(data: bytes) -> int:
    """Where the checksum stands, the last place behind its name; -1 if nowhere."""
    name = data.rfind(_CHECKSUM)
    # Thrift's compact protocol: the name, a type, the length, the value.
    place = name + len(_CHECKSUM) + 2
    return place if name >= 0 and place + len(_BLANK) <= len(data) else -1


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a loss of power, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
