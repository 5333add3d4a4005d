"""Everything that serving runs teach: constants of engines, effects beyond physics, intervals."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from moesim.correction import METRICS, NOVELTY, Calibration, Component, Family, Process
from moesim.correction.calibration import ANONYMOUS, CAMPAIGN, Span
from moesim.engine.traits import Traits
from moesim.errors import ConfigError, Fault
from moesim.learning.effects import AGGREGATED, DISAGGREGATED
from moesim.learning.held_out import Means, Table, TraitsWithout, fit_pair, held_out, sides, table_of
from moesim.learning.spread import (
    HAVE_UNITS,
    bounds_of,
    constant_bounds,
    left_out_scale,
    residuals,
    scale_process,
    spans_of,
)
from moesim.learning.summary import HeldOut, apart, summary
from moesim.learning.traits_fit import Probes, fit_traits, probes_of
from moesim.learning.trust import trust, trusted
from moesim.model import load_model
from moesim.validate import ServingRow, dedupe, group_of
from moesim.validate.groups import Kind
from moesim.validate.physics import physics_of
from moesim.validate.rows import AGG

Array = npt.NDArray[np.float64]
Tell = Callable[[str], None]

LEVEL = 0.9
#: How a group is held out, and how new its configurations are then.
KINDS: Mapping[Kind, str] = {
    "sweep": "layout known",
    "layout": "layout new",
    "system": "system new",
    "model": "model new",
}
#: Fewer rows teach nothing that their noise does not hide.
FEWEST = 20
EFFECTS: Mapping[str, tuple[Component, ...]] = {
    "moe": AGGREGATED,
    "dense": AGGREGATED,
    "disaggregated": DISAGGREGATED,
}


def family_of(row: ServingRow) -> str:
    """``moe``, ``dense`` or ``disaggregated``."""
    if row.mode != AGG:
        return "disaggregated"
    return "moe" if load_model(row.model).moe is not None else "dense"


def calibrate_serving(
    rows: Sequence[ServingRow], *, source: str = "", nested: bool = False, tell: Tell = lambda _: None
) -> tuple[Calibration, dict[str, HeldOut]]:
    """Calibrate to measured rows.

    Parameters
    ----------
    rows
        As `moesim.validate.read_serving` reads them; repeated measurements count once.
    source
        Where they are from, for the provenance.
    nested
        Find strengths and ranges of effects anew for every group that is held out, instead of once from all
        rows: ten times as long, for errors that nothing of the held-out rows has touched.
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
    tell("physics of all runs, constants of engines")
    probes = {name: probes_of(part) for name, part in parts.items()}
    aggregated = [probes[name] for name in ("moe", "dense") if name in probes]
    traits = fit_traits(aggregated)
    without = _without(aggregated)
    families, reports, unnamed = {}, {}, {}
    for name, own in probes.items():
        tell(f"{name}: {len(own.rows)} runs")
        families[name], found = _family(own, traits, without, EFFECTS[name], nested, tell)
        reports[name], unnamed[name] = found[CAMPAIGN], found[ANONYMOUS]
    provenance = {
        "source": source,
        "rows": {name: len(report.table.rows) for name, report in reports.items()},
        "digest": f"{zlib.crc32(repr([(r.id, r.ttft_ms, r.tpot_ms) for r in rows]).encode()):08x}",
        "nested": nested,
        "held_out": {name: summary(report) for name, report in reports.items()},
        "unnamed": {name: summary(report) for name, report in unnamed.items()},
        "apart": {name: apart(report) for name, report in reports.items() if name != "disaggregated"},
    }
    return Calibration(traits, families, LEVEL, provenance), reports


def _without(aggregated: Sequence[Probes]) -> TraitsWithout:
    """Constants of engines from the rows of other groups; each asked for once."""
    known: dict[tuple[Kind, frozenset[str]], Mapping[str, Traits]] = {}

    def traits(kind: Kind, groups: frozenset[str]) -> Mapping[str, Traits]:
        if (kind, groups) not in known:
            known[kind, groups] = fit_traits(aggregated, lambda row: group_of(row, kind) not in groups)
        return known[kind, groups]

    return traits


