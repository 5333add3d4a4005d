"""Which part of a run is like any other: without its beginning on an empty machine, and its end.

The beginning is found by MSER-5: of all beginnings that could be left out, the one that leaves the smallest
standard error, over means of five (White, An effective truncation heuristic for bias reduction in simulation
output, Simulation 69, 1997; White, Cobb and Spratt, A comparison of five steady-state truncation heuristics,
WSC 2000). The end is the beginning of the same series read backwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.serving.outcome import Outcome

F8 = npt.NDArray[np.float64]

BATCH = 5
AUTO, NONE = "auto", "none"


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The part of a run that statistics are of.

    Parameters
    ----------
    from_s, to_s
        Time over which rates and means over time are taken.
    chosen
        Requests whose latencies count, bool ``[requests]``: those sent in it.
    cut
        Requests left out at the beginning and at the end.
    notes
        Why it may not do.
    """

    from_s: float
    to_s: float
    chosen: npt.NDArray[np.bool_]
    cut: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.to_s - self.from_s


def mser(series: npt.ArrayLike, batch: int = BATCH) -> tuple[int, bool]:
    """Samples to leave out at the beginning, and whether the rest is settled.

    Parameters
    ----------
    series
        ``[samples]`` in order.
    batch
        Samples that are averaged first; what is left of the last batch is not looked at.

    Returns
    -------
    tuple
        At most half the samples; not settled if leaving out more might be better.

    Examples
    --------
    >>> mser([9.0] * 10 + [1.0, 2.0] * 45)
    (10, True)
    """
    y = np.asarray(series, np.float64)
    n = len(y) // batch
    if n < 2:
        return 0, True
    means = y[: n * batch].reshape(n, batch).mean(axis=1)
    middle = means.mean()
    if np.ptp(means) <= 1e-9 * abs(middle):
        return 0, True
    means -= middle
    left = np.arange(n, 0, -1, dtype=np.float64)
    sums, squares = (np.cumsum(x[::-1])[::-1] for x in (means, means**2))
    error = np.maximum(squares - sums**2 / left, 0.0) / left**2
    most = n // 2
    best = int(np.argmin(error[: most + 1]))
    return best * batch, best < most or n < 4


def parse_cut(text: str, where: str) -> str | float:
    """How much to leave out, as people write it: ``auto``, ``none``, seconds (``30s``), a share (``0.1``).

    Returns
    -------
    str or float
        ``auto``, ``none``, seconds, or, where negative, a share of the requests with its sign changed.

    Raises
    ------
    ConfigError
        If it is none of them.

    Examples
    --------
    >>> parse_cut("30s", "--warmup"), parse_cut("0.25", "--warmup")
    (30.0, -0.25)
    """
    if text in (AUTO, NONE):
        return text
    try:
        number = float(text[:-1] if text.endswith("s") else text)
    except ValueError:
        number = math.nan
    if text.endswith("s") and 0 <= number < 1e12:
        return number
    if not text.endswith("s") and 0 <= number < 1:
        return -number if number else NONE
    raise ConfigError(
        Fault("is no such time or share", where, text, "auto, none, SECONDSs as in 30s, or a share below 1")
    )


def window_of(outcome: Outcome, warmup: str | float = AUTO, cooldown: str | float = AUTO) -> Window:
    """The part of a run to look at.

    Parameters
    ----------
    outcome
        What happened.
    warmup, cooldown
        What to leave out at the beginning and at the end, as `parse_cut` gives them. `cooldown` counts back
        from when the last request was sent; ``none`` keeps all until the last token.

    Raises
    ------
    ConfigError
        If nothing is left.
    """
    p = outcome.state.progress
    begin, end = outcome.span_s
    order = np.argsort(p.sent_s, kind="stable")
    order = order[np.isfinite(p.sent_s[order])]
    notes: list[str] = []
    if not len(order):
        return Window(begin, end, np.zeros(len(p.sent_s), np.bool_))
    sent = p.sent_s[order]
    finished = outcome.done[order]
    places = np.flatnonzero(finished)
    series = outcome.e2el_s[order[places]]

    def cut(how: str | float, backwards: bool) -> int:
        """Requests, in order of sending, to leave out at one end."""
        if how == NONE:
            return 0
        if how == AUTO:
            if len(series) < 4 * BATCH:
                notes.append(f"too few requests to find the {'end' if backwards else 'warm-up'} by MSER-5")
                return 0
            many, settled = mser(series[::-1] if backwards else series)
            if not settled:
                part = (
                    "second half is unlike the first, seen from its end"
                    if backwards
                    else "run does not settle"
                )
                notes.append(f"MSER-5 would leave out half of the run or more: the {part}")
            if not many:
                return 0
            return int(len(sent) - 1 - places[-many] if backwards else places[many - 1]) + 1
        assert not isinstance(how, str)
        if how < 0:
            return int(-how * len(sent))
        if backwards:
            return int(len(sent) - np.searchsorted(sent, sent[-1] - how, "right"))
        return int(np.searchsorted(sent, sent[0] + how, "left"))

    early, late = cut(warmup, False), cut(cooldown, True)
    if early + late >= len(sent):
        raise ConfigError(
            Fault(
                "leave nothing of the run",
                "--warmup, --cooldown",
                f"{early} and {late} of {len(sent)} requests",
            )
        )
    chosen = np.zeros(len(p.sent_s), np.bool_)
    kept = order[early : len(sent) - late]
    chosen[kept] = True
    from_s = float(sent[early]) if early else begin
    to_s = end if cooldown == NONE else float(sent[len(sent) - late - 1])
    if to_s <= from_s:  # all sent together
        to_s = end
    return Window(from_s, to_s, chosen, (early, late), tuple(notes))
