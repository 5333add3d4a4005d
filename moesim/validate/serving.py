"""Predictions for measured serving rows. Everything that is known of a row but its measurements goes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from moesim.correction import Calibration, shipped
from moesim.validate.identity import identity_of
from moesim.validate.names import is_moe
from moesim.validate.physics import INFEASIBLE, PREDICTED, UNSUPPORTED, Physics, physics_of
from moesim.validate.rows import ServingRow
from moesim.validate.seen import was_seen

__all__ = ["INFEASIBLE", "PREDICTED", "UNSUPPORTED", "RowPrediction", "predict_rows"]


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
    seen
        Whether the calibration was fitted to this very row: its error is no measure of accuracy.
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
    seen: bool = False


def predict_rows(rows: Sequence[ServingRow], calibration: Calibration | None = None) -> list[RowPrediction]:
    """Predict every row from its configuration alone, in order.

    Parameters
    ----------
    rows
        With or without measurements, which are not looked at.
    calibration
        To other measured runs; the shipped one by default.
    """
    calibration = shipped() if calibration is None else calibration
    physics = physics_of(rows, calibration.traits)
    return [_one(row, physics, i, calibration) for i, row in enumerate(rows)]


def _one(row: ServingRow, physics: Physics, i: int, calibration: Calibration) -> RowPrediction:
    if physics.status[i] != PREDICTED:
        return RowPrediction(row.id, status=physics.status[i], reason=physics.reason[i])
    tpot = float(physics.tpot_s[i])
    fixed, steps = float(physics.ttft_fixed_s[i]), float(physics.ttft_steps[i])
    identity = identity_of(row, physics.expert_dtype[i])
    family = calibration.family_of(identity, is_moe(row.model))
    if family is None:
        return RowPrediction(row.id, fixed + steps * tpot, tpot)
    load = np.array([row.input_len]), np.array([row.output_len]), np.array([row.concurrency])
    found = family.correct(identity, *load)
    tpot *= float(found.tpot_factor[0])
    ttft = (fixed + steps * tpot) * float(found.ttft_factor[0])
    low, high = (float(end[0]) for end in found.spans["ttft"])
    least, most = (float(end[0]) for end in found.spans["tpot"])
    return RowPrediction(
        row.id,
        ttft,
        tpot,
        ttft * low,
        ttft * high,
        tpot * least,
        tpot * most,
        seen=was_seen(family, identity, load),
    )
