"""What figures are given: numbers checked, names made fit to be seen, quantities with words and units."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.reporting.figures.labels import number, shorten

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Canvas

F8 = npt.NDArray[np.float64]

#: Groups that are told apart.
_GROUPS = 8
#: From one end of a logarithmic axis to the other, within which a decade has more than one number.
_NEAR = 300.0


@dataclass(frozen=True, slots=True)
class Quantity:
    """How a metric is written.

    Parameters
    ----------
    words
        In the field's words, for axes and captions.
    unit
        In which it is drawn; empty for a plain number.
    scale
        Drawn value over SI value.
    less
        Whether less of it is better.
    """

    words: str
    unit: str
    scale: float = 1.0
    less: bool = True

    @property
    def axis(self) -> str:
        """Label of an axis."""
        return f"{self.words}, {self.unit}" if self.unit else self.words

    def text(self, value: float) -> str:
        """An SI value with its unit, as `labels.number` has it.

        >>> quantity("ttft_s").text(0.1234), quantity("usd_per_hour").text(31.84)
        ('123.4 ms', '31.84 USD/h')
        """
        return f"{number(value * self.scale)} {self.unit}".rstrip()


_QUANTITIES = {
    "ttft_s": Quantity("time to first token (TTFT)", "ms", 1e3),
    "tpot_s": Quantity("time per output token (TPOT)", "ms", 1e3),
    "itl_s": Quantity("time between tokens (ITL)", "ms", 1e3),
    "e2el_s": Quantity("end-to-end latency", "s"),
    "queue_s": Quantity("time in the queue", "ms", 1e3),
    "output_throughput": Quantity("output throughput", "tokens/s", 1.0, False),
    "output_throughput_per_device": Quantity("output throughput per device", "tokens/s", 1.0, False),
    "total_token_throughput": Quantity("throughput, input and output", "tokens/s", 1.0, False),
    "request_throughput": Quantity("request throughput", "requests/s", 1.0, False),
    "most_request_rate": Quantity("request rate within the promise", "requests/s", 1.0, False),
    "request_rate": Quantity("request rate within the promise", "requests/s", 1.0, False),
    "usd_per_hour": Quantity("cost", "USD/h"),
    "usd_per_million_output_tokens": Quantity("cost of a million output tokens", "USD"),
    "devices": Quantity("devices", ""),
    "energy_j_per_token": Quantity("energy per output token", "J"),
}


def quantity(name: str) -> Quantity:
    """How a metric is written; a name that is not known stands for itself, in SI.

    >>> quantity("tpot_p99_s").axis, quantity("stall_s").axis, quantity("gpu_hours").axis
    ('p99 of time per output token (TPOT), ms', 'stall, s', 'gpu hours')
    """
    if name in _QUANTITIES:
        return _QUANTITIES[name]
    percentile = re.fullmatch(r"([a-z0-9]+)_(p\d+)_s", name)
    if percentile:
        mean = quantity(f"{percentile[1]}_s")
        return replace(mean, words=f"{percentile[2]} of {mean.words}")
    stem, seconds = name.removesuffix("_s"), name.endswith("_s")
    return Quantity(shorten(stem.replace("_", " "), 60), "s" if seconds else "")


def plain(axis: Axis) -> None:
    """Write an axis of numbers without powers of ten, thousands in groups; once its limits are set."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    if axis.get_scale() == "log" and getattr(axis.get_transform(), "base", 0) == 10:
        low, high = axis.get_view_interval()
        axis.set_minor_formatter(NullFormatter())
        if low > 0 and high < _NEAR * low:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def shares(axis: Axis) -> None:
    """Write an axis of shares in per cent."""
    axis.set_major_formatter(lambda share, _: f"{100 * share:.6g} %")


def percent(share: float) -> str:
    """A share of one, with as many digits as it takes to tell it from all and from nothing.

    >>> percent(0.5), percent(0.995), percent(0.99999), percent(1.0), percent(0.0004)
    ('50 %', '99.5 %', '99.999 %', '100 %', '0.04 %')
    """
    near = min(share, 1 - share)
    places = 1 if near >= 0.01 or near <= 0 else min(int(np.ceil(-np.log10(near) - 1)), 6)
    return f"{100 * share:.{places}f}".rstrip("0").rstrip(".") + " %"


