"""When requests arrive: renewal processes, a day's rhythm, or a closed loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault

Times = npt.NDArray[np.float64]


class Arrivals(Protocol):
    """Something that says when requests arrive."""

    @property
    def concurrency(self) -> int | None:
        """Requests served at once in a closed loop; None where arrivals have times of their own."""

    def times_s(self, requests: int, rng: np.random.Generator) -> Times:
        """Rising times of the given number of requests, float64 ``[requests]``."""


@dataclass(frozen=True, slots=True)
class Gamma:
    """Independent gaps, Gamma-distributed: bursts for ``cv > 1``, Poisson arrivals for ``cv = 1``.

    Parameters
    ----------
    rate_per_s
        Mean requests per second.
    cv
        Standard deviation over mean of the gaps; serving benchmarks' burstiness is ``1 / cv**2``. With 0 the
        gaps are all alike, and the first request arrives at 0.
    """

    rate_per_s: float
    cv: float = 1.0

    @property
    def concurrency(self) -> None:
        """Arrivals have times of their own."""

    def times_s(self, requests: int, rng: np.random.Generator) -> Times:
        """Sums of gaps of shape ``1 / cv**2`` and mean ``1 / rate_per_s``."""
        if self.cv == 0:
            return np.arange(requests) / self.rate_per_s
        shape = 1.0 / self.cv**2
        return np.cumsum(rng.gamma(shape, 1.0 / (shape * self.rate_per_s), requests))


@dataclass(frozen=True, slots=True)
class Diurnal:
    """Poisson arrivals whose rate swings: ``rate_per_s * (1 + swing * sin(2 pi t / period_s))``.

    Parameters
    ----------
    rate_per_s
        Mean requests per second over a period.
    swing
        0 to 1.
    period_s
        A day, if not given.
    """

    rate_per_s: float
    swing: float
    period_s: float = 86_400.0

    @property
    def concurrency(self) -> None:
        """Arrivals have times of their own."""

    def times_s(self, requests: int, rng: np.random.Generator) -> Times:
        """Thinning: arrivals at the peak rate, each kept with the share of the peak at its time."""
        peak = self.rate_per_s * (1.0 + self.swing)
        kept: list[Times] = []
        found, now = 0, 0.0
        while found < requests:
            candidates = now + np.cumsum(rng.exponential(1.0 / peak, max(1024, requests - found)))
            now = float(candidates[-1])
            share = (1.0 + self.swing * np.sin(2 * np.pi * candidates / self.period_s)) / (1.0 + self.swing)
            kept.append(candidates[rng.random(len(candidates)) < share])
            found += len(kept[-1])
        return np.concatenate(kept)[:requests]


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """All requests wait from the start; `concurrency` are served at once, and each that ends lets one in."""

    concurrency: int

    def times_s(self, requests: int, rng: np.random.Generator) -> Times:  # noqa: ARG002 - nothing is random
        """Zeros."""
        return np.zeros(requests)


_FORMS = {
    "poisson": ("RATE",),
    "gamma": ("RATE", "CV"),
    "fixed": ("RATE",),
    "diurnal": ("RATE", "SWING", "[PERIOD_S]"),
    "closed": ("CONCURRENCY",),
}
SPELLINGS = ", ".join(":".join((name, *parts)) for name, parts in _FORMS.items())


def is_spelled(text: str) -> bool:
    """Whether a text is meant as an arrival process, rather than as the name of a file."""
    return text.partition(":")[0] in _FORMS and ":" in text


def parse_arrivals(text: str, where: str = "arrivals") -> Arrivals:
    """Arrivals as people write them.

    Parameters
    ----------
    text
        ``poisson:RATE``, ``gamma:RATE:CV``, ``fixed:RATE``, ``diurnal:RATE:SWING[:PERIOD_S]`` or
        ``closed:CONCURRENCY``; rates are requests per second.
    where
        The option, for the error.

    Raises
    ------
    ConfigError
        Naming every part that is wrong.

    Examples
    --------
    >>> parse_arrivals("gamma:10:2")
    Gamma(rate_per_s=10.0, cv=2.0)
    """
    name, *parts = text.split(":")
    forms = _FORMS.get(name)
    if forms is None:
        raise ConfigError(Fault("is no way to arrive", where, text, SPELLINGS))
    least = sum(not form.startswith("[") for form in forms)
    if not least <= len(parts) <= len(forms):
        raise ConfigError(Fault("has the wrong number of parts", where, text, ":".join((name, *forms))))
    faults: list[Fault] = []
    numbers = [
        _number(part, form.strip("[]"), where, faults) for part, form in zip(parts, forms, strict=False)
    ]
    if faults:
        raise ConfigError(faults)
    if name == "closed":
        return ClosedLoop(int(numbers[0]))
    if name == "diurnal":
        return Diurnal(*numbers)
    return Gamma(numbers[0], {"poisson": 1.0, "fixed": 0.0}.get(name, numbers[-1]))


_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "RATE": (lambda x: 0 < x < 1e9, "requests per second, more than 0"),
    "CV": (lambda x: 0 <= x <= 100, "0 to 100"),
    "SWING": (lambda x: 0 <= x <= 1, "0 to 1"),
    "PERIOD_S": (lambda x: 0 < x < 1e12, "seconds, more than 0"),
    "CONCURRENCY": (lambda x: x.is_integer() and 1 <= x < 2**31, "a whole number of at least 1"),
}


def _number(part: str, form: str, where: str, faults: list[Fault]) -> float:
    is_good, allowed = _RULES[form]
    try:
        number = float(part)
    except ValueError:
        number = math.nan
    if not is_good(number):
        faults.append(Fault(f"{form} is wrong", where, part, allowed))
    return number
