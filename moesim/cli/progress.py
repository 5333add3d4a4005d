"""Bars of progress on stderr, a line now and then where it is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from moesim.cli.common import stderr

if TYPE_CHECKING:
    from rich.progress import TaskID

#: Seconds between lines where they cannot overwrite each other.
EVERY_S = 10.0


class Bars:
    """A bar for each phase; a context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._bars = Progress(console=Console(stderr=True), transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._shown = sys.stderr.isatty()
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        if self._shown:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._bars.stop()

    def tell(self, phase: str, done: int, total: int) -> None:
        """Say how far a phase is."""
        if self._shown:
            if phase not in self._tasks:
                self._tasks[phase] = self._bars.add_task(phase)
            self._bars.update(self._tasks[phase], completed=done, total=total)
        elif time.monotonic() - self._last >= EVERY_S:
            stderr(f"{phase}: {done:,} of {total:,}")
            self._last = time.monotonic()
