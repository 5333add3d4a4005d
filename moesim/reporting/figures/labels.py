"""Words in figures: names that fit, numbers with their unit, and the faults of what cannot be drawn."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from itertools import accumulate
from typing import Any
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import NDArray

from moesim.errors import ConfigError, Fault


def shorten(text: str, most: int = 34) -> str:
    """A name in one line that leaves room for the figure; Chinese characters are as wide as two others.

    >>> shorten("a very long name", 6), shorten("模型", 4), shorten("模型模型", 4)
    ('a ver…', '模型', '模…')
    """
    line = printable(text)
    ends = list(accumulate(2 if east_asian_width(c) in "WF" else 1 for c in line))
    return line if not ends or ends[-1] <= most else line[: bisect_right(ends, most - 1)] + "…"


def columns(names: Collection[str], most: int = 5) -> int:
    """Columns of a legend of names, so that it is no wider than a figure of nine inches.

    >>> columns(["short", "names"]), columns(["a name of twenty-four cha"]), columns([])
    (5, 4, 5)
    """
    longest = max(map(len, names), default=0)
    return max(1, min(most, int(9 * 72 / (4.8 * longest + 36))))


def printable(text: str) -> str:
    """A text in one line, of characters that a document may hold.

    >>> printable("a   b" + chr(0))
    'a b�'
    """
    return " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())


def count(n: int, what: str) -> str:
    """A number of things.

    >>> count(1, "request"), count(12000, "request")
    ('1 request', '12,000 requests')
    """
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def number(value: float) -> str:
    """A number as it is written beside a mark: four digits, thousands apart.

    >>> [number(x) for x in (0.000123456, 12.3456, 123456.0, 1e12, float("nan"))]
    ['0.0001235', '12.35', '123,456', '1e+12', 'unknown']
    """
    if math.isnan(value):
        return "unknown"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e8 else f"{value:.4g}"


def time_unit(seconds: Iterable[float]) -> tuple[float, str]:
    """What to multiply seconds by, and the unit, so that the largest has few digits.

    >>> time_unit([0.02, 0.5]), time_unit([3e-6]), time_unit([])
    ((1000.0, 'ms'), (1000000.0, 'us'), (1000.0, 'ms'))
    """
    finite = [abs(s) for s in seconds if math.isfinite(s) and s != 0]
    largest = max(finite, default=1e-2)
    return (1.0, "s") if largest >= 10 else (1e3, "ms") if largest >= 1e-4 else (1e6, "us")


def numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """Values as an array, NaN where there is none."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def log_ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers between two others for a logarithmic axis: as many as have room, and evenly apart.

    >>> log_ticks(15.0, 120.0), log_ticks(90.0, 3000.0), log_ticks(1.0, 1e9)
    ([20.0, 50.0, 100.0], [100.0, 300.0, 1000.0, 3000.0], [1.0, 1000.0, 1000000.0, 1000000000.0])
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for parts, step in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), *(((1,), step) for step in range(2, 400))):
        ticks = [float(f"{part}e{ten}") for ten in range(first, last + 1, step) for part in parts]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= most:
            break
    return ticks


def check_lengths(**columns: Sized) -> None:
    """Refuse columns that are empty or of different lengths.

    Raises
    ------
    ConfigError
        Naming every column.
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        allowed = "as many of each, at least one"
        raise ConfigError([Fault("has this many values", name, n, allowed) for name, n in lengths.items()])


def check_loads(**loads: NDArray[np.float64]) -> None:
    """Refuse loads that are no numbers, or negative.

    Raises
    ------
    ConfigError
        Naming all that hold such, with the first of it.
    """
    faults = [
        Fault("holds what is no load", name, float(values[~(values >= 0) | np.isinf(values)][0]), "0 or more")
        for name, values in loads.items()
        if not (np.isfinite(values) & (values >= 0)).all()
    ]
    if faults:
        raise ConfigError(faults)


def check_curves(curves: Mapping[str, Sized], points: int, what: str) -> None:
    """Refuse curves with other than one value for each of the points.

    Raises
    ------
    ConfigError
        Naming every such curve; or that there is none.
    """
    if not curves or not points:
        raise ConfigError(Fault("there is nothing to draw", what, allowed="one curve and one point at least"))
    faults = [
        Fault("has this many values", name, len(values), f"{points}, one for each of {what}")
        for name, values in curves.items()
        if len(values) != points
    ]
    if faults:
        raise ConfigError(faults)
