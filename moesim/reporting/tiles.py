"""The key numbers of a result, large, with what bounds them and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moesim.reporting.documents import PlacementDocument, PredictionDocument

#: Results whose key numbers stand side by side.
MOST_BESIDE = 8


@dataclass(frozen=True, slots=True)
class Number:
    """One number of one result.

    Parameters
    ----------
    text
        As it is shown, without unit.
    value
        To compare by; None if there is none.
    bound, interval, note
        A few words each, or nothing.
    """

    text: str
    value: float | None = None
    bound: str = ""
    interval: str = ""
    note: str = ""

    @property
    def details(self) -> tuple[str, ...]:
        """What stands below the number."""
        return tuple(text for text in (self.interval, self.bound, self.note) if text)


@dataclass(frozen=True, slots=True)
class Tile:
    """One metric of one result, or of several side by side.

    Parameters
    ----------
    title, unit
        What is measured.
    numbers
        One for each result.
    labels
        Their names; empty for one result alone.
    better
        Which way is better, if one is.

    Examples
    --------
    >>> tile = Tile("TPOT", "ms", (Number("40", 40.0), Number("30", 30.0)), ("a", "b"), "less")
    >>> tile.changes, tile.best
    (('', '-25 %'), (False, True))
    """

    title: str
    unit: str
    numbers: tuple[Number, ...]
    labels: tuple[str, ...] = ()
    better: Literal["less", "more", ""] = ""

    @property
    def changes(self) -> tuple[str, ...]:
        """By how much each number differs from the first, where it does."""
        first = self.numbers[0].value if self.numbers else None
        if not first:
            return ("",) * len(self.numbers)
        return tuple(
            "" if n.value is None or n.value == first else change(n.value / first) for n in self.numbers
        )

    @property
    def best(self) -> tuple[bool, ...]:
        """Whether each number is the best of several that are not all alike."""
        values = [n.value for n in self.numbers if n.value is not None]
        if not self.better or len(set(values)) < 2:
            return (False,) * len(self.numbers)
        top = min(values) if self.better == "less" else max(values)
        return tuple(n.value == top for n in self.numbers)


def change(ratio: float) -> str:
    """A ratio as people say it.

    >>> change(1.25), change(0.9996), change(7.4)
    ('+25 %', '-0.04 %', '7.4 times')
    """
    if ratio >= 3:
        return f"{three(ratio)} times"
    percent = (ratio - 1) * 100
    return f"{percent:+.0f} %" if abs(percent) >= 10 else f"{percent:+.2g} %"


def three(value: float) -> str:
    """A number of three digits, or of all before the point.

    >>> three(7.054), three(112.4), three(104_400.0)
    ('7.05', '112', '104,400')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def of_predictions(answers: Sequence[PredictionDocument], labels: Sequence[str]) -> tuple[Tile, ...]:
    """Latency, throughput, memory and balance of predictions."""
    names = tuple(labels) if len(answers) > 1 else ()

    def ms(answer: PredictionDocument, metric: Literal["ttft_s", "tpot_s"]) -> Number:
        span, low = answer.interval, answer.bounds.get(metric)
        ends = getattr(span, metric) if span is not None else None
        return Number(
            three(getattr(answer, metric) * 1e3),
            getattr(answer, metric),
            "" if low is None else f"never below {three(low * 1e3)}",
            "" if ends is None or span is None
            else f"{span.level:.0%}: {three(ends[0] * 1e3)} to {three(ends[1] * 1e3)}",
        )  # fmt: skip

    def rate(answer: PredictionDocument) -> Number:
        span, high = answer.interval, answer.bounds.get("output_throughput")
        ends = span.output_throughput if span is not None else None
        return Number(
            f"{answer.output_throughput:,.0f}",
            answer.output_throughput,
            "" if high is None else f"never above {high:,.0f}",
            "" if ends is None or span is None else f"{span.level:.0%}: {ends[0]:,.0f} to {ends[1]:,.0f}",
            f"{answer.output_throughput_per_device:,.0f} per device",
        )

    return (
        Tile("Output throughput", "tokens/s", tuple(map(rate, answers)), names, "more"),
        Tile("Time per output token", "ms", tuple(ms(a, "tpot_s") for a in answers), names, "less"),
        Tile("Time to first token", "ms", tuple(ms(a, "ttft_s") for a in answers), names, "less"),
        Tile(
            "Memory per device",
            "GB",
            tuple(
                Number(
                    three(a.memory_bytes / 1e9),
                    a.memory_bytes,
                    note=f"of {a.memory_capacity_bytes / 1e9:,.4g}",
                )
                for a in answers
            ),
            names,
        ),
    )


def of_placement(document: PlacementDocument) -> tuple[Tile, ...]:
    """Balance before and after, what no placement beats, and what that is worth."""
    names = {"contiguous": "before", "plan": "plan"}
    judged = {names[n]: document.load_imbalance[n].fitted for n in names if n in document.load_imbalance}

    def busiest(title: str, which: Literal["mean", "worst"], low: float | None) -> Tile:
        values = {name: getattr(one, which) for name, one in judged.items()}
        numbers = tuple(
            Number(
                "-" if value is None else f"{value:.3f}",
                value,
                f"never below {low:.3f}" if low is not None and name == "plan" else "",
            )
            for name, value in values.items()
        )
        return Tile(title, "x mean load", numbers, tuple(values), "less")

    found = [
        busiest("Busiest rank, mean layer", "mean", document.lower_bound.mean),
        busiest("Busiest rank, worst layer", "worst", None),
    ]
    keys = {"before": "before", "plan": "after"}
    priced = {name: document.predicted[key] for name, key in keys.items() if key in document.predicted}
    if priced:
        rates = tuple(Number(f"{p.output_throughput:,.0f}", p.output_throughput) for p in priced.values())
        times = tuple(Number(three(p.tpot_s * 1e3), p.tpot_s) for p in priced.values())
        found += [
            Tile("Output throughput", "tokens/s", rates, tuple(priced), "more"),
            Tile("Time per output token", "ms", times, tuple(priced), "less"),
        ]
    return tuple(found)


def grouped(tiles: Sequence[Tile]) -> list[tuple[tuple[str, ...], list[Tile]]]:
    """Tiles of the same results together, in the order they come."""
    found: dict[tuple[str, ...], list[Tile]] = {}
    for tile in tiles:
        found.setdefault(tile.labels, []).append(tile)
    return list(found.items())


def rows_of(tiles: Sequence[Tile], most: int = MOST_BESIDE) -> list[int]:
    """Which of several results are shown: the first, the best of each metric, then the others in order.

    >>> costs = Tile("cost", "USD", tuple(Number(str(c), c) for c in (5, 4, 3, 2, 9)), tuple("abcde"), "less")
    >>> rows_of([costs], 3)
    [0, 1, 3]
    """
    count = len(tiles[0].numbers)
    best = [row for tile in tiles for row in range(count) if tile.best[row]]
    order = dict.fromkeys([0, *best, *range(count)])
    return sorted(list(order)[:most])
