"""What a reader is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moesim.trace.peek import Peek
from moesim.trace.shape import Hints
from moesim.trace.tokens import Tokens
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
    tokens
        For a file that holds some requests of many: what it holds before layers and experts are settled,
        so that a folder of such files reads as one trace.
    """

    name: str
    title: str
    sniff: Callable[[Peek], float]
    read: Callable[[Peek, Hints], Routing]
    tokens: Callable[[Peek, Hints], Tokens] | None = None


def token_reader(
    name: str, title: str, sniff: Callable[[Peek], float], tokens: Callable[[Peek, Hints], Tokens]
) -> Reader:
    """A reader of tokens, from the function that finds them in a file."""

    def read(peek: Peek, hints: Hints) -> Routing:
        return tokens(peek, hints).trace(hints)

    return Reader(name, title, sniff, read, tokens)
