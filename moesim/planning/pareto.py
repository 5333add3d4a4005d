"""Plans that no other plan beats in everything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moesim.planning.types import Assessment

F8 = npt.NDArray[np.float64]

#: What is compared, and whether less is better.
OBJECTIVES = (
    ("cost", True),
    ("ttft_s", True),
    ("tpot_s", True),
    ("most_request_rate", False),
    ("energy_j_per_token", True),
)


def front(values: F8) -> npt.NDArray[np.bool_]:
    """Rows that no other row is as good as in every column and better in one.

    Parameters
    ----------
    values
        Less is better, ``[rows, columns]``. Of equal rows the first is kept.

    Examples
    --------
    >>> front(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [1.0, 3.0]])).tolist()
    [True, True, False, False]
    """
    keep = np.zeros(len(values), bool)
    kept = np.empty((0, values.shape[1]))
    # In this order whatever beats a row comes before it.
    for i in np.lexsort(values.T[::-1]):
        if not (kept <= values[i]).all(axis=1).any():
            keep[i] = True
            kept = np.vstack([kept, values[i]])
    return keep


def pareto(plans: Sequence[Assessment]) -> tuple[Assessment, ...]:
    """The plans on the front, cheapest first; columns that some plan lacks are left out."""
    if not plans:
        return ()
    columns = []
    for name, less in OBJECTIVES:
        values = [_cost(p) if name == "cost" else p.metrics.get(name) for p in plans]
        if all(v is not None for v in values):
            columns.append(np.array(values, dtype=float) * (1.0 if less else -1.0))
    chosen = front(np.stack(columns, axis=1))
    return tuple(sorted((p for p, c in zip(plans, chosen, strict=True) if c), key=_cost))


def _cost(plan: Assessment) -> float:
    return float(plan.candidate.devices) if plan.usd_per_hour is None else plan.usd_per_hour
