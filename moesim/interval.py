"""How far a prediction may be from a measured run: factors from residuals on public measurements."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from moesim.bounds import Bounds
from moesim.files import data_dir
from moesim.hardware.types import Hardware
from moesim.result import first


@lru_cache(maxsize=1)
def residuals() -> dict[str, Any]:
    """The shipped table of residuals, with its provenance."""
    text = (data_dir("hardware") / "residuals" / "serving.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def outside_of(hardware: Hardware) -> str:
    """Why a machine is unlike all that the residuals are from; empty if it is like them."""
    kinds = residuals()["kinds"]
    if hardware.kind in kinds:
        return ""
    return (
        f"{hardware.name} is of kind {hardware.kind}; public measurements are of {', '.join(kinds)} nodes, "
        "so its interval is the widest of any system or model"
    )


def interval_of(hardware: Hardware, ttft_s: float, tpot_s: float, limits: Bounds) -> dict[str, Any]:
    """Interval of TTFT and TPOT for a configuration nobody has measured for us.

    The factors are quantiles of measured over predicted. Kinds of machine that the measurements do not cover
    get the wider factors of a system that was left out.

    Parameters
    ----------
    limits
        No interval reaches below what cannot be beaten.
    """
    table = residuals()
    known = not outside_of(hardware)
    factors = table["factors"] if known else table["factors_elsewhere"]
    low, high = factors["ttft"], factors["tpot"]
    return {
        "level": table["level"],
        "ttft_s": [max(ttft_s * low[0], first(limits.ttft_s)), ttft_s * low[1]],
        "tpot_s": [max(tpot_s * high[0], first(limits.tpot_s)), tpot_s * high[1]],
        "basis": table["basis"] if known else table["basis_elsewhere"],
    }
