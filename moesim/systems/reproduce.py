"""Published figures beside ours, and what is said of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import Any

from moesim.errors import ConfigError, TraceError
from moesim.systems.registry import find, rows
from moesim.systems.row import CAUSES, Case, Row
from moesim.systems.sweep import points
from moesim.systems.verdict import BOUND, REPRODUCED, VERDICTS, judge
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A row that was run.

    Parameters
    ----------
    row
        What was run.
    ours
        With the assumptions as taken; None where there is no model.
    swept
        Over the ranges of the assumptions; empty where nothing was swept.
    verdict
        One of `moesim.systems.verdict.VERDICTS`.
    routing
        Whose routing was replayed; empty if none is needed.
    """

    row: Row
    ours: float | None
    swept: tuple[float, ...]
    verdict: str
    routing: str

    @property
    def ratio(self) -> float | None:
        """Ours over published."""
        published = self.row.figure.value
        return None if self.ours is None or not published else self.ours / published

    @property
    def gain_ratio(self) -> float | None:
        """Our gain over the published one, of figures that are gains: what 15 % of a small gain hides."""
        figure = self.row.figure
        if self.ours is None or figure.value is None or figure.neutral is None:
            return None
        gain = figure.value - figure.neutral
        return (self.ours - figure.neutral) / gain if gain else None

    @property
    def steady(self) -> bool:
        """Whether it is reproduced, and was seen to stay so over every plausible value of what is assumed."""
        figure = self.row.figure
        everywhere = (judge(figure.value, at, (), figure.neutral) for at in self.swept)
        known = bool(self.swept) or not self.row.assumed
        return known and self.verdict == REPRODUCED and all(verdict == REPRODUCED for verdict in everywhere)

    @property
    def cause(self) -> str:
        """One of `moesim.systems.row.CAUSES`, empty where it is reproduced.

        A row that names none says it by its verdict: what its source leaves out can take it there, or the
        same thing comes out otherwise; without a model it is our limit.
        """
        if self.verdict == REPRODUCED:
            return ""
        missing, disagreement, limit = CAUSES
        implied = limit if self.ours is None else missing if self.verdict == BOUND else disagreement
        return self.row.cause or implied

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        row, figure = self.row, self.row.figure
        reached = [self.ours, *self.swept] if self.ours is not None and self.swept else []
        return {
            "system": row.system,
            "row": row.name,
            "headline": row.headline,
            "variant": row.variant,
            "kind": row.kind,
            "metric": figure.metric,
            "unit": figure.unit,
            "published": figure.value,
            "published_high": figure.high,
            "ours": self.ours,
            "ratio": self.ratio,
            "gain_ratio": self.gain_ratio,
            "swept": [min(reached), max(reached)] if reached else None,
            "verdict": self.verdict,
            "steady": self.steady,
            "baseline": figure.baseline,
            "grade": figure.grade,
            "source": figure.source,
            "locator": figure.locator,
            "slots": row.slots,
            "hardware": row.hardware,
            "workload": row.workload,
            "routing": self.routing,
            "assumed": [
                {"name": a.name, "value": a.value, "range": [a.low, a.high], "why": a.why}
                for a in row.assumed
            ],
            "reason": row.reason,
            "cause": self.cause,
            "claims": list(row.claims),
        }


def run_row(row: Row, *, sweep: bool = True, trace: RoutingTrace | None = None, seed: int = 0) -> Judged:
    """Run one row.

    Parameters
    ----------
    row
        What to run.
    sweep
        Whether the assumptions are moved over their ranges; without, no verdict can be assumption-bound.
    trace
        Routing to use instead of the row's own, where it fits the row's model.
    seed
        Of everything random.
    """
    routing, given = row.routing, trace if row.routing else None
    if row.compute is None:
        return Judged(row, None, (), judge(row.figure.value, None), routing)
    try:
        ours = row.compute(Case(row.central(), given, seed))
        routing = "given" if given is not None else routing
    except (ConfigError, TraceError):
        if given is None:
            raise
        # Routing of another model: the row falls back on its own.
        given, routing = None, f"{routing}; the given trace does not fit its model"
        ours = row.compute(Case(row.central(), None, seed))
    swept: tuple[float, ...] = ()
    if sweep:
        swept = tuple(row.compute(Case(values, given, seed)) for values in points(row.assumed, seed))
    return Judged(
        row,
        ours,
        swept,
        judge(row.figure.value, ours, swept, row.figure.neutral, row.figure.towards),
        routing,
    )


