"""The table of a study, as far as a page shows it: what varies, what that does, the best, why others fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.reporting.documents.study import MOST_ROWS, MOST_SETTINGS

if TYPE_CHECKING:
    import pyarrow as pa

F8 = npt.NDArray[np.float64]

MAX_TABLE_ROWS = 2_000_000
MAX_BYTES = 2_000_000_000
#: Metrics that a page keeps of each configuration.
METRICS = (
    "ttft_s",
    "tpot_s",
    "e2el_s",
    "request_throughput",
    "output_throughput",
    "output_throughput_per_device",
    "request_goodput",
    "attainment",
    "devices",
    "cost_usd_per_million_output_tokens",
    "tpot_s_bound",
    *(f"{name}_{end}" for name in ("ttft_s", "tpot_s", "output_throughput") for end in ("lo", "hi")),
)
#: What every table of a study has.
_NEEDED = ("status", "reason", "key")
#: Values of one setting whose effect is told.
_MOST_VALUES = 200
_MOST_REASONS = 20


def is_study(names: list[str]) -> bool:
    """Whether columns are those of a study's table."""
    return all(name in names for name in _NEEDED) and "stage" not in names


def study_of(path: Path) -> dict[str, Any]:
    """The document of a study's table.

    Raises
    ------
    ConfigError
        If it is no such table, or too big.
    """
    import pyarrow as pa

    try:
        return _document(_read(path), path.stem)
    except OSError as error:
        raise ConfigError(Fault(f"cannot be read: {(error.strerror or str(error)).lower()}"), path) from None
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        text = " ".join(str(error).split())[:200]
        raise ConfigError(Fault(f"is no table of a study: {text}"), path) from None


def _document(table: pa.Table, name: str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    status = table["status"].cast(pa.string())
    varied, fixed = _parted(table, table.column_names[: table.column_names.index("status")])
    answered = table.filter(pc.equal(status, "ok"))
    kept = {metric: _numbers(answered, metric) for metric in METRICS if metric in answered.column_names}
    kept = {metric: values for metric, values in kept.items() if np.isfinite(values).any()}
    metric = _metric(kept)
    return {
        "kind": "study",
        "name": name,
        "evaluates": "simulate" if "request_goodput" in table.column_names else "predict",
        "configurations": len(table),
        "statuses": {str(v["values"]): int(v["counts"]) for v in pc.value_counts(status).to_pylist()},
        "reasons": _reasons(table.filter(pc.not_equal(status, "ok"))),
        "fixed": fixed,
        "metric": metric,
        "varied": [_effect(answered, setting, kept[metric]) for setting in varied] if metric in kept else [],
        "rows": [
            {
                "settings": {setting: answered[setting][i].as_py() for setting in varied},
                "values": {
                    metric: float(values[i]) if np.isfinite(values[i]) else None
                    for metric, values in kept.items()
                },
            }
            for i in _rows(answered, kept, metric)
        ],
    }


def _read(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if not is_study(names) or len(set(names)) < len(names):
            raise ValueError(f"has not the columns {', '.join(_NEEDED)} once each")
        meta = file.metadata
        if meta.num_rows > MAX_TABLE_ROWS:
            raise ConfigError(
                Fault("has too many rows", value=meta.num_rows, allowed=f"{MAX_TABLE_ROWS:,}"), path
            )
        if sum(meta.row_group(g).total_byte_size for g in range(meta.num_row_groups)) > MAX_BYTES:
            raise ConfigError(Fault("is too big once unpacked", allowed=f"{MAX_BYTES:,} bytes"), path)
        settings = names[: names.index("status")]
        return file.read(columns=[*settings, "status", "reason", *(n for n in METRICS if n in names)])


def _parted(table: pa.Table, settings: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Settings that vary, and the values of those that do not."""
    import pyarrow.compute as pc

    varied, fixed = [], {}
    for name in settings:
        distinct = pc.count_distinct(table[name], mode="all").as_py()
        if distinct > 1:
            varied.append(name)
        elif distinct == 1 and table[name][0].as_py() is not None:
            fixed[name] = table[name][0].as_py()
    return varied[:MOST_SETTINGS], dict(list(fixed.items())[:100])


def _reasons(table: pa.Table) -> list[dict[str, Any]]:
    """Why rows have no answer, the most frequent first."""
    groups = table.select(["status", "reason"]).group_by(["status", "reason"], use_threads=False)
    counted = groups.aggregate([([], "count_all")]).to_pylist()
    order = sorted(counted, key=lambda row: (-row["count_all"], str(row["status"]), str(row["reason"])))
    return [
        {"count": row["count_all"], "status": str(row["status"]), "reason": str(row["reason"] or "")[:1000]}
        for row in order[:_MOST_REASONS]
    ]


def _numbers(table: pa.Table, name: str) -> F8:
    import pyarrow as pa

    values = table[name].cast(pa.float64()).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _metric(kept: dict[str, F8]) -> str:
    """What configurations are judged by: good requests if some are promised, else tokens."""
    if "request_goodput" in kept:
        return "request_goodput"
    devices = kept.get("devices")
    if devices is not None and len(np.unique(devices[np.isfinite(devices)])) > 1:
        return "output_throughput_per_device"
    return "output_throughput"


def _effect(table: pa.Table, name: str, metric: F8) -> dict[str, Any]:
    """The median of the metric with each value of a setting."""
    encoded = table[name].combine_chunks().dictionary_encode(null_encoding="encode")
    places = encoded.indices.to_numpy()
    values = encoded.dictionary.to_pylist()
    order = sorted(range(len(values)), key=lambda i: _sortable(values[i]))[:_MOST_VALUES]
    found: dict[str, Any] = {"setting": name, "values": [], "medians": [], "counts": []}
    for i in order:
        own = metric[(places == i) & np.isfinite(metric)]
        found["values"].append(
            "not set"
            if values[i] is None
            else f"{values[i]:g}"
            if isinstance(values[i], float)
            else str(values[i])[:200]
        )
        found["medians"].append(float(np.median(own)) if len(own) else None)
        found["counts"].append(len(own))
    return found


def _sortable(value: Any) -> tuple[int, float, str]:  # noqa: ANN401 - any setting
    if value is None:
        return (0, 0.0, "")
    return (1, float(value), "") if isinstance(value, bool | int | float) else (2, 0.0, str(value))


def _rows(table: pa.Table, kept: dict[str, F8], metric: str) -> list[int]:
    """Rows to keep, in order: all, or those that no other beats, the best, and an even choice."""
    from moesim.reporting.figures.plans import front_of

    n = len(table)
    if n <= MOST_ROWS or metric not in kept:
        return list(range(min(n, MOST_ROWS)))
    judged = np.nan_to_num(kept[metric], nan=-np.inf)
    chosen = set(np.argsort(-judged, kind="stable")[:100].tolist())
    tpot = kept.get("tpot_s")
    if tpot is not None:
        both = np.flatnonzero(np.isfinite(tpot) & np.isfinite(kept[metric]))
        front = front_of(tpot[both], kept[metric][both], less_x=True, less_y=False)
        chosen |= {int(both[i]) for i in front[:500]}
    even = np.linspace(0, n - 1, MOST_ROWS - len(chosen)).round().astype(int).tolist()
    return sorted(chosen | set(even))
