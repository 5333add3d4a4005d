"""Predictions for measured serving rows. Everything that is known of a row but its measurements goes in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

from moesim.errors import ConfigError, InfeasibleError, OutOfDomainWarning
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.prediction import Engine, Workload, predict
from moesim.validate.rows import ServingRow

#: Benchmarks draw lengths between 0.8 and 1 of the longest.
LENGTH = 0.9
PREDICTED, UNSUPPORTED, INFEASIBLE = "predicted", "unsupported", "infeasible"


@dataclass(frozen=True, slots=True)
class RowPrediction:
    """Prediction of one row; NaN where it has none.

    Parameters
    ----------
    id
        Of the row.
    ttft_s, tpot_s
        Predicted.
    ttft_lo, ttft_hi, tpot_lo, tpot_hi
        Ends of the intervals, in seconds.
    status, reason
        ``predicted``, ``unsupported`` or ``infeasible``, and why.
    """

    id: str
    ttft_s: float = nan
    tpot_s: float = nan
    ttft_lo: float = nan
    ttft_hi: float = nan
    tpot_lo: float = nan
    tpot_hi: float = nan
    status: str = PREDICTED
    reason: str = ""


def predict_rows(rows: Sequence[ServingRow]) -> list[RowPrediction]:
    """Predict every row from its configuration alone, in order.

    Parameters
    ----------
    rows
        With or without measurements, which are not looked at.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfDomainWarning)
        return [_one(row) for row in rows]


def _one(row: ServingRow) -> RowPrediction:
    if not row.supported:
        return RowPrediction(row.id, status=UNSUPPORTED, reason=row.reason)
    if row.layout is None:
        return RowPrediction(row.id, status=UNSUPPORTED, reason="disaggregated deployments are not predicted")
    try:
        answer = predict(
            load_model(row.model),
            load_hardware(row.hardware, nodes=row.nodes),
            row.layout,
            Workload(max(LENGTH * row.isl, 1.0), max(LENGTH * row.osl, 1.0), row.concurrency),
            engine=Engine(dtype=row.dtype, kv_cache_dtype="auto"),
        )
    except InfeasibleError as error:
        return RowPrediction(row.id, status=INFEASIBLE, reason=str(error))
    except ConfigError as error:
        return RowPrediction(row.id, status=UNSUPPORTED, reason=str(error.faults[0]))
    interval = answer.interval or {"ttft_s": (nan, nan), "tpot_s": (nan, nan)}
    return RowPrediction(row.id, answer.ttft_s, answer.tpot_s, *interval["ttft_s"], *interval["tpot_s"])
