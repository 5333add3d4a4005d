"""Who is better of several, by how much, and whether that is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Ends = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Contender:
    """One of several results, by one metric.

    Parameters
    ----------
    value
        None where it is not known; such a one is left out.
    span
        Its interval; None without one.
    """

    label: str
    value: float | None
    span: Ends | None = None


def overlap(one: Ends, other: Ends) -> bool:
    """Whether two intervals have a value in common.

    >>> overlap((1.0, 2.0), (2.0, 3.0)), overlap((1.0, 2.0), (2.1, 3.0))
    (True, False)
    """
    return one[0] <= other[1] and other[0] <= one[1]


def best(contenders: Sequence[Contender], *, less: bool) -> list[Contender]:
    """Those with a value, the best first; of equals, the first."""
    known = [c for c in contenders if c.value is not None]
    return sorted(known, key=lambda c: (c.value if less else -c.value) if c.value is not None else 0.0)


def standing(contenders: Sequence[Contender], what: str, show: Callable[[float], str], *, less: bool) -> str:
    """Who has the least or the most of something, and whether intervals let that stand.

    Parameters
    ----------
    what
        The metric in a sentence, as in ``TPOT``.
    show
        Writes a value.

    Examples
    --------
    >>> a, b = Contender("a", 10.0, (9.0, 11.0)), Contender("b", 12.0, (10.5, 13.0))
    >>> standing([b, a], "TPOT", "{:g} ms".format, less=True)
    'a has the lowest TPOT (10 ms), 17 % below b (12 ms); their intervals overlap, so ... not decided ...'
    >>> standing([b, Contender("c", 10.0)], "TPOT", "{:g} ms".format, less=True)
    'c has the lowest TPOT (10 ms), 17 % below b (12 ms); not both have an interval.'
    """
    order = best(contenders, less=less)
    if len(order) < 2:
        return ""
    first, second = order[:2]
    assert first.value is not None
    assert second.value is not None
    if first.value == second.value:
        return f"{first.label} and {second.label} have the same {what} ({show(first.value)})."
    text = f"{first.label} has the {'lowest' if less else 'highest'} {what} ({show(first.value)})"
    if second.value:
        text += f", {apart(first.value, second.value)} {second.label} ({show(second.value)})"
    return f"{text}; {decided(first, second)}."


#: From this ratio on, percent say less than a factor.
_TIMES = 3.0


def apart(value: float, other: float) -> str:
    """How far a value is from another.

    >>> apart(1.0, 4.0), apart(5.0, 4.0), apart(3.999, 4.0)
    ('75 % below', '25 % above', '0.025 % below')
    >>> apart(334.0, 1.0)
    '334 times'
    """
    if value >= _TIMES * other > 0:
        return f"{value / other:,.3g} times"
    change = 100 * abs(value / other - 1)
    text = f"{change:.0f}" if change >= 10 else f"{change:.2g}"
    return f"{text} % {'below' if value < other else 'above'}"


def decided(one: Contender, other: Contender) -> str:
    """Whether two intervals tell two results apart."""
    if one.span is None or other.span is None:
        return "neither has an interval" if one.span is other.span else "not both have an interval"
    if overlap(one.span, other.span):
        return "their intervals overlap, so it is not decided which is better"
    return "their intervals do not overlap"
