"""Options that take several values in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Options that take one value or more, by command.
MANY: Mapping[str, tuple[str, ...]] = {
    "validate": ("--traces",),
    "place": ("--robust",),
    "simulate": ("--goodput",),
    "plan": (
        "--model",
        "--hardware",
        "--goodput",
        "--price",
        "--dtype",
        "--kv-cache-dtype",
        "--tensor-parallel-size",
        "--tp",
        "--pipeline-parallel-size",
        "--pp",
        "--data-parallel-size",
        "--dp",
        "--expert-parallel-size",
        "--ep",
        "--redundant",
        "--max-num-batched-tokens",
        "--max-num-seqs",
    ),
}


def spread(words: Sequence[str], options: Mapping[str, Sequence[str]] = MANY) -> list[str]:
    """Repeat an option before each of the values behind it; the first word is the command.

    >>> spread(["place", "a", "--robust", "b", "c", "--ep", "8"])
    ['place', 'a', '--robust', 'b', '--robust', 'c', '--ep', '8']
    >>> spread(["predict", "--hardware", "b", "c"])
    ['predict', '--hardware', 'b', 'c']
    """
    taking = options.get(words[0], ()) if words else ()
    found: list[str] = []
    option = ""
    for word in words:
        if word.startswith("-"):
            option = word if word in taking else ""
            found += [] if option else [word]
        else:
            found += [option, word] if option else [word]
    return found
