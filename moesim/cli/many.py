"""Options that take several values in a row."""

from __future__ import annotations

from collections.abc import Sequence

#: Options that take one value or more.
MANY = ("--robust",)


def spread(words: Sequence[str], options: Sequence[str] = MANY) -> list[str]:
    """Repeat an option before each of the values behind it.

    >>> spread(["a", "--robust", "b", "c", "--ep", "8"])
    ['a', '--robust', 'b', '--robust', 'c', '--ep', '8']
    """
    found: list[str] = []
    option = ""
    for word in words:
        if word.startswith("-"):
            option = word if word in options else ""
            found += [] if option else [word]
        else:
            found += [option, word] if option else [word]
    return found
