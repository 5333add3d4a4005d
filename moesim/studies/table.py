"""A study's table: one row per configuration in the order of the file, however it was computed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write
from moesim.studies.batch import CorruptFileError, read_batch, sealed
from moesim.studies.grid import flat
from moesim.studies.rows import TEXTS, VALUES
from moesim.studies.spec import columns_of
from moesim.studies.store import BATCHES, results_in

TABLES = "tables"
_TYPES = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string()}
#: Memory that a question may take.
_MEMORY = "4GB"


def study_table(
    kind: str, configurations: Sequence[Mapping[str, Any]], keys: Sequence[str], results: pa.Table
) -> pa.Table:
    """Settings and results of configurations, those without a result left out.

    Parameters
    ----------
    kind
        Of the study.
    configurations, keys
        As the study means them, in its order.
    results
        What is known, one row per key.
    """
    rows = {key: i for i, key in enumerate(results["key"].to_pylist())}
    known = [i for i, key in enumerate(keys) if key in rows]
    columns: dict[str, pa.Array] = {}
    settings = [flat(configurations[i]) for i in known]
    for path, plain in columns_of(kind).items():
        values = [row.get(path) for row in settings]
        if plain == "str":
            values = [value if value is None or isinstance(value, str) else str(value) for value in values]
        columns[path.replace(".", "_")] = pa.array(values, _TYPES[plain])
    found = results.take(pa.array([rows[keys[i]] for i in known], pa.int64()))
    for name in ("status", "reason"):
        columns[name] = found[name].combine_chunks()
    for name in VALUES[kind]:
        type_ = pa.string() if name in TEXTS else pa.float64()
        have = name in found.column_names
        columns[name] = found[name].combine_chunks().cast(type_) if have else pa.nulls(len(known), type_)
    columns["key"] = found["key"].combine_chunks()
    return pa.table(columns)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table; the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as stream:
        cast("io.BufferedWriter", stream).write(sealed(table))


def query(folder: str | Path, sql: str) -> pa.Table:
    """Ask a results folder in SQL.

    Parameters
    ----------
    folder
        Where studies keep their results.
    sql
        One question to DuckDB. Tables: each study by its name (in double quotes if it is no plain word), and
        ``results``, everything that is kept, by key. Nothing outside these can be read or written.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    ConfigError
        If there are no results, or DuckDB does not take the question.
    """
    home = Path(folder)
    if not (home / BATCHES).is_dir():
        raise ConfigError(Fault("holds no results of studies"), home)
    tables = {"results": results_in(home)}
    for path in sorted((home / TABLES).glob("*.parquet")):
        try:
            tables[path.stem] = read_batch(path)
        except CorruptFileError as error:
            warnings.warn(f"{path}: {error}; run the study again to write it anew", stacklevel=2)
    return ask(tables, sql)


def ask(tables: Mapping[str, pa.Table], sql: str) -> pa.Table:
    """Ask tables in SQL; nothing else can be read or written."""
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            found: Any = connection.sql(sql)
            if found is None:
                raise ConfigError(Fault("asks nothing", "--query", sql, "a select"))
            return found.to_arrow_table()
        except duckdb.Error as error:
            raise ConfigError(Fault(f"DuckDB: {error}", "--query")) from None
