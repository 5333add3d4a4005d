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
    measured = residuals()["devices"]
    if hardware.device.name in measured:
        return ""
    return (
        f"public measurements are of {', '.join(measured)}, not of {hardware.device.name}: the interval of "
        f"{hardware.name} is the widest of any system or model"
    )


def interval_of(hardware: Hardware, ttft_s: float, tpot_s: float, limits: Bounds) -> dict[str, Any]:
    """Interval of TTFT and TPOT for a configuration nobody has measured for us.

    The factors are quantiles of measured over predicted. Devices that were not measured get the widest
    factors of any one system or model.

    Parameters
    ----------
    limits
        No interval reaches below what cannot be beaten.
    """
    table = residuals()
    known = not outside_of(hardware)
    factors = table["factors"] if known else table["factors_elsewhere"]
    ttft, tpot = factors["ttft"], factors["tpot"]
    return {
        "level": table["level"],
        "ttft_s": [max(ttft_s * ttft[0], first(limits.ttft_s)), ttft_s * ttft[1]],
        "tpot_s": [max(tpot_s * tpot[0], first(limits.tpot_s)), tpot_s * tpot[1]],
        "basis": table["basis"] if known else table["basis_elsewhere"],
    }
