"""Steps as Parquet: one row per scheduled token, in order.

`step` int32, `start_s` and `seconds` float64 (of the step), `request` and `position` int32, `phase` int8, and
`row` int32, the row of the routing trace. The file's metadata hold `moesim.kind` (``steps``), how the steps
were formed, and what was counted on the way, each as JSON.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moesim.batching.types import Batcher, Steps
from moesim.errors import ConfigError, Fault, TraceError
from moesim.files import atomic_write
from moesim.trace.arrow import BROKEN_PARQUET, damaged, open_parquet, scalar_fault, vector
from moesim.trace.limits import size_fault

KIND, SCHEMA_VERSION = "steps", 1
_ROWS = 1 << 20
_TYPES = {
    "step": pa.int32(),
    "start_s": pa.float64(),
    "seconds": pa.float64(),
    "request": pa.int32(),
    "position": pa.int32(),
    "phase": pa.int8(),
    "row": pa.int32(),
}
_ROW_BYTES = 33


def write_steps(steps: Steps, path: str | os.PathLike[str]) -> None:
    """Write steps; the file appears whole or not at all.

    Raises
    ------
    ConfigError
        If the path cannot be written.
    """
    header: dict[str, Any] = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "requests": steps.requests,
        "batcher": asdict(steps.batcher),
        "warnings": list(steps.warnings),
        "metadata": dict(steps.metadata),
    }
    schema = pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in _TYPES.items()],
        metadata={f"moesim.{name}": json.dumps(value, sort_keys=True) for name, value in header.items()},
    )
    with atomic_write(path, "wb") as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for first in range(0, steps.num_tokens, _ROWS):
            rows = slice(first, min(first + _ROWS, steps.num_tokens))
            of = np.searchsorted(steps.step_ptr, np.arange(rows.start, rows.stop), side="right") - 1
            columns = [of.astype(np.int32), steps.start_s[of], steps.seconds[of]]
            columns += [steps.request[rows], steps.position[rows], steps.phase[rows], steps.row[rows]]
            writer.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], schema=schema))


def read_steps(path: str | os.PathLike[str]) -> Steps:
    """Read steps back.

    Raises
    ------
    TraceError
        If it is no such file, naming every column that is missing or wrong.
    """
    path = Path(path)
    file = open_parquet(path)
    try:
        rows = file.metadata.num_rows
        faults = [f for name, kind in _TYPES.items() if (f := scalar_fault(file.schema_arrow, name, kind))]
        too_large = size_fault(rows * _ROW_BYTES, "the steps")
        faults += [too_large] if too_large else []
        if rows == 0:
            faults.append(Fault("holds no tokens"))
        if faults:
            raise TraceError(faults, path)
        header = _header(file, path)
        table = file.read(columns=list(_TYPES), use_threads=False)
        columns = {name: vector(table.column(name).combine_chunks(), name) for name in _TYPES}
    except BROKEN_PARQUET as error:
        raise damaged(error, path) from None
    finally:
        file.close()
    faults = _faults(columns, header["requests"])
    if faults:
        raise TraceError(faults, path)
    starts = np.flatnonzero(np.r_[True, np.diff(columns["step"]) > 0])
    return Steps(
        step_ptr=np.r_[starts, rows].astype(np.int64),
        start_s=columns["start_s"][starts],
        seconds=columns["seconds"][starts],
        request=columns["request"],
        position=columns["position"],
        phase=columns["phase"],
        row=columns["row"],
        requests=header["requests"],
        batcher=header["batcher"],
        warnings=tuple(map(str, header["warnings"])),
        metadata=header["metadata"],
    )


def _header(file: pq.ParquetFile, path: Path) -> dict[str, Any]:
    stored = file.schema_arrow.metadata or {}
    found: dict[str, Any] = {}
    try:
        for name in ("kind", "requests", "batcher", "warnings", "metadata"):
            found[name] = json.loads(stored.get(f"moesim.{name}".encode(), b"null"))
        found["batcher"] = Batcher(**found["batcher"])
    except (ValueError, TypeError, RecursionError, ConfigError) as error:
        raise TraceError(Fault(f"has metadata of no steps: {str(error)[:200]}"), path) from None
    kinds = {"requests": int, "warnings": list, "metadata": dict}
    wrong = [name for name, kind in kinds.items() if type(found[name]) is not kind]
    if found["kind"] != KIND or wrong:
        raise TraceError(Fault("has metadata of no steps", ", ".join(wrong) or "moesim.kind"), path)
    return found


def _faults(columns: dict[str, Any], requests: int) -> list[Fault]:
    step, faults = columns["step"], []
    if step[0] != 0 or not np.isin(np.diff(step), (0, 1)).all():
        faults.append(Fault("does not count up from 0", "step"))
    for name, high in (("request", requests - 1), ("position", 2**31 - 1), ("phase", 1), ("row", 2**31 - 1)):
        low, top = int(columns[name].min()), int(columns[name].max())
        if low < 0 or top > high:
            faults.append(Fault("is out of range", name, low if low < 0 else top, f"0 to {high}"))
    for name in ("start_s", "seconds"):
        if not np.isfinite(columns[name]).all():
            faults.append(Fault("is not finite", name))
    return faults
