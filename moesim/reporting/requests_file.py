"""The table of requests that a simulation writes, read in pieces: quantiles, goodput, what was over time.

The file may come from anywhere. Columns are checked by name and type, rows are counted while they are read,
and nothing but the columns that are needed is held.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.serving.document import SINGLE, chosen_of, distributions
from moesim.serving.outcome import STAGES
from moesim.serving.over_time import requests_over_time
from moesim.serving.statistics import spread_of

F8 = npt.NDArray[np.float64]

#: Requests, and bytes of a file or of its columns once they are unpacked, at most.
MAX_ROWS = 5_000_000
MAX_BYTES = 2_000_000_000
SUFFIXES = (".parquet", ".csv", ".jsonl")
#: Columns that are read; those of `moesim.serving.outcome.Outcome.table`.
COLUMNS = ("sent_s", "scheduled_s", "last_s", "input_tokens", "generated_tokens", *SINGLE)
_ROWS = 65_536
_PIECE = 8_000_000
#: Beyond it a number is no second and no token of any run.
_MOST = 1e12


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Columns of a table of requests, ``[requests]`` each; NaN where something did not happen."""

    columns: Mapping[str, F8]
    done: npt.NDArray[np.bool_]
    lost: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.done)


def read_requests(path: Path) -> Requests:
    """Read the columns that a page needs.

    Parameters
    ----------
    path
        What ``moesim simulate --output`` wrote: ``.parquet``, ``.csv`` or ``.jsonl``.

    Raises
    ------
    ConfigError
        With every fault: unreadable, too big, columns missing or of another type, numbers that are none.
    """
    import pyarrow as pa

    parts: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, "stage")}
    rows = 0
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(Fault("is too big", allowed=f"{MAX_BYTES:,} bytes"), path)
        for batch in _READERS[path.suffix.lower()](path):
            rows += batch.num_rows
            if rows > MAX_ROWS:
                raise ConfigError(Fault("has too many rows", allowed=f"{MAX_ROWS:,}"), path)
            for name in COLUMNS:
                values = batch.column(name).to_numpy(zero_copy_only=False)
                parts[name].append(np.asarray(values, np.float64))
            parts["stage"].append(_stages(batch.column("stage")))
    except OSError as error:
        raise ConfigError(Fault(f"cannot be read: {(error.strerror or str(error)).lower()}"), path) from None
    except (pa.ArrowException, ValueError, TypeError) as error:
        text = " ".join(str(error).split())[:200]
        raise ConfigError(Fault(f"is no table of requests: {text}"), path) from None
    if not rows:
        raise ConfigError(Fault("has no rows"), path)
    columns = {name: np.concatenate(parts.pop(name)) for name in COLUMNS}
    faults = []
    for name, values in columns.items():
        known = values[~np.isnan(values)]
        if len(known) and (not np.abs(known).max() < _MOST or (name in SINGLE and known.min() < -1e-6)):
            faults.append(Fault("holds what is no time or number of a run", name))
    if not np.isfinite(columns["sent_s"]).any():
        faults.append(Fault("says of no request when it was sent", "sent_s"))
    if faults:
        raise ConfigError(faults, path)
    stage = np.concatenate(parts["stage"])
    for name in SINGLE:
        np.maximum(columns[name], 0.0, out=columns[name])
    return Requests(columns, stage == STAGES.index("done"), stage == STAGES.index("lost"))


