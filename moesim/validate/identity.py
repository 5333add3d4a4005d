"""A measured row as a configuration among others."""

from __future__ import annotations

from datetime import date
from math import nan

from moesim.correction import Identity
from moesim.hardware import load_hardware
from moesim.validate.rows import ServingRow


def identity_of(row: ServingRow, dtype: str) -> Identity:
    """What a row is, without its load.

    Parameters
    ----------
    dtype
        Data type of expert weights, or of dense blocks, as it was served.
    """
    source = row.campaign.removesuffix(row.measured).strip()
    shared = (row.model, load_hardware(row.hardware).device.name, row.backend, dtype)
    when = (source, row.campaign, month_of(row.measured))
    if row.layout is not None:
        return Identity(*shared, row.layout, None, (None, None), *when)
    assert row.prefill is not None
    assert row.decode is not None
    workers = (row.prefill.workers, row.decode.workers)
    return Identity(*shared, row.decode.layout, row.prefill.layout, workers, *when)


def month_of(day: str) -> float:
    """Months from January 2025 to a day; NaN for a blank.

    >>> month_of("2026-02-01"), month_of("")
    (13.0, nan)
    """
    try:
        found = date.fromisoformat(day)
    except ValueError:
        return nan
    return (found.year - 2025) * 12 + found.month - 1 + (found.day - 1) / 30.5