def legend_below(canvas: Canvas, width_in: float, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend under the axes, in as many columns as there is room for."""
    canvas.legend(
        handles, names, loc="outside lower center", ncols=_columns(names, width_in), fontsize="small"
    )


def legend_in(names: Sequence[str], width_in: float) -> float:
    """How high that legend is, in inches.

    >>> legend_in(["a"], 7.0) < legend_in(["a quite long name of a run"] * 9, 7.0)
    True
    """
    return 0.1 + 0.17 * -(-len(names) // _columns(names, width_in))


def _columns(names: Sequence[str], width_in: float) -> int:
    # A character of the small font, and the sample beside the name, in inches.
    each = 0.5 + 0.063 * max(map(len, names), default=0)
    return max(1, min(len(names), int(width_in / each)))


class Checks:
    """Collects everything that is wrong with what a figure was given.

    Examples
    --------
    >>> checks = Checks()
    >>> _ = checks.numbers("lags", [1, float("nan")])
    >>> checks.done()
    Traceback (most recent call last):
    moesim.errors.ConfigError: lags: must be finite numbers (got nan)
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def numbers(
        self,
        where: str,
        values: Any,  # noqa: ANN401 - whatever numpy makes an array of
        *,
        shape: tuple[int | None, ...] = (None,),
        low: float = -np.inf,
        high: float = np.inf,
        gaps: bool = False,
        empty: bool = False,
    ) -> F8:
        """An array of float64, and a fault for what it must not be.

        Parameters
        ----------
        where
            Name of the argument.
        values
            None and NaN are gaps.
        shape
            Length of each axis; None for any.
        low, high
            What every number lies between, ends included.
        gaps, empty
            Whether there may be gaps, or nothing.
        """
        try:
            found = np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            self.faults.append(Fault("must be an array of numbers", where))
            return np.full([n or 0 for n in shape], np.nan)
        if found.ndim != len(shape) or any(
            n is not None and n != m for n, m in zip(shape, found.shape, strict=True)
        ):
            wanted = " x ".join("any" if n is None else str(n) for n in shape)
            self.faults.append(Fault("has the wrong shape", where, found.shape, wanted))
            return np.full([n or 0 for n in shape], np.nan)
        if not found.size and not empty:
            self.faults.append(Fault("must not be empty", where))
        known = found[np.isfinite(found)]
        if not gaps and len(known) < found.size:
            self.faults.append(
                Fault("must be finite numbers", where, float(found[~np.isfinite(found)].flat[0]))
            )
        elif found.size and not len(known):
            self.faults.append(Fault("has no finite number", where))
        outside = known[(known < low) | (known > high)]
        if len(outside):
            self.faults.append(
                Fault("is out of range", where, float(outside.flat[0]), f"{low:g} to {high:g}")
            )
        return found

    def some(self, where: str, things: Sequence[Any] | Iterable[Any]) -> None:
        """A fault if there is nothing."""
        if not list(things):
            self.faults.append(Fault("must not be empty", where))

    def unknown(self, where: str, value: object, allowed: Iterable[str]) -> None:
        """A fault for a word that means nothing."""
        self.faults.append(Fault("is not known", where, value, ", ".join(repr(word) for word in allowed)))

    def done(self) -> None:
        """Raise everything that was found.

        Raises
        ------
        ConfigError
            If anything was.
        """
        if self.faults:
            raise ConfigError(self.faults)


def listed(values: F8) -> list[float | None]:
    """Plain numbers; None for gaps.

    >>> listed(np.array([1.0, np.nan]))
    [1.0, None]
    """
    return [float(v) if np.isfinite(v) else None for v in values]


def thin(n: int, most: int) -> npt.NDArray[np.int64]:
    """Places of at most `most` of `n` values, evenly, both ends among them.

    >>> thin(5, 9).tolist(), thin(101, 3).tolist()
    ([0, 1, 2, 3, 4], [0, 50, 100])
    """
    if n <= most:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, most).round().astype(np.int64))


def apart(x: F8, y: F8, cells: int = 80, few: int = 300) -> npt.NDArray[np.int64]:
    """Places of points to draw: of more than a few, those that do not lie over another.

    Parameters
    ----------
    x, y
        Points ``[points]``, in what their axes are even in.
    cells
        Of each axis; of the points in one cell the first is drawn.
    few
        So many are all drawn.

    Examples
    --------
    >>> apart(np.array([0.0, 0.001, 1.0]), np.zeros(3), few=2).tolist()
    [0, 2]
    """
    if len(x) <= few:
        return np.arange(len(x))
    places = np.stack([x, y])
    low, high = places.min(axis=1, keepdims=True), places.max(axis=1, keepdims=True)
    cell = np.floor((places - low) / np.where(high > low, high - low, 1.0) * cells)
    return np.sort(np.unique(cell, axis=1, return_index=True)[1])


def kinds_of(names: Sequence[str]) -> dict[str, set[str]]:
    """Groups as they are drawn, largest first; the smallest of many are one.

    >>> list(kinds_of("aab")), list(kinds_of("abcdefghijj"))[-1]
    (['a', 'b'], '3 others')
    """
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    order = sorted(counts, key=lambda name: (-counts[name], name))
    if len(order) <= _GROUPS:
        return {name: {name} for name in order}
    kept, rest = order[: _GROUPS - 1], order[_GROUPS - 1 :]
    return {name: {name} for name in kept} | {f"{len(rest)} others": set(rest)}
