"""Measurements that contradict other measurements; no prediction is looked at.

Aggregated rows only: what a disaggregated deployment is made of is mostly unrecorded, so that its rows have
no neighbours to contradict.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt

from moesim.validate.groups import group_of
from moesim.validate.rows import AGG, ServingRow

#: A row this far from a rising curve through its sweep contradicts it; so do twins this far apart.
BEND, TWIN = 1.25, 2.0
#: Share of the throughput at a lower concurrency below which a row contradicts Little's law.
LOSS = 0.6
#: TTFT over that at a higher concurrency, and by at least so many ms, is a cold start.
COLD, COLD_MS = 3.0, 200.0
#: So is TTFT over what all prompts take at the best rate seen on this layout, and by at least so many ms, at
#: a concurrency this low (more may wait for room in the cache). Where a campaign has so many such rows, their
#: delay is in its other rows too.
SLOW, SLOW_MS, FEW, MANY = 4.0, 2000.0, 32.0, 3
#: Share of its time that a request must run for the rest not to be waiting for room.
RAN = 0.5

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Flag:
    """One contradiction.

    Parameters
    ----------
    metric
        ``tpot``, ``ttft`` or ``both``: what of the row is unusable.
    reason
        In words.
    """

    metric: str
    reason: str


def inconsistent(rows: Sequence[ServingRow]) -> list[tuple[Flag, ...]]:
    """Contradictions of every row, ``[rows]``; empty for those that have none."""
    flags: list[list[Flag]] = [[] for _ in rows]
    sweeps: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    families: defaultdict[str, list[int]] = defaultdict(list)
    layouts: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row.mode != AGG or not row.supported or row.ttft_ms is None or row.tpot_ms is None:
            continue
        families[group_of(row)].append(i)
        layouts[group_of(row, "layout")].append(i)
        sweeps[group_of(row), row.version, row.campaign].append(i)
    for members in sweeps.values():
        _of_sweep([rows[i] for i in members], [flags[i] for i in members])
    for members in families.values():
        _of_family([rows[i] for i in members], [flags[i] for i in members])
    for members in layouts.values():
        _of_layout([rows[i] for i in members], [flags[i] for i in members])
    return [tuple(found) for found in flags]


def rising(values: Array) -> Array:
    """Nearest rising sequence in least squares (pool adjacent violators), ``[points]``.

    >>> rising(np.array([1.0, 3.0, 2.0])).tolist()
    [1.0, 2.5, 2.5]
    """
    means: list[float] = []
    sizes: list[int] = []
    for value in values:
        means.append(float(value))
        sizes.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            size = sizes[-2] + sizes[-1]
            mean = (means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size
            means[-2:], sizes[-2:] = [mean], [size]
    return np.repeat(means, sizes)


def _of_sweep(rows: list[ServingRow], flags: list[list[Flag]]) -> None:
    """Rows of one configuration and campaign, at rising concurrency."""
    load, ttft, tpot, osl = _columns(rows)
    order = np.argsort(load, kind="stable")
    bend = np.log(tpot[order]) - rising(np.log(tpot[order]))
    served = load * osl / (osl * tpot + ttft)
    for place, i in enumerate(order):
        lower = order[:place][load[order[:place]] < load[i]]
        if abs(bend[place]) > log(BEND):
            factor = np.exp(abs(bend[place]))
            way = "above" if bend[place] > 0 else "below"
            flags[i].append(Flag("tpot", f"TPOT is {factor:.2f}x {way} a curve that rises with concurrency"))
        if len(lower) and tpot[i] / tpot[lower].max() > load[i] / load[lower].max():
            flags[i].append(Flag("tpot", "TPOT grows faster than concurrency"))
        if len(lower) and served[i] < LOSS * served[lower].max():
            share = served[i] / served[lower].max()
            why = f"Little's law: throughput is {share:.2f} of that at a lower concurrency"
            flags[i].append(Flag("both", why))


def _of_family(rows: list[ServingRow], flags: list[list[Flag]]) -> None:
    """Rows of one configuration, of any version and date."""
    load, ttft, tpot, _ = _columns(rows)
    for i in range(len(rows)):
        twins = np.flatnonzero(load == load[i])
        twins = twins[twins != i]
        if len(twins):
            ratio = tpot[i] / float(np.median(tpot[twins]))
            if max(ratio, 1 / ratio) > TWIN:
                flags[i].append(Flag("both", f"TPOT is {ratio:.2f}x that of the same configuration"))
        lower = load < load[i]
        if lower.any():
            ratio = tpot[i] / float(np.median(tpot[load == load[lower].max()]))
            if ratio * TWIN < 1:
                flags[i].append(Flag("both", f"TPOT is {ratio:.2f}x that at a lower concurrency"))
        higher = load > load[i]
        if higher.any():
            least = float(ttft[higher].min())
            if ttft[i] > COLD * least and ttft[i] - least > COLD_MS:
                why = f"cold start: TTFT is {ttft[i] / least:.1f}x that at a higher concurrency"
                flags[i].append(Flag("ttft", why))


def _of_layout(rows: list[ServingRow], flags: list[list[Flag]]) -> None:
    """Rows of one configuration at any lengths."""
    load, ttft, tpot, osl = _columns(rows)
    prompts = load * np.array([row.isl for row in rows])
    expected = prompts / float((prompts / ttft).max())
    ran = osl * tpot / (osl * tpot + ttft)
    cold = (ttft > SLOW * expected + SLOW_MS) & (load <= FEW) & (ran > RAN)
    campaigns = np.array([f"{row.version} {row.campaign}" for row in rows])
    for i in np.flatnonzero(cold):
        factor = ttft[i] / expected[i]
        why = f"cold start: TTFT is {factor:.0f}x what all prompts take at the layout's best rate"
        flags[i].append(Flag("ttft", why))
    for name in np.unique(campaigns[cold]):
        members = campaigns == name
        if (members & cold).sum() < MANY:
            continue
        delay = float(np.median((ttft - expected)[members & cold]))
        for i in np.flatnonzero(members & ~cold & (ttft > delay) & (ttft < 2 * delay)):
            flags[i].append(
                Flag("ttft", f"cold start: this campaign has {delay / 1e3:.1f} s of it elsewhere")
            )


def _columns(rows: list[ServingRow]) -> tuple[Array, Array, Array, Array]:
    table = np.array([(r.concurrency, r.ttft_ms, r.tpot_ms, r.osl) for r in rows], dtype=np.float64).T
    return table[0], table[1], table[2], table[3]
