"""A data set, its predictions and its scores, put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.validate.groups import first_of_each, group_of
from moesim.validate.inconsistent import Flag, inconsistent
from moesim.validate.names import is_moe
from moesim.validate.roofline import baseline, peaks
from moesim.validate.rows import AGG, ServingRow
from moesim.validate.score import Score, score, score_by
from moesim.validate.serving import PREDICTED, RowPrediction

METRICS = ("ttft", "tpot")
Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]

_KEYS: Mapping[str, Callable[[ServingRow], str]] = {
    "mode": lambda row: row.mode,
    "system": lambda row: row.hardware or row.system,
    "backend": lambda row: row.backend,
    "model": lambda row: row.model or row.model_path,
}


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Predictions beside measurements.

    Parameters
    ----------
    rows, predictions, flags
        One each per line of the file.
    first
        Index of the first row that is the same measurement, ``[rows]``.
    seen
        Whether the calibration was fitted to the measurement, bool ``[rows]``.
    sets
        Rows of each set by name, bool ``[rows]``, by metric.
    scores
        By metric, then by set.
    by
        By metric, then by ``mode``, ``system``, ``backend``, ``model``, then by name; of the set ``judged``.
    roofline
        Scores of the fitted roofline, by metric, on the rows of ``judged`` that it can predict; and of the
        predictions on the same rows.
    """

    rows: Sequence[ServingRow]
    predictions: Sequence[RowPrediction]
    flags: Sequence[tuple[Flag, ...]]
    first: npt.NDArray[np.int64]
    seen: Mask
    sets: dict[str, dict[str, Mask]]
    scores: dict[str, dict[str, Score]]
    by: dict[str, dict[str, dict[str, Score]]]
    roofline: dict[str, dict[str, Score]]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows there are, of each kind."""
        distinct = self.first == np.arange(len(self.rows))
        return {
            "rows": len(self.rows),
            "supported": sum(row.supported for row in self.rows),
            "predicted": sum(p.status == PREDICTED for p in self.predictions),
            "measured": sum(row.ttft_ms is not None and row.tpot_ms is not None for row in self.rows),
            "distinct": int(distinct.sum()),
            "repaired": sum(bool(row.repairs) for row in self.rows),
            "doubtful": sum(bool(row.doubtful) for row in self.rows),
            "inconsistent": sum(map(bool, self.flags)),
            "seen": int(self.seen.sum()),
        }

    @property
    def not_predicted(self) -> dict[str, int]:
        """Rows without a prediction by reason, most frequent first."""
        reasons = Counter(f"{p.status}: {p.reason}" for p in self.predictions if p.status != PREDICTED)
        return dict(reasons.most_common())

    def summary(self) -> dict[str, Any]:
        """Everything but the rows, as plain values."""
        return {
            **{
                metric: {
                    **{name: asdict(found) for name, found in self.scores[metric].items()},
                    "by": {
                        key: {name: asdict(found) for name, found in table.items()}
                        for key, table in self.by[metric].items()
                    },
                    "roofline": {name: asdict(found) for name, found in self.roofline[metric].items()},
                }
                for metric in METRICS
            },
            "counts": self.counts,
            "not_predicted": self.not_predicted,
        }

    def row_documents(self) -> list[dict[str, Any]]:
        """One plain mapping per row of the file."""
        columns = self.rows, self.predictions, self.flags, self.first.tolist(), self.seen.tolist()
        return [
            {
                "id": row.id,
                "line": row.line,
                "model": row.model,
                "system": row.hardware or row.system,
                "backend": row.backend,
                "mode": row.mode,
                "dtype": row.dtype,
                "layout": row.layout_text,
                "evaluated": " + ".join(map(str, row.evaluated)),
                "isl": row.isl,
                "osl": row.osl,
                "concurrency": row.concurrency,
                "ttft_ms": row.ttft_ms,
                "tpot_ms": row.tpot_ms,
                **milliseconds(prediction),
                "status": prediction.status,
                "reason": prediction.reason,
                "seen": seen,
                "repairs": row.repairs,
                "doubtful": row.doubtful,
                "inconsistent": [flag.reason for flag in flags],
                "duplicate_of": self.rows[first].id if self.rows[first] is not row else None,
            }
            for row, prediction, flags, first, seen in zip(*columns, strict=True)
        ]


def milliseconds(prediction: RowPrediction) -> dict[str, float]:
    """Numbers of a prediction in ms, by column of the output."""
    return {
        "pred_ttft_ms": prediction.ttft_s * 1e3,
        "pred_tpot_ms": prediction.tpot_s * 1e3,
        "ttft_lo_ms": prediction.ttft_lo * 1e3,
        "ttft_hi_ms": prediction.ttft_hi * 1e3,
        "tpot_lo_ms": prediction.tpot_lo * 1e3,
        "tpot_hi_ms": prediction.tpot_hi * 1e3,
    }


def evaluate(
    rows: Sequence[ServingRow], predictions: Sequence[RowPrediction], level: float = 0.9
) -> Evaluation:
    """Score predictions of rows.

    Parameters
    ----------
    rows, predictions
        One each per line of the file, in order. Rows without measurements are left out of the scores.
    level
        Share of measurements that the intervals claim to hold.

    Returns
    -------
    Evaluation
        Sets: ``all`` distinct rows; ``consistent``, those that contradict no other; ``judged``, those that
        are not doubtful either, and what they are made of, ``judged seen`` being those that the calibration
        was fitted to; and apart, those ``repaired`` with certainty (they are judged), ``doubtful`` and
        ``inconsistent``.
    """
    first = first_of_each(rows)
    distinct = first == np.arange(len(rows))
    flags: list[tuple[Flag, ...]] = [() for _ in rows]
    kept = np.flatnonzero(distinct).tolist()
    for i, found in zip(kept, inconsistent([rows[i] for i in kept]), strict=True):
        flags[i] = found
    flags = [flags[i] for i in first.tolist()]
    seen = np.array([p.seen for p in predictions], dtype=bool)
    # A repeated measurement was seen if the first was, whatever else is recorded of it.
    seen |= seen[first]
    line = peaks(rows)
    sets: dict[str, dict[str, Mask]] = {}
    scores: dict[str, dict[str, Score]] = {}
    by: dict[str, dict[str, dict[str, Score]]] = {}
    roofline: dict[str, dict[str, Score]] = {}
    for metric in METRICS:
        table = _Table.of(rows, predictions, metric)
        sets[metric] = _sets(rows, flags, distinct, seen, metric)
        scores[metric] = {name: table.part(chosen).score(level) for name, chosen in sets[metric].items()}
        judged = sets[metric]["judged"]
        part = [row for row, chosen in zip(rows, judged, strict=True) if chosen]
        within = table.part(judged)
        by[metric] = {name: within.score_by([key(row) for row in part], level) for name, key in _KEYS.items()}
        cells = [f"{row.hardware} {row.backend}" for row in part]
        groups = [group_of(row) for row in part]
        fitted = baseline(line.part(judged), within.measured / 1e3, cells, groups, metric) * 1e3
        both = np.isfinite(fitted) & np.isfinite(within.predicted)
        roofline[metric] = {
            "roofline": score(fitted[both], within.measured[both]),
            "predicted": within.part(both).score(level),
        }
    return Evaluation(rows, predictions, flags, first, seen, sets, scores, by, roofline)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """One metric of all rows in ms, ``[rows]``; NaN where blank."""

    predicted: Array
    measured: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, rows: Sequence[ServingRow], predictions: Sequence[RowPrediction], metric: str) -> _Table:
        measured = [getattr(row, f"{metric}_ms") for row in rows]
        predicted, low, high = (
            np.array([getattr(p, f"{metric}_{name}") for p in predictions], np.float64) * 1e3
            for name in ("s", "lo", "hi")
        )
        return cls(predicted, np.array([np.nan if m is None else m for m in measured], np.float64), low, high)

    def part(self, chosen: Mask) -> _Table:
        return _Table(self.predicted[chosen], self.measured[chosen], self.low[chosen], self.high[chosen])

    def score(self, level: float) -> Score:
        return score(self.predicted, self.measured, self.low, self.high, level)

    def score_by(self, keys: Sequence[str], level: float) -> dict[str, Score]:
        return dict(score_by(keys, self.predicted, self.measured, self.low, self.high, level))


def _sets(
    rows: Sequence[ServingRow],
    flags: Sequence[tuple[Flag, ...]],
    distinct: Mask,
    seen: Mask,
    metric: str,
) -> dict[str, Mask]:
    doubtful = np.array([bool(row.doubtful) for row in rows])
    wrong = np.array([any(flag.metric in (metric, "both") for flag in found) for found in flags])
    moe = np.array([bool(row.model) and is_moe(row.model) for row in rows])
    agg = np.array([row.mode == AGG for row in rows])
    judged = distinct & ~doubtful & ~wrong
    return {
        "all": distinct,
        "consistent": distinct & ~wrong,
        "judged": judged,
        "judged moe agg": judged & moe & agg,
        "judged dense agg": judged & ~moe & agg,
        "judged disagg": judged & ~agg,
        "judged seen": judged & seen,
        "judged new": judged & ~seen,
        "repaired": distinct & ~doubtful & np.array([bool(row.repairs) for row in rows]),
        "doubtful": distinct & doubtful,
        "inconsistent": distinct & wrong,
    }
