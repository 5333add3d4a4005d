"""Predictions of rows by fits that have not seen them, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.correction import CATEGORIES, VALUES, Component, Process
from moesim.learning.process_fit import Fitted, fit_process
from moesim.validate import folds, group_of
from moesim.validate.physics import Physics
from moesim.validate.rows import ServingRow

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

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


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Fits of TPOT and of what is left of TTFT."""

    tpot: Fitted
    ttft: Fitted

    def predict(self, table: Table) -> tuple[Array, Array]:
        """TPOT and TTFT of other rows, in seconds."""
        tpot = table.physics.tpot_s * np.exp(mean_of(self.tpot.process, table))
        whole = table.physics.ttft_fixed_s + table.physics.ttft_steps * tpot
        return tpot, whole * np.exp(mean_of(self.ttft.process, table))


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


def sides(table: Table, kind: str) -> list[Bools]:
    """Rows to hold out together, split by split."""
    groups = [group_of(row, kind) for row in table.rows]  # type: ignore[arg-type]
    if kind in ("system", "model"):
        names = np.array(groups)
        return [names == name for name in sorted(set(groups))]
    fold = folds(groups, FOLDS)
    return [fold == i for i in range(FOLDS)]


def held_out(
    effects: Sequence[Component], table: Table, kind: str, parameters: tuple[Array, Array]
) -> dict[str, tuple[Array, Array]]:
    """TPOT and TTFT of every row, by fits to rows of other groups.

    Returns
    -------
    dict
        By ``"campaign"`` (the row's campaign and date are known) and ``"anonymous"`` (they are not).
    """
    found = {
        known: (np.full(len(table.rows), np.nan), np.full(len(table.rows), np.nan))
        for known in ("campaign", "anonymous")
    }
    for side in sides(table, kind):
        if side.all():
            continue
        pair = fit_pair(effects, table.part(~side), parameters)
        for known, part in (("campaign", table.part(side)), ("anonymous", table.part(side).anonymous())):
            tpot, ttft = pair.predict(part)
            found[known][0][side], found[known][1][side] = tpot, ttft
    return found
