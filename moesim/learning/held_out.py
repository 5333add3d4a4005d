"""Predictions of rows by fits that have not seen them, group by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from moesim.correction import CATEGORIES, VALUES, Component, Process
from moesim.engine.traits import Traits
from moesim.learning.process_fit import Fitted, fit_process
from moesim.learning.traits_fit import Probes
from moesim.validate import folds, group_of
from moesim.validate.groups import Kind
from moesim.validate.identity import identity_of
from moesim.validate.physics import Physics
from moesim.validate.rows import ServingRow

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
#: Constants of engines from the rows of other groups than these.
TraitsWithout = Callable[[Kind, frozenset[str]], Mapping[str, Traits]]

FOLDS = 5
#: Variances of a row's own noise to start from.
NOISE = {"tpot": 0.003, "ttft": 0.01}
#: What a configuration that nobody measured has no value of.
_OF_A_CAMPAIGN = ("source", "campaign")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows of one family, all predicted by physics and measured; arrays are ``[rows]``.

    Parameters
    ----------
    rows
        The measured rows.
    labels, values
        Categories and values of each.
    physics
        Physical times.
    tpot, ttft
        Measured, in seconds.
    """

    rows: tuple[ServingRow, ...]
    labels: tuple[tuple[str, ...], ...]
    values: Array
    physics: Physics
    tpot: Array
    ttft: Array

    def part(self, chosen: Bools) -> Table:
        """Some of the rows."""
        index = np.flatnonzero(chosen)
        return Table(
            tuple(self.rows[i] for i in index),
            tuple(self.labels[i] for i in index),
            self.values[index],
            self.physics.part(index),
            self.tpot[index],
            self.ttft[index],
        )

    def anonymous(self) -> Table:
        """The same rows, had nobody measured them: no campaign, no date."""
        blank = [CATEGORIES.index(name) for name in _OF_A_CAMPAIGN]
        labels = tuple(tuple("" if i in blank else v for i, v in enumerate(row)) for row in self.labels)
        values = self.values.copy()
        values[:, VALUES.index("month")] = np.nan
        return replace(self, labels=labels, values=values)


def table_of(rows: Sequence[ServingRow], physics: Physics) -> Table:
    """Measured rows, all of which physics answers, with their times."""
    identities = [identity_of(r, d) for r, d in zip(rows, physics.expert_dtype, strict=True)]
    one = [np.array([[r.input_len], [r.output_len], [r.concurrency]], dtype=np.float64) for r in rows]
    return Table(
        tuple(rows),
        tuple(i.labels() for i in identities),
        np.vstack([i.values(*load) for i, load in zip(identities, one, strict=True)]),
        physics,
        np.array([r.tpot_ms for r in rows], dtype=np.float64) / 1e3,
        np.array([r.ttft_ms for r in rows], dtype=np.float64) / 1e3,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """What held-out predictions are made of, ``[rows]``.

    Parameters
    ----------
    physical, fixed, steps
        Physical TPOT, and TTFT as so many seconds and steps.
    tpot, ttft
        Means of the two processes: logarithms of what measured times are of physical ones.
    """

    physical: Array
    fixed: Array
    steps: Array
    tpot: Array
    ttft: Array

    def predicted(self, tpot: Array | float = 1.0, ttft: Array | float = 1.0) -> tuple[Array, Array]:
        """TPOT and TTFT in seconds, if the processes are trusted so far."""
        step = self.physical * np.exp(tpot * self.tpot)
        return step, (self.fixed + self.steps * step) * np.exp(ttft * self.ttft)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Fits of TPOT and of what is left of TTFT."""

    tpot: Fitted
    ttft: Fitted

    def means(self, table: Table) -> Means:
        """What is said of other rows."""
        physics = table.physics
        return Means(
            physics.tpot_s,
            physics.ttft_fixed_s,
            physics.ttft_steps,
            mean_of(self.tpot.process, table),
            mean_of(self.ttft.process, table),
        )


def mean_of(process: Process, table: Table) -> Array:
    """Mean of a process at the rows of a table."""
    return process.mean(process.encode(table.labels), table.values)


def fit_pair(
    effects: Sequence[Component], table: Table, parameters: tuple[Array, Array] | None = None
) -> Pair:
    """Fit both processes to a table.

    Parameters
    ----------
    parameters
        Of TPOT and TTFT, if known; only the weights of rows are found then.
    """
    tpot = fit_process(
        effects,
        table.labels,
        table.values,
        np.log(table.tpot / table.physics.tpot_s),
        noise=NOISE["tpot"],
        parameters=None if parameters is None else parameters[0],
    )
    # TTFT holds some TPOT, which is predicted as for a new row: from all others.
    others = table.tpot * np.exp(-tpot.left_out)
    whole = table.physics.ttft_fixed_s + table.physics.ttft_steps * others
    ttft = fit_process(
        effects,
        table.labels,
        table.values,
        np.log(table.ttft / whole),
        noise=NOISE["ttft"],
        parameters=None if parameters is None else parameters[1],
    )
    return Pair(tpot, ttft)


def sides(table: Table, kind: Kind) -> list[Bools]:
    """Rows to hold out together, split by split."""
    groups = [group_of(row, kind) for row in table.rows]
    if kind in ("system", "model"):
        names = np.array(groups)
        return [names == name for name in sorted(set(groups))]
    fold = folds(groups, FOLDS)
    return [fold == i for i in range(FOLDS) if (fold == i).any()]


def held_out(
    effects: Sequence[Component],
    probes: Probes,
    kind: Kind,
    traits: TraitsWithout,
    parameters: tuple[Array, Array] | None,
) -> dict[str, Means]:
    """What fits to rows of other groups say of every row.

    Parameters
    ----------
    traits
        Constants of engines from other groups.
    parameters
        Strengths and ranges of the effects; None to find them, too, without the rows held out.

    Returns
    -------
    dict
        By ``"campaign"`` (the row's campaign and date are known) and ``"anonymous"`` (they are not).
    """
    table = table_of(probes.rows, probes.none)
    found: dict[str, list[tuple[Bools, Means]]] = {"campaign": [], "anonymous": []}
    for side in sides(table, kind):
        names = frozenset(group_of(table.rows[i], kind) for i in np.flatnonzero(side))
        told = replace(table, physics=probes.physics(traits(kind, names)))
        pair = fit_pair(effects, told.part(~side), parameters)
        part = told.part(side)
        found["campaign"].append((side, pair.means(part)))
        found["anonymous"].append((side, pair.means(part.anonymous())))
    return {known: _joined(parts) for known, parts in found.items()}


def _joined(parts: Sequence[tuple[Bools, Means]]) -> Means:
    arrays = []
    for f in fields(Means):
        whole = np.full(len(parts[0][0]), np.nan)
        for side, means in parts:
            whole[side] = getattr(means, f.name)
        arrays.append(whole)
    return Means(*arrays)
