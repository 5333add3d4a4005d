"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A table in Markdown, or nothing without rows.

    >>> print(table(["a", "b"], [["x|y", ""]]))
    | a | b |
    |---|---|
    | x\|y |  |
    """
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = ["| " + " | ".join(line) + " |" for line in [list(columns), *cells]]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]]) if cells else ""


def code(text: str) -> str:
    """Double backquotes, as reStructuredText has them, become single ones.

    >>> code("a ``ttft_s`` in seconds")
    'a `ttft_s` in seconds'
    """
    return text.replace("``", "`")