def _family(
    probes: Probes,
    traits: Mapping[str, Traits],
    without: TraitsWithout,
    effects: Sequence[Component],
    nested: bool,
    tell: Tell,
) -> tuple[Family, dict[str, HeldOut]]:
    table = table_of(probes.rows, physics_of(probes.rows, traits))
    pair = fit_pair(effects, table)
    parameters = None if nested else (pair.tpot.parameters, pair.ttft.parameters)
    means: dict[Kind, dict[str, Means]] = {}
    for kind in KINDS:
        if len(sides(table, kind)) > 1:
            tell(f"  {kind}s held out")
            means[kind] = held_out(effects, probes, kind, without, parameters)
    off = {
        kind: {known: residuals(table, trusted(table, found, kind)) for known, found in by.items()}
        for kind, by in means.items()
    }
    scales = {kind: _units(table, by[CAMPAIGN], kind) for kind, by in off.items()}
    spans = {
        known: by_novelty(
            {kind: spans_of(table, by[known], scales[kind], kind, LEVEL) for kind, by in off.items()}
        )
        for known in (CAMPAIGN, ANONYMOUS)
    }
    every = np.ones(len(table.rows), dtype=bool)
    shares = {
        known: _filled({KINDS[kind]: trust(table, by[known], kind, every) for kind, by in means.items()})
        for known in (CAMPAIGN, ANONYMOUS)
    }
    family = Family(
        pair.tpot.process,
        pair.ttft.process,
        _scale_processes(table, off),
        spans,
        shares,
    )
    return family, {
        known: _report(table, {kind: by[known] for kind, by in off.items()}, scales)
        for known in (CAMPAIGN, ANONYMOUS)
    }


def _units(table: Table, residual: Mapping[str, Array], kind: Kind) -> dict[str, Array]:
    return {metric: left_out_scale(table, residual[metric], kind) for metric in ("tpot", "ttft")}


def _scale_processes(
    table: Table, off: Mapping[Kind, Mapping[str, Mapping[str, Array]]]
) -> dict[str, dict[str, Process]]:
    found: dict[str, dict[str, Process]] = {novelty: {} for novelty in NOVELTY}
    for kind in HAVE_UNITS:
        if kind in off:
            found[KINDS[kind]] = {
                metric: scale_process(table, off[kind]["campaign"][metric]) for metric in ("tpot", "ttft")
            }
    return found


def _filled(shares: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Trust for every novelty; where none could be held out, that of the better known."""
    found: dict[str, tuple[float, float]] = {}
    last = (1.0, 1.0)
    for novelty in KINDS.values():
        last = found[novelty] = shares.get(novelty, last)
    system, model = found[NOVELTY[2]], found[NOVELTY[3]]
    return {**found, NOVELTY[4]: (min(system[0], model[0]), min(system[1], model[1]))}


def by_novelty(by_kind: Mapping[Kind, Mapping[str, Span]]) -> dict[str, dict[str, Span]]:
    """Intervals by how new a configuration is."""
    found: dict[str, dict[str, Span]] = {}
    last: Mapping[str, Span] = {metric: Span(0.0, 0.0, 0.0) for metric in METRICS}
    for kind, novelty in KINDS.items():
        last = by_kind.get(kind, last)
        found[novelty] = dict(last)
    # Neither model nor machine is known: both errors, as if independent.
    system, model = found[NOVELTY[2]], found[NOVELTY[3]]
    found[NOVELTY[4]] = {
        m: Span(
            model[m].strength,
            -float(np.hypot(system[m].low, model[m].low)),
            float(np.hypot(system[m].high, model[m].high)),
        )
        for m in METRICS
    }
    return found


def _report(
    table: Table, off: Mapping[Kind, Mapping[str, Array]], scales: Mapping[Kind, Mapping[str, Array]]
) -> HeldOut:
    return HeldOut(
        table,
        off,
        {
            kind: {m: bounds_of(table, by[m], scales[kind][m], kind, LEVEL) for m in ("tpot", "ttft")}
            for kind, by in off.items()
        },
        {
            kind: {m: constant_bounds(table, by[m], kind, LEVEL) for m in ("tpot", "ttft")}
            for kind, by in off.items()
        },
        LEVEL,
    )
