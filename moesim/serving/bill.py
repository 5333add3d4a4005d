"""What a run costs in money and energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.serving.outcome import Outcome
from moesim.serving.state import BUSY_S

SCOPE = (
    "accelerators alone, at their rated power while their engine steps and at idle power else; no hosts, "
    "network or cooling"
)


@dataclass(frozen=True, slots=True)
class Rate:
    """What a device costs by the hour, and who says so."""

    usd_per_hour: float
    source: str


def rate_of(outcome: Outcome, price: float | None = None) -> Rate | None:
    """Price of a device: the one given, else the hardware's dated one; None if nobody says.

    Raises
    ------
    ConfigError
        If it is negative or no number.
    """
    if price is not None:
        if not 0 <= price < 1e9:
            raise ConfigError(Fault("is no price", "--price", price, "USD per device and hour, at least 0"))
        return Rate(price, "given")
    known = outcome.about.hardware.device.price if outcome.about is not None else None
    return Rate(known.usd_per_hour, f"{known.vendor}, {known.date}") if known is not None else None


def cost_of(outcome: Outcome, duration_s: float, tokens: tuple[float, float], price: float | None) -> Any:  # noqa: ANN401 - plain values or None
    """Money for all devices over a time, and per million tokens written, and read and written.

    Parameters
    ----------
    duration_s
        How long devices are rented.
    tokens
        Written, and read and written, in that time.
    """
    rate = rate_of(outcome, price)
    if rate is None or outcome.about is None:
        return None
    usd = rate.usd_per_hour * outcome.about.devices * duration_s / 3600.0
    written, both = tokens
    return {
        "usd_per_device_hour": rate.usd_per_hour,
        "source": rate.source,
        "usd_per_hour": rate.usd_per_hour * outcome.about.devices,
        "usd": usd,
        "usd_per_million_output_tokens": usd / written * 1e6 if written else None,
        "usd_per_million_tokens": usd / both * 1e6 if both else None,
    }


def energy_of(outcome: Outcome, duration_s: float, written: float) -> tuple[Any, list[str]]:
    """Energy of all devices over a run, and why some of it is unknown.

    Parameters
    ----------
    duration_s
        Of the whole run.
    written
        Output tokens of the whole run.
    """
    if outcome.about is None:
        return None, []
    device, devices = outcome.about.hardware.device, outcome.about.devices
    engines = len(outcome.state.tally.sums)
    busy_s = min(float(np.sum(outcome.state.tally.sums[:, BUSY_S])) / engines, duration_s) * devices
    idle_s = duration_s * devices - busy_s
    busy = device.tdp_w * busy_s if device.tdp_w is not None else None
    idle = device.idle_w * idle_s if device.idle_w is not None else None
    notes = []
    if device.tdp_w is None:
        notes.append(f"the rated power of {device.name} is not known: no energy")
    elif device.idle_w is None:
        notes.append(f"the idle power of {device.name} is not known: energy is that of busy devices")
    whole = busy + idle if busy is not None and idle is not None else None
    return {
        "busy_j": busy,
        "idle_j": idle,
        "joules": whole,
        "busy_joules_per_output_token": busy / written if busy is not None and written else None,
        "joules_per_output_token": whole / written if whole is not None and written else None,
        "scope": SCOPE,
    }, notes
