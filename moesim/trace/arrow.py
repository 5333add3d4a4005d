"""What the canonical Parquet files share: types, opening, and numpy views of list columns."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from moesim.errors import Fault, TraceError
from moesim.trace.limits import size_fault
from moesim.trace.parquet_footer import column_values, page_fault
from moesim.trace.peek import Peek
from moesim.trace.schema import PREFIX, Header, parse_header

Array = npt.NDArray[Any]
_MAX_ROW_GROUP_BYTES = 2 * 2**30
_SHOWN = 5
#: What pyarrow raises about a damaged file; ValueError is mostly names that are no UTF-8.
BROKEN_PARQUET = (pa.ArrowException, OSError, ValueError, LookupError, MemoryError)
_THRIFT_LIMIT = 64 * 2**20


def fixed_list(name: str, value: pa.DataType, size: int) -> pa.Field:
    """A column of lists of `size` values, none of them null."""
    return pa.field(name, pa.list_(pa.field("item", value, nullable=False), size), nullable=False)


def arrow_metadata(header: Header) -> dict[str, str]:
    """The header as key-value metadata of a file."""
    return {PREFIX + name: value for name, value in header.fields().items()}


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file for bounded, single-threaded reading; its data is not read yet.

    Raises
    ------
    TraceError
        If it is no readable Parquet file, or one of its row groups would unpack to too much.
    """
    peek = Peek(path)
    if not peek.head.startswith(b"PAR1"):
        raise TraceError(Fault("is no Parquet file"), path)
    try:
        file = pq.ParquetFile(
            path,
            buffer_size=1 << 20,
            pre_buffer=False,
            thrift_string_size_limit=_THRIFT_LIMIT,
            thrift_container_size_limit=1_000_000,
        )
    except BROKEN_PARQUET as error:
        raise damaged(error, path) from None
    faults = []
    for i in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(i)
        fault = size_fault(group.total_byte_size, f"row group {i}", _MAX_ROW_GROUP_BYTES)
        if fault is None and (group.num_rows < 0 or group.total_byte_size < 0):
            fault = Fault("has a negative size", f"row group {i}")
        if fault:
            faults.append(fault)
    if sum(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)) != (
        file.metadata.num_rows
    ):
        faults.append(Fault("row groups do not add up to the file's rows"))
    if faults:
        file.close()
        raise TraceError(faults, path)
    return file


def check_pages(path: Path, names: Collection[str]) -> None:
    """Look at the pages of some columns before they are read.

    Raises
    ------
    TraceError
        If one claims to be larger than it can be: what reads it would believe it, and allocate that much.
    """
    fault = page_fault(path, names)
    if fault:
        raise TraceError(fault, path)


def read_header(file: pq.ParquetFile, path: Path) -> Header:
    """The canonical header of an open file."""
    stored = file.schema_arrow.metadata or {}
    try:
        fields = {
            k.decode().removeprefix(PREFIX): v.decode() for k, v in stored.items() if k.startswith(b"moesim.")
        }
    except UnicodeDecodeError:
        raise TraceError(Fault("has metadata that is no text"), path) from None
    return parse_header(fields, path)


def list_faults(file: pq.ParquetFile, name: str, sizes: int, values: tuple[pa.DataType, ...]) -> list[Fault]:
    """What keeps a column from being lists of `sizes` values each, judged from the metadata alone."""
    schema = file.schema_arrow
    allowed = f"lists of {sizes} {' or '.join(map(str, values))}"
    if schema.names.count(name) != 1:
        return [Fault("is missing" if name not in schema.names else "is there twice", name, allowed=allowed)]
    kind = schema.field(name).type
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
    if not is_list or kind.value_type not in values:
        return [Fault("has the wrong type", name, str(kind), allowed)]
    if pa.types.is_fixed_size_list(kind) and kind.list_size != sizes:
        return [Fault(f"has lists of {kind.list_size}", name, allowed=allowed)]
    return []


def length_faults(path: Path, size: int, names: tuple[str, ...] = ()) -> list[Fault]:
    """Row groups whose list columns (those named, or all) do not hold `size` values per row, unread as yet.

    A few bytes can stand for any number of equal values, so that the size of the file says nothing.
    """
    faults = []
    for i, (rows, columns) in enumerate(column_values(path)):
        for name, values in columns:
            if "." in name and (not names or name.split(".")[0] in names) and values != rows * size:
                what = f"has {values} values in {rows} rows"
                faults.append(
                    Fault(what, f"{name.split('.')[0]} in row group {i}", allowed=f"{size} per row")
                )
    return faults[:_SHOWN]


def scalar_fault(schema: pa.Schema, name: str, kind: pa.DataType) -> Fault | None:
    """What keeps a column from being of a plain type."""
    if schema.names.count(name) != 1:
        return Fault("is missing" if name not in schema.names else "is there twice", name, allowed=str(kind))
    if schema.field(name).type != kind:
        return Fault("has the wrong type", name, str(schema.field(name).type), str(kind))
    return None


def matrix(column: pa.Array, size: int, name: str) -> Array:
    """A list column as ``[rows, size]``.

    Raises
    ------
    TraceError
        If a row is null, holds a null, or has another length.
    """
    if column.null_count:
        raise TraceError(Fault(f"has {column.null_count} null rows", name))
    if not pa.types.is_fixed_size_list(column.type):
        lengths = np.diff(column.offsets.to_numpy())
        if (lengths != size).any():
            wrong = int(lengths[lengths != size][0])
            raise TraceError(Fault(f"has a list of {wrong}", name, allowed=f"lists of {size}"))
    return vector(column.flatten(), name).reshape(len(column), size)


def vector(column: pa.Array, name: str) -> Array:
    """A plain column as a numpy array."""
    if column.null_count:
        raise TraceError(Fault(f"has {column.null_count} nulls", name))
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def lists(array: Array) -> pa.FixedSizeListArray:
    """A ``[rows, size]`` array as a column of lists."""
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    field = pa.field("item", flat.type, nullable=False)
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(field, array.shape[1]))


def damaged(error: Exception, path: object) -> TraceError:
    """The error of a file that pyarrow cannot read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return TraceError(Fault(f"is no readable Parquet file, or is truncated: {text[:200]}"), path)
