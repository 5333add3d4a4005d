"""Every request of a run: Parquet, CSV, or JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any, cast

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write
from moesim.provenance import clean
from moesim.serving.outcome import Outcome

TABLES = (".parquet", ".csv", ".jsonl")
#: Rows that become JSON at once.
_PIECE = 65_536


def write_table(outcome: Outcome, path: str | os.PathLike[str]) -> None:
    """Write the table of requests; the suffix says how: one of `TABLES`.

    Parameters
    ----------
    outcome
        What happened.
    path
        The file to write. Parquet and JSON lines have nulls where CSV has nothing: for what did not happen.

    Raises
    ------
    ConfigError
        If the suffix is of no format, or the path cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in TABLES:
        raise ConfigError(Fault("has a suffix of no table", "--output", str(path), ", ".join(TABLES)))
    columns = outcome.table()
    if suffix == ".jsonl":
        with atomic_write(path) as stream:
            _lines(columns, cast("IO[str]", stream))
        return
    import pyarrow as pa

    table = pa.table({name: pa.array(column, from_pandas=True) for name, column in columns.items()})
    with atomic_write(path, "wb") as stream:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, stream, compression="zstd")
        else:
            import pyarrow.csv as pc

            pc.write_csv(table, stream)


def _lines(columns: dict[str, Any], stream: IO[str]) -> None:
    names = list(columns)
    for start in range(0, len(columns["request"]), _PIECE):
        part = [clean(columns[name][start : start + _PIECE]) for name in names]
        for row in zip(*part, strict=True):
            stream.write(json.dumps(dict(zip(names, row, strict=True))) + "\n")
