"""What devices cost an hour: dated prices of hardware files, or those given with ``--price``.

A price is of one device and hour, in US dollars, as hardware files have it. Where one is missing, plans could
not be compared by cost: devices are minimised, and no cost is stated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moesim.errors import ConfigError, Fault, nearest
from moesim.hardware import Hardware, Price, aliases
from moesim.planning.types import Candidate

CURRENCY = "USD"

#: Who asks a price that was given with the option; it has no date.
GIVEN = "--price"
#: More per device and hour is a slip.
_MOST = 1e6


@dataclass(frozen=True, slots=True)
class Quoted:
    """Prices of what may be rented.

    Parameters
    ----------
    hardware
        The machines, each with the price that counts.
    unpriced
        Names of those without one.
    """

    hardware: tuple[Hardware, ...]
    unpriced: tuple[str, ...]

    @property
    def prices(self) -> dict[str, Price]:
        """Of one device, by name of the machine."""
        return {h.name: h.device.price for h in self.hardware if h.device.price is not None}

    def notes(self) -> list[str]:
        """What has to be said beside a plan."""
        if self.unpriced:
            return [
                f"no price is known of {', '.join(self.unpriced)}: devices are minimised, and no cost is "
                "stated; give one with --price NAME=USD"
            ]
        return [f"{name}: {describe(price)}" for name, price in self.prices.items()]


def quote(hardware: Sequence[Hardware], given: Sequence[str] = ()) -> Quoted:
    """The machines with the prices that count.

    Parameters
    ----------
    hardware
        What may be rented.
    given
        ``NAME=USD`` per device and hour, which take the place of those in the files. Any spelling of a name
        will do.

    Raises
    ------
    ConfigError
        With every fault.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> found = quote([load_hardware("h200-sxm-8")], ["H200_SXM=3.10"])
    >>> found.hardware[0].device.price
    Price(usd_per_hour=3.1, vendor='--price', date='')
    """
    faults: list[Fault] = []
    prices: dict[str, float] = {}
    names = [h.name for h in hardware]
    for text in given:
        for part in text.split() or [text]:
            _price(part, names, prices, faults)
    if faults:
        raise ConfigError(faults)
    found = tuple(
        replace(h, device=replace(h.device, price=Price(prices[h.name], GIVEN, "")))
        if h.name in prices
        else h
        for h in hardware
    )
    return Quoted(found, tuple(h.name for h in found if h.device.price is None))


def usd_per_hour(candidate: Candidate) -> float | None:
    """Of all devices that are rented; None without a price."""
    price = candidate.hardware.device.price
    return None if price is None else price.usd_per_hour * candidate.devices


def usd_per_million(usd_per_hour: float, tokens_per_s: float) -> float:
    """Dollars for a million tokens at a rate.

    >>> usd_per_million(36.0, 10_000.0)
    1.0
    """
    return usd_per_hour / (tokens_per_s * 3600.0 / 1e6)


def describe(price: Price) -> str:
    """A price in words.

    >>> describe(Price(2.95, "median of 37 providers", "2026-05-20"))
    '2.95 USD per device and hour (median of 37 providers, 2026-05-20)'
    """
    said = ", ".join(part for part in (price.vendor, price.date) if part)
    return f"{price.usd_per_hour:g} {CURRENCY} per device and hour ({said})"


def _price(part: str, names: Sequence[str], prices: dict[str, float], faults: list[Fault]) -> None:
    name, equals, number = part.partition("=")
    if not equals or not name:
        faults.append(Fault("is no NAME=USD", GIVEN, part, f"as in {names[0]}=3.10" if names else "NAME=USD"))
        return
    spelled = {_plain(spelling): known for spelling, known in aliases().items()}
    known = {_plain(n): n for n in names}
    found = known.get(_plain(name)) or spelled.get(_plain(name), name)
    if found not in names:
        near = nearest(name, names, 1)
        hint = f"nearest: {near[0]}; " if near else ""
        faults.append(Fault("is none of --hardware", GIVEN, part, hint + ", ".join(names)))
        return
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 < value <= _MOST:
        faults.append(Fault(f"is no price in {CURRENCY} per device and hour", GIVEN, part, "above 0 to 1e6"))
    elif found in prices:
        faults.append(Fault("prices the same hardware again", GIVEN, part, "each once"))
    else:
        prices[found] = value


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
