"""Everything that serving runs teach: constants of engines, effects beyond physics, intervals."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.correction import METRICS, NOVELTY, Calibration, Component, Family
from moesim.engine.traits import Traits
from moesim.errors import ConfigError, Fault
from moesim.learning.effects import AGGREGATED, DISAGGREGATED
from moesim.learning.held_out import Table, fit_pair, held_out, sides
from moesim.learning.spread import coverage, left_out_scale, quantile_table, residuals, scale_process
from moesim.learning.traits_fit import fit_traits
from moesim.model import load_model
from moesim.validate import ServingRow, dedupe
from moesim.validate.identity import identity_of
from moesim.validate.physics import physics_of
from moesim.validate.rows import AGG

Array = npt.NDArray[np.float64]
Tell = Callable[[str], None]

LEVEL = 0.9
#: How a group is held out, and how new its configurations are then.
KINDS = {"sweep": "layout known", "layout": "layout new", "system": "system new", "model": "model new"}
#: Fewer rows teach nothing that their noise does not hide.
FEWEST = 20
EFFECTS: Mapping[str, tuple[Component, ...]] = {
    "moe": AGGREGATED,
    "dense": AGGREGATED,
    "disaggregated": DISAGGREGATED,
}


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What held-out predictions of one family were.

    Parameters
    ----------
    table
        The rows.
    predicted
        By kind of split and by whether the campaign was known: TPOT and TTFT, in seconds.
    coverage
        By kind of split and metric, see `moesim.learning.spread.coverage`.
    """

    table: Table
    predicted: Mapping[str, Mapping[str, tuple[Array, Array]]]
    coverage: Mapping[str, Mapping[str, Mapping[str, float]]]


def family_of(row: ServingRow) -> str:
    """``moe``, ``dense`` or ``disaggregated``."""
    if row.mode != AGG:
        return "disaggregated"
    return "moe" if load_model(row.model).moe is not None else "dense"


def table_of(rows: Sequence[ServingRow], traits: Mapping[str, Traits]) -> Table:
    """Measured rows with their physical times; what has none is left out."""
    used = [r for r in rows if r.supported and r.ttft_ms and r.tpot_ms]
    physics = physics_of(used, traits)
    index = np.flatnonzero(physics.predicted)
    physics = physics.part(index)
    chosen = tuple(used[i] for i in index)
    identities = [identity_of(r, d) for r, d in zip(chosen, physics.expert_dtype, strict=True)]
    one = [np.array([[r.isl], [r.osl], [r.concurrency]], dtype=np.float64) for r in chosen]
    return Table(
        chosen,
        tuple(i.labels() for i in identities),
        np.vstack([i.values(*load) for i, load in zip(identities, one, strict=True)]),
        physics,
        np.array([r.tpot_ms for r in chosen], dtype=np.float64) / 1e3,
        np.array([r.ttft_ms for r in chosen], dtype=np.float64) / 1e3,
    )


def calibrate_serving(
    rows: Sequence[ServingRow], *, source: str = "", tell: Tell = lambda _: None
) -> tuple[Calibration, dict[str, HeldOut]]:
    """Calibrate to measured rows.

    Parameters
    ----------
    rows
        As `moesim.validate.read_serving` reads them; repeated measurements count once.
    source
        Where they are from, for the provenance.
    tell
        Told what is going on.

    Returns
    -------
    tuple
        The calibration, and predictions of held-out rows by family.

    Raises
    ------
    ConfigError
        If there are too few measured rows to learn from.
    """
    rows = dedupe(rows)
    parts: dict[str, list[ServingRow]] = {}
    for row in rows:
        if row.supported and row.ttft_ms and row.tpot_ms:
            parts.setdefault(family_of(row), []).append(row)
    parts = {name: part for name, part in sorted(parts.items()) if len(part) >= FEWEST}
    if not parts:
        raise ConfigError(Fault(f"holds fewer than {FEWEST} measured runs of one kind"), source or None)
    tell("constants of engines")
    traits = fit_traits([r for name in ("moe", "dense") for r in parts.get(name, [])])
    families, reports = {}, {}
    for name, part in parts.items():
        tell(f"{name}: {len(part)} runs")
        families[name], reports[name] = _family(table_of(part, traits), EFFECTS[name], tell)
    provenance = {
        "source": source,
        "rows": {name: len(report.table.rows) for name, report in reports.items()},
        "digest": f"{zlib.crc32(repr([(r.id, r.ttft_ms, r.tpot_ms) for r in rows]).encode()):08x}",
        "held_out": {name: summary(report) for name, report in reports.items()},
    }
    return Calibration(traits, families, LEVEL, provenance), reports


def _family(table: Table, effects: Sequence[Component], tell: Tell) -> tuple[Family, HeldOut]:
    pair = fit_pair(effects, table)
    parameters = pair.tpot.parameters, pair.ttft.parameters
    predicted = {}
    for kind in KINDS:
        if len(sides(table, kind)) > 1:
            tell(f"  {kind}s held out")
            predicted[kind] = held_out(effects, table, kind, parameters)
    off = {
        kind: {known: residuals(table, found) for known, found in by.items()}
        for kind, by in predicted.items()
    }
    # Layouts held out tell most about where errors are large: their errors are the units of all others.
    usual = off["layout" if "layout" in off else "sweep"]["campaign"]
    scales = {metric: scale_process(table, usual[metric]) for metric in ("tpot", "ttft")}
    units = {metric: left_out_scale(table, usual[metric]) for metric in ("tpot", "ttft")}
    quantiles = {
        known: by_novelty({kind: quantile_table(by[known], units, LEVEL) for kind, by in off.items()})
        for known in ("campaign", "anonymous")
    }
    held = {kind: coverage(table, kind, by["campaign"], units, LEVEL) for kind, by in off.items()}
    return Family(pair.tpot.process, pair.ttft.process, scales, quantiles), HeldOut(table, predicted, held)


def by_novelty(
    by_kind: Mapping[str, Mapping[str, tuple[float, float]]],
) -> dict[str, dict[str, tuple[float, float]]]:
    """Quantiles by how new a configuration is: never narrower than for one better known."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    widest = dict.fromkeys(METRICS, (0.0, 0.0))
    for kind, novelty in KINDS.items():
        pairs = by_kind.get(kind, {})
        for metric, (low, high) in pairs.items():
            widest[metric] = min(widest[metric][0], low), max(widest[metric][1], high)
        found[novelty] = dict(widest)
    # Neither model nor machine is known: both errors, as if independent.
    system, model = found[NOVELTY[2]], found[NOVELTY[3]]
    found[NOVELTY[4]] = {
        m: (-float(np.hypot(system[m][0], model[m][0])), float(np.hypot(system[m][1], model[m][1])))
        for m in METRICS
    }
    return found


def summary(report: HeldOut) -> dict[str, Any]:
    """Errors of held-out predictions by kind of split, rounded."""
    found: dict[str, Any] = {}
    for kind, by in report.predicted.items():
        tpot, ttft = by["campaign"]
        lines = {}
        for metric, predicted, measured in (
            ("tpot", tpot, report.table.tpot),
            ("ttft", ttft, report.table.ttft),
        ):
            error = np.abs(predicted / measured - 1.0)
            lines[metric] = {
                "median": round(float(np.median(error)), 4),
                "p90": round(float(np.quantile(error, 0.9)), 4),
                **{name: round(v, 4) for name, v in report.coverage[kind][metric].items()},
            }
        found[kind] = lines
    return found
