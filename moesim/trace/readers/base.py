"""What a reader is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moesim.trace.peek import Peek
from moesim.trace.shape import Hints
from moesim.trace.types import Routing


@dataclass(frozen=True, slots=True)
class Reader:
    """One format.

    Parameters
    ----------
    name
        Short name, as printed by ``moesim trace info``.
    title
        What it is, in a few words.
    sniff
        How sure the reader is, from the content alone, that a file is its own: 0 not at all, 1 certain.
        It may look, it may not raise.
    read
        Reads the file; `TraceError` for whatever is wrong with it.
    """

    name: str
    title: str
    sniff: Callable[[Peek], float]
    read: Callable[[Peek, Hints], Routing]