def fields_of(requests: Requests, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Fields of a simulation's document that its table of requests gives.

    Parameters
    ----------
    document
        What ``moesim simulate --json`` printed of the same run: its window and limits are taken, and what it
        says already is left to it.
    """
    c, done = requests.columns, requests.done
    begin = float(np.nanmin(c["sent_s"]))
    last = c["last_s"][np.isfinite(c["last_s"])]
    end = max(float(last.max()), begin) if len(last) else begin
    chosen = chosen_of(c["sent_s"], document or {})
    limits = (document or {}).get("goodput") or {}
    gone = np.where(done | requests.lost, c["last_s"], np.nan)
    found = {
        "over_time": requests_over_time(c["sent_s"], c["scheduled_s"], gone, begin, end).to_dict(),
        **distributions({name: c[name] for name in SINGLE}, done, chosen, limits),
    }
    if document is not None:
        # The table says nothing of the cache.
        found["over_time"]["kv_share"] = (document.get("over_time") or {}).get("kv_share")
        return found
    seconds = end - begin
    tokens = {name: float(np.nansum(c[name][done])) for name in ("input_tokens", "generated_tokens")}
    rates = {
        "request_throughput": float(done.sum()),
        "output_throughput": tokens["generated_tokens"],
        "total_token_throughput": sum(tokens.values()),
    }
    return found | {
        "requests": len(requests),
        "completed": int(done.sum()),
        "lost": int(requests.lost.sum()),
        "unfinished": int((~done & ~requests.lost).sum()),
        "duration_s": seconds,
        "traffic": {
            "input_tokens": _mean(c["input_tokens"]),
            "output_tokens": _mean(c["generated_tokens"][done]),
        },
        "latency": {name: spread_of(_known(c[name][done])) for name in SINGLE},
        **({name: total / seconds for name, total in rates.items()} if seconds > 0 else {}),
    }


def _known(values: F8) -> F8:
    return values[np.isfinite(values)]


def _mean(values: F8) -> float | None:
    known = _known(values)
    return float(known.mean()) if len(known) else None


def _stages(column: Any) -> npt.NDArray[np.int8]:  # noqa: ANN401 - an arrow array
    """Place of every stage among `STAGES`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    places = pc.index_in(column.cast(pa.string()), value_set=pa.array(STAGES))
    if places.null_count:
        raise ValueError(f"stage is one of {', '.join(STAGES)}")
    return np.asarray(places.to_numpy(zero_copy_only=False), np.int8)


def _schema() -> Any:  # noqa: ANN401 - an arrow schema
    import pyarrow as pa

    return pa.schema([("stage", pa.string()), *((name, pa.float64()) for name in COLUMNS)])


def _require(names: list[str]) -> None:
    if lost := [name for name in ("stage", *COLUMNS) if name not in names]:
        raise ValueError(f"has no column {', '.join(lost)}")
    if twice := sorted({name[:40] for name in names if names.count(name) > 1}):
        raise ValueError(f"has two columns {twice[0]!r}")


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _require(file.schema_arrow.names)
        for name in COLUMNS:
            kind = file.schema_arrow.field(name).type
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                raise ValueError(f"{name} is of type {str(kind)[:40]}, not numbers")
        if not pa.types.is_string(file.schema_arrow.field("stage").type):
            raise ValueError("stage is no text")
        if file.metadata.num_rows > MAX_ROWS:
            raise ConfigError(
                Fault("has too many rows", value=file.metadata.num_rows, allowed=f"{MAX_ROWS:,}"), path
            )
        if _unpacked(file.metadata) > MAX_BYTES:
            raise ConfigError(Fault("is too big once unpacked", allowed=f"{MAX_BYTES:,} bytes"), path)
        yield from file.iter_batches(_ROWS, columns=["stage", *COLUMNS], use_threads=False)


def _unpacked(metadata: Any) -> int:  # noqa: ANN401 - Parquet's
    """Bytes of the columns that are read."""
    wanted = {"stage", *COLUMNS}
    groups = (metadata.row_group(g) for g in range(metadata.num_row_groups))
    columns = (group.column(c) for group in groups for c in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema in wanted)


def _csv(path: Path) -> Iterator[Any]:
    import pyarrow.csv as pc

    with path.open("rb") as stream:
        head = stream.readline(_ROWS).decode("utf-8-sig")
    _require(next(csv.reader(io.StringIO(head)), []))
    schema = _schema()
    options = pc.ConvertOptions(
        column_types={field.name: field.type for field in schema}, include_columns=schema.names
    )
    with pc.open_csv(
        path, read_options=pc.ReadOptions(block_size=_PIECE, use_threads=False), convert_options=options
    ) as reader:
        yield from reader


def _jsonl(path: Path) -> Iterator[Any]:
    import pyarrow.json as pj

    options = pj.ParseOptions(explicit_schema=_schema(), unexpected_field_behavior="ignore")
    with path.open("rb") as stream:
        first = json.loads(stream.readline(_ROWS))
        _require(list(first) if isinstance(first, dict) else [])
        stream.seek(0)
        while piece := stream.read(_PIECE):
            line = stream.readline(_ROWS)
            if len(line) == _ROWS and not line.endswith(b"\n"):
                raise ValueError(f"has a line of more than {_ROWS:,} bytes")
            table = pj.read_json(
                io.BytesIO(piece + line),
                read_options=pj.ReadOptions(use_threads=False, block_size=2 * _PIECE),
                parse_options=options,
            )
            yield from table.to_batches()


_READERS = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}
