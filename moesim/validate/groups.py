"""Rows that are one measurement, and rows that must stay on one side of a split."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from moesim.validate.rows import ServingRow

Kind = Literal["sweep", "layout", "system", "model"]
H = TypeVar("H", bound=Hashable)


def group_of(row: ServingRow, kind: Kind = "sweep") -> str:
    """Group of a row.

    Parameters
    ----------
    kind
        ``sweep``: one configuration with its lengths, at any concurrency. ``layout``: one configuration at
        any lengths. ``system``, ``model``: all that share it.

    Returns
    -------
    str
        Equal for rows of one group.
    """
    if kind == "system":
        return row.hardware or row.system
    model = row.model or row.model_path
    if kind == "model":
        return model
    parts = [model, row.hardware or row.system, row.backend, row.dtype or row.precision, row.mode]
    parts.append(row.layout_text)
    if kind == "sweep":
        parts.append(f"{row.isl:g}x{row.osl:g}")
    return " | ".join(parts)


def first_of_each(rows: Sequence[ServingRow]) -> npt.NDArray[np.int64]:
    """Index of the first row that is the same measurement, ``[rows]``; its own for a row that is new.

    The same measurement: TTFT and TPOT equal to four significant digits, on the same system, backend,
    lengths, concurrency, mode and model. Rows without measurements are all new.
    """
    seen: dict[Hashable, int] = {}
    found = np.arange(len(rows))
    for i, row in enumerate(rows):
        if row.ttft_ms is None or row.tpot_ms is None:
            continue
        key = (
            row.hardware or row.system,
            row.backend,
            row.isl,
            row.osl,
            row.concurrency,
            row.mode,
            row.model or row.model_path,
            f"{row.ttft_ms:.4g}",
            f"{row.tpot_ms:.4g}",
        )
        found[i] = seen.setdefault(key, i)
    return found


def dedupe(rows: Sequence[ServingRow]) -> list[ServingRow]:
    """Rows without those that repeat an earlier measurement, in order."""
    first = first_of_each(rows)
    return [row for i, row in enumerate(rows) if first[i] == i]


def folds(groups: Sequence[H], count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Fold of every row, ``[rows]``: groups stay whole, folds are of nearly equal size.

    Parameters
    ----------
    groups
        Group of each row.
    count
        Number of folds.
    seed
        Of the order in which groups are dealt.

    Examples
    --------
    >>> folds(["a", "a", "b", "c"], 2).tolist()
    [0, 0, 1, 1]
    """
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    of_row = np.array([index[group] for group in groups], dtype=np.int64)
    sizes = np.bincount(of_row, minlength=len(index))
    order = np.random.default_rng(seed).permutation(len(index))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold, filled = np.zeros(len(index), np.int64), np.zeros(count, np.int64)
    for group in order:
        fold[group] = np.argmin(filled)
        filled[fold[group]] += sizes[group]
    return fold[of_row]