def reproduce(
    names: Sequence[str] = (),
    *,
    headlines_only: bool = False,
    variant: str = "",
    sweep: bool = True,
    trace: RoutingTrace | None = None,
    seed: int = 0,
    processes: int = 1,
) -> list[Judged]:
    """Run the rows of some systems, or of all.

    Parameters
    ----------
    names
        Systems; none are all.
    headlines_only
        Leave out everything but each system's headline.
    variant
        ``paper`` or ``code``; empty for both.
    sweep, trace, seed
        As in `run_row`.
    processes
        Rows are run by so many processes at once; the answers are the same.

    Raises
    ------
    ConfigError
        For names that are unknown.
    """
    wanted = find(names) if names else None
    chosen = [
        place
        for place, row in enumerate(rows())
        if (wanted is None or row.system in wanted)
        and (row.headline or not headlines_only)
        and variant in ("", row.variant)
    ]
    run = partial(_run_at, sweep=sweep, trace=trace, seed=seed)
    if processes == 1 or len(chosen) < 2:
        return [Judged(rows()[place], *run(place)) for place in chosen]
    with ProcessPoolExecutor(min(processes, len(chosen)), mp_context=get_context("spawn")) as pool:
        found = pool.map(run, chosen)
        return [Judged(rows()[place], *outcome) for place, outcome in zip(chosen, found, strict=True)]


def _run_at(
    place: int, sweep: bool, trace: RoutingTrace | None, seed: int
) -> tuple[float | None, tuple[float, ...], str, str]:
    """What one row comes to, without the row: what rows compute with cannot travel between processes."""
    judged = run_row(rows()[place], sweep=sweep, trace=trace, seed=seed)
    return judged.ours, judged.swept, judged.verdict, judged.routing


def summary(judged: Iterable[Judged]) -> dict[str, Any]:
    """Counts by verdict, and how far ours is from what was published: the median of ``|log ratio|``.

    Headlines alone are counted beside all rows: one system with many rows should not weigh more. So are the
    claims of the abstracts, each by the first row that answers it, and rows by the kind of machine.
    """
    found = list(judged)
    first: dict[str, Judged] = {}
    for j in found:
        for claim in j.row.claims:
            first.setdefault(claim, j)
    kinds = sorted({j.row.kind for j in found})
    return {
        **_part(found),
        "systems": len({j.row.system for j in found}),
        "headlines": _part([j for j in found if j.row.headline]),
        "claims": _part(list(first.values())),
        "kinds": {kind: _part([j for j in found if j.row.kind == kind]) for kind in kinds},
    }


def _part(found: Sequence[Judged]) -> dict[str, Any]:
    logs = [abs(math.log(j.ratio)) for j in found if j.ratio is not None and j.ratio > 0]
    return {
        "n": len(found),
        "verdicts": {verdict: sum(j.verdict == verdict for j in found) for verdict in VERDICTS},
        "steady": sum(j.steady for j in found),
        "causes": {cause: sum(j.cause == cause for j in found) for cause in CAUSES},
        "median_abs_log_ratio": median(logs) if logs else None,
    }


def document(judged: Sequence[Judged]) -> dict[str, Any]:
    """The whole as ``--json`` prints it."""
    return {"rows": [j.to_dict() for j in judged], "summary": summary(judged)}
