"""How far a study is, and when it will be done."""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Callable
from typing import TextIO

#: The rate is that of the last minute.
WINDOW_S = 60.0


class Progress:
    """Lines on standard error: rewritten in place on a terminal, else one every ten seconds.

    Parameters
    ----------
    total
        Configurations to evaluate.
    stream, clock
        Where to write, and seconds from any start.

    Examples
    --------
    >>> now = iter([0.0, 0.0, 10.0, 10.0]).__next__
    >>> progress = Progress(100, sys.stdout, now)
    >>> progress.add(20)
    20 of 100 (20 %), 2.0 per second, 40 s to go
    """

    def __init__(
        self, total: int, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total = total
        self.done = 0
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._every_s = 0.5 if self._terminal else 10.0
        self._seen = collections.deque([(clock(), 0)])
        self._said_s = clock()

    @property
    def _terminal(self) -> bool:
        return self._stream.isatty()

    def add(self, count: int = 0) -> None:
        """Count what was done since, and say so if it is time."""
        now = self._clock()
        self.done += count
        self._seen.append((now, self.done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()
        if now - self._said_s >= self._every_s:
            self._said_s = self._clock()
            self._say(self.line())

    @property
    def rate_per_s(self) -> float:
        """Configurations per second in the last minute."""
        (start, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now - start) if now > start else 0.0

    def line(self) -> str:
        """What is said."""
        share = self.done / self.total if self.total else 1.0
        text = f"{self.done:,} of {self.total:,} ({share:.0%}), ".replace("%", " %")
        rate = self.rate_per_s
        if not rate:
            return f"{text}no rate yet"
        each = f"{rate:.1f} per second" if rate >= 1 else f"{1 / rate:.1f} s each"
        return f"{text}{each}, {duration((self.total - self.done) / rate)} to go"

    def end(self) -> None:
        """Leave the last line standing."""
        if self._terminal and self.total:
            self._say(self.line())
            self._stream.write("\n")

    def _say(self, text: str) -> None:
        self._stream.write(f"\r\x1b[2K{text}" if self._terminal else f"{text}\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(40), duration(400), duration(40000)
    ('40 s', '6 min 40 s', '11 h 6 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
