"""A plan as plain values: for JSON, for tables of rows, for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.files import atomic_write
from moesim.hardware import Hardware
from moesim.layout import Disaggregated, Parallelism
from moesim.planning.prices import CURRENCY, usd_per_million
from moesim.planning.sensitivity import Sensitivity
from moesim.planning.types import Assessment, PlanResult, Refusal, Slo, Traffic

#: Endings that `write_rows` knows.
TABLES = (".csv", ".parquet")


def document_of(
    result: PlanResult,
    traffic: Traffic,
    slo: Slo,
    hardware: Sequence[Hardware],
    sensitivities: Sequence[Sensitivity] = (),
) -> dict[str, Any]:
    """The whole answer."""
    return {
        "feasible": True,
        "slo": slo_of(slo),
        "traffic": traffic_of(traffic),
        "currency": CURRENCY,
        "prices": [price_of(h) for h in hardware],
        "minimised": "devices" if result.best.usd_per_hour is None else "usd_per_hour",
        "plan": assessment_of(result.best) | {"predicted": predicted(result, result.best)},
        "pareto": [assessment_of(a) for a in result.pareto],
        "confirmed": [assessment_of(a) for a in result.confirmed],
        "refuted": [assessment_of(a) for a in result.refuted],
        "ranked": [assessment_of(a) for a in result.ranked],
        "refused": [refusal_of(r) for r in result.refused],
        "searched": dict(result.searched),
        "seconds": dict(result.seconds),
        "sensitivities": [s.to_dict() for s in sensitivities],
    }


def predicted(result: PlanResult, found: Assessment) -> dict[str, float]:
    """What the steady state said of a candidate that was simulated since; empty where it is not kept.

    The simulator may have settled for another number of replicas; ``replicas`` is what this is for.
    """
    one = found.candidate
    for ranked in result.ranked:
        other = ranked.candidate
        alike = (
            one.model is other.model,
            one.hardware.name == other.hardware.name,
            one.layout == other.layout,
        )
        if all(alike) and (one.engine, one.redundant) == (other.engine, other.redundant):
            return {**ranked.metrics, "replicas": float(other.replicas)}
    return {}


def slo_of(slo: Slo) -> dict[str, Any]:
    """A promise."""
    return {"name": slo.name or None, "attainment": slo.attainment, **dict(slo.limits)}


def traffic_of(traffic: Traffic) -> dict[str, Any]:
    """Requests, in short."""
    requests = traffic.requests
    return {
        "request_rate": traffic.request_rate,
        "requests": len(requests),
        "source": requests.source or None,
        "input_tokens": _spread(requests.input_tokens),
        "output_tokens": _spread(requests.output_tokens),
    }


def price_of(hardware: Hardware) -> dict[str, Any]:
    """Price of a device, with its date."""
    price = hardware.device.price
    return {
        "hardware": hardware.name,
        "usd_per_device_hour": None if price is None else price.usd_per_hour,
        "vendor": None if price is None else price.vendor,
        "date": (price.date or None) if price is not None else None,
    }


def assessment_of(found: Assessment) -> dict[str, Any]:
    """What is known of a candidate."""
    candidate, engine = found.candidate, found.candidate.engine
    throughput = found.metrics.get("output_throughput")
    usd = found.usd_per_hour
    return {
        "status": found.status,
        "reason": found.reason or None,
        "model": candidate.model.name,
        "hardware": candidate.hardware.name,
        "devices": candidate.devices,
        "nodes": -(-candidate.devices // candidate.hardware.devices_per_node),
        "replicas": candidate.replicas,
        "devices_per_replica": candidate.layout.world,
        "layout": layout_of(candidate.layout),
        "backend": engine.backend,
        "dtype": engine.dtype,
        "kv_cache_dtype": engine.kv_cache_dtype,
        "max_num_batched_tokens": engine.chunk_tokens,
        "max_num_seqs": engine.max_sequences,
        "redundant": candidate.redundant,
        "usd_per_hour": usd,
        "usd_per_million_output_tokens": usd_per_million(usd, throughput) if usd and throughput else None,
        "metrics": dict(found.metrics),
        "interval": {name: list(span) for name, span in found.interval.items()},
    }


def layout_of(layout: Parallelism | Disaggregated) -> dict[str, Any]:
    """Degrees, of one kind of worker or two."""
    if isinstance(layout, Parallelism):
        return {"tp": layout.tp, "pp": layout.pp, "dp": layout.dp, "ep": layout.ep}
    return {
        role: {"workers": pool.count, **layout_of(pool.layout)}
        for role, pool in (("prefill", layout.prefill), ("decode", layout.decode))
    }


def refusal_of(refusal: Refusal) -> dict[str, Any]:
    """Why some fail."""
    return {
        "status": refusal.status,
        "what": refusal.what,
        "count": refusal.count,
        "nearest": assessment_of(refusal.nearest),
        "examples": [assessment_of(a) for a in refusal.examples],
    }


def rows_of(result: PlanResult) -> list[dict[str, Any]]:
    """One flat row per candidate, the best first; of those that fail, examples."""
    seen: set[int] = set()
    found = []
    groups: Iterable[Sequence[Assessment]] = (
        result.confirmed,
        result.ranked,
        result.refuted,
        *([r.nearest, *r.examples] for r in result.refused),
    )
    for group in groups:
        for one in group:
            if id(one.candidate) not in seen:
                seen.add(id(one.candidate))
                found.append(_flat(assessment_of(one)))
    return found


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV or Parquet, by the name's ending.

    Raises
    ------
    ConfigError
        If the ending is neither, or the file cannot be written.
    """
    faults = table_faults(path)
    if faults:
        raise ConfigError(faults)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(path) as stream:
            cast("IO[str]", stream).write(text.getvalue())
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    with atomic_write(path, "wb") as stream:
        pq.write_table(table, stream, compression="zstd")


def table_faults(path: Path, option: str = "--out") -> list[Fault]:
    """What is wrong with the name of a table."""
    if path.suffix in TABLES:
        return []
    return [Fault("has no known ending", option, str(path), " or ".join(TABLES))]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            # Metrics have names of their own; degrees and intervals say whose they are.
            found |= _flat(value, prefix if name == "metrics" else f"{prefix}{name}_")
        elif isinstance(value, list):
            found |= {f"{prefix}{name}_{end}": part for end, part in zip(("low", "high"), value, strict=True)}
        else:
            found[prefix + name] = value
    return found


def _spread(tokens: Any) -> dict[str, float]:  # noqa: ANN401 - any array
    p50, p99 = np.percentile(tokens, [50, 99])
    return {
        "mean": float(np.mean(tokens)),
        "p50": float(p50),
        "p99": float(p99),
        "max": float(np.max(tokens)),
    }
