"""Short names that tell results apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from moesim.reporting.documents import Document


def labels_of(results: Sequence[Document]) -> list[str]:
    """What differs between results, else their number."""
    parts = [result.traits for result in results]
    if len(results) == 1:
        return [next((trait for trait in parts[0] if trait), results[0].title)]
    columns = list(zip_longest(*parts, fillvalue=""))
    differing = [column for column in columns if len(set(column)) > 1]
    names = [", ".join(filter(None, row)) for row in zip(*differing, strict=True)] or [""] * len(results)
    clash = len(set(names)) < len(names) or not all(names)
    return (
        [f"{nth + 1}: {name}" if name else str(nth + 1) for nth, name in enumerate(names)] if clash else names
    )


def title_of(results: Sequence[Document]) -> str:
    """What a page about results is called that was given no title."""
    if len(results) == 1:
        return f"{results[0].title}: {labels_of(results)[0]}"
    return f"{len(results)} results side by side"
