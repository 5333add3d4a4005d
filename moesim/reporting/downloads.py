"""What a reader can save from a page: the data of each figure and all of it, thinned where it is too much."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from moesim.errors import ConfigError
from moesim.reporting.documents import ReportDocument, checked
from moesim.reporting.figures import Figure
from moesim.reporting.gather import compact

#: Bytes of the table of one figure.
MOST_CSV_BYTES = 60_000
#: What a page is never without.
_KEPT = ("schema_version", "kind", "title", "notes", "labels", "provenance")

_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Download:
    """A link that saves something.

    Parameters
    ----------
    href
        A ``data:`` address.
    name
        Of the file.
    note
        What of it was left out.
    """

    href: str
    name: str
    note: str = ""


def csv_download(figure: Figure, name: str, room: int) -> Download | None:
    """The table behind a figure; of a long one, every k-th row and the last; None if it does not fit.

    Parameters
    ----------
    name
        Of the file.
    room
        Most bytes of the link.
    """
    table, kept, rows = thinned_csv(figure, min(MOST_CSV_BYTES, room * 3 // 4 - 100))
    if not table:
        return None
    note = f"{kept:,} of {rows:,} rows, evenly spaced" if kept < rows else ""
    return Download(_link("text/csv", table), name, note)


def thinned_csv(figure: Figure, most: int) -> tuple[str, int, int]:
    """A figure's table in at most so many bytes.

    Returns
    -------
    tuple
        The text (empty if not even the first and last row fit), rows in it, rows there are.
    """
    columns = list(figure.data.values())
    rows = len(columns[0]) if columns else 0
    # A first guess from a few rows, so that no long table is written in vain.
    some = range(0, rows, max(1, rows // 100))
    step = max(1, len(_csv(figure, list(some))) * rows // max(1, len(some) * most))
    while True:
        picked = sorted({*range(0, rows, step), rows - 1}) if rows else []
        text = _csv(figure, picked)
        size = len(text.encode())
        if size <= most:
            return text, len(picked), rows
        if len(picked) <= 2:
            return "", 0, rows
        step = max(step + 1, step * size // most)


def json_download(data: str) -> Download:
    """All data of a page."""
    return Download(_link("application/json", data), "moesim-report.json")


def lightened(document: ReportDocument, most: int) -> tuple[str, tuple[str, ...]]:
    """A report's data as JSON of at most so many characters.

    Of what a report can be without, the smallest part that makes the rest fit is left out; where no single
    one does, the largest, and again.

    Returns
    -------
    tuple
        The JSON, which is empty if it cannot be made to fit, and the paths of what was left out.
    """
    values = compact(document.model_dump(mode="json"))
    text = _dumped(values)
    over = len(text) - most
    if over <= 0:
        return text, ()
    left = sorted(_optional(document, values), key=lambda part: part[1])
    left_out: list[_Path] = []
    while over > 0 and left:
        path, saved = next((part for part in left if part[1] >= over), left[-1])
        left = [part for part in left if not _one_in_other(part[0], path)]
        left_out.append(path)
        over -= saved
        values = _without(values, path)
    try:
        text = _dumped(compact(checked(ReportDocument, values).model_dump(mode="json")))
    except ConfigError:
        # Parts that need each other: no part of the data would be read again.
        text = ""
    if over > 0 or not 0 < len(text) <= most:
        return "", ("everything",)
    return text, tuple(".".join(map(str, path)) for path in left_out)


def _one_in_other(one: _Path, other: _Path) -> bool:
    size = min(len(one), len(other))
    return one[:size] == other[:size]


def _dumped(values: Any) -> str:  # noqa: ANN401 - any JSON
    return json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _optional(model: BaseModel, values: dict[str, Any], path: _Path = ()) -> Iterator[tuple[_Path, int]]:
    """Every part that has a default and is not it, with the characters that leaving it out saves."""
    for name, about in type(model).model_fields.items():
        found = getattr(model, name)
        if not path and name in _KEPT:
            continue
        if not about.is_required():
            default = about.get_default(call_default_factory=True)
            shown = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
            saved = len(_dumped(values[name])) - len(_dumped(shown))
            if saved > 0:
                yield (*path, name), saved
        yield from _inner(found, values[name], (*path, name))


def _inner(found: object, values: Any, path: _Path) -> Iterator[tuple[_Path, int]]:  # noqa: ANN401 - any JSON
    if isinstance(found, BaseModel):
        yield from _optional(found, values, path)
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from _inner(value, values[key], (*path, key))
    elif isinstance(found, list) and found and isinstance(found[0], BaseModel):
        for nth, value in enumerate(found):
            yield from _inner(value, values[nth], (*path, nth))


def _without(values: Any, path: tuple[str | int, ...]) -> Any:  # noqa: ANN401
    """A tree without one branch."""
    head, *rest = path
    if not rest:
        return {key: value for key, value in values.items() if key != head}
    if isinstance(values, list):
        return [_without(value, tuple(rest)) if nth == head else value for nth, value in enumerate(values)]
    return {key: _without(value, tuple(rest)) if key == head else value for key, value in values.items()}


def _csv(figure: Figure, picked: list[int]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(figure.data)
    columns = list(figure.data.values())
    writer.writerows([_cell(column[i]) for column in columns] for i in picked)
    return text.getvalue()


def _cell(value: object) -> object:
    """A cell that a spreadsheet takes for text, if it is one: names come from files."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _link(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode('ascii')}"
