"""Rules that a table of expert ids keeps in every format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from moesim.layout.expert_map import IntArray
from moesim.placement.files.findings import Findings
from moesim.placement.files.target import Target, slot_faults

Row = Sequence[object]
#: Where an entry is in the file, from (row, slot); slot -1 is the row as a whole.
Where = Callable[[int, int], str]


def check_rows(
    rows: Sequence[Row], where: Where, target: Target, found: Findings, even: bool = True
) -> IntArray | None:
    """Check a table of expert ids, whatever file it comes from.

    Parameters
    ----------
    rows
        One per layer; entries may be anything a file holds.
    where
        Names a place in the file.
    target
        What the table is for.
    found
        Takes the faults: entries that are no expert of the model, rows of another length than the first or
        than asked, slots that cannot hold the experts or do not divide over the ranks, experts that are
        missing, experts twice on a rank.
    even
        Whether ranks own equal parts of a row; if not, which expert is twice on a rank is not looked at.

    Returns
    -------
    ndarray or None
        int64 ``[rows, slots]``, if the rows have one length and hold whole numbers only.
    """
    experts = target.num_experts
    whole = True
    widths = [len(row) for row in rows]
    width = target.slots if target.slots is not None else _commonest(widths)
    if width and target.slots is None:
        first = widths.index(width)
        found.extend(slot_faults(width, experts, target.ranks, f"{where(first, -1)} (its length)"))
    for i, row in enumerate(rows):
        if len(row) != width:
            whole = False
            found.add("has another length", where(i, -1), len(row), str(width))
        ids = _ids(row, i, where, target, found)
        if ids is None:
            whole = False
        else:
            _members(ids, i, where, target, found, even)
    return np.array(rows, dtype=np.int64) if whole and rows else None


def _commonest(widths: Sequence[int]) -> int:
    return max(dict.fromkeys(widths), key=widths.count, default=0)


def _ids(row: Row, i: int, where: Where, target: Target, found: Findings) -> IntArray | None:
    """The row as whole numbers that are experts of the model, or None."""
    allowed = f"whole numbers from 0 to {target.num_experts - 1}"
    ids = [v for v in row if type(v) is int and 0 <= v < target.num_experts]
    if len(ids) == len(row):
        return np.array(ids, dtype=np.int64)
    for j, value in enumerate(row):
        if not (type(value) is int and 0 <= value < target.num_experts):
            found.add("is no expert of the model", where(i, j), _shown(value), allowed)
    return None


def _shown(value: object) -> object:
    return "null" if value is None else value


def _members(ids: IntArray, i: int, where: Where, target: Target, found: Findings, even: bool) -> None:
    """Experts that are missing, and experts twice on a rank."""
    counts = np.bincount(ids, minlength=target.num_experts)
    for expert in np.flatnonzero(counts == 0).tolist():
        found.add(f"holds no replica of expert {expert}", where(i, -1), kind="an expert is in no slot")
    if not even or not len(ids) or len(ids) % target.ranks:
        return
    room = len(ids) // target.ranks
    ranks = ids.reshape(target.ranks, room)
    order = np.argsort(ranks, axis=1, kind="stable")
    sorted_ids = np.take_along_axis(ranks, order, axis=1)
    for rank, nth in np.argwhere(sorted_ids[:, 1:] == sorted_ids[:, :-1]).tolist():
        slot = rank * room + int(order[rank, nth + 1])
        found.add(
            f"rank {rank} holds expert {ids[slot]} twice",
            where(i, slot),
            int(ids[slot]),
            "each expert at most once per rank",
            kind="a rank holds an expert twice",
        )
