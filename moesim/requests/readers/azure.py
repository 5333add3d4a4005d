"""Azure's LLM inference traces of 2023 and 2024: ``TIMESTAMP,ContextTokens,GeneratedTokens``.

Times are absolute, with seven decimals in 2023 and a UTC offset in 2024. The 2025 traces add columns, which
are not read.
"""

from __future__ import annotations

from datetime import UTC, datetime

from moesim.requests.comma import CommaFile
from moesim.requests.readers.base import RequestReader
from moesim.requests.rows import Rows
from moesim.requests.source import Faults, Source, whole
from moesim.requests.types import RequestTrace

_TIME, _INPUT, _OUTPUT = "TIMESTAMP", "ContextTokens", "GeneratedTokens"


def _sniff(source: Source) -> bool:
    return {_TIME, _INPUT, _OUTPUT} <= {name.strip() for name in source.first_line.split(",")}


def _read(source: Source) -> RequestTrace:
    rows = Rows(source)
    table = CommaFile(source, rows.faults)
    at_time, at_input, at_output = table.places(_TIME, _INPUT, _OUTPUT)
    clock = _Clock(rows.faults)
    first, silent = "", 0
    for number, cells in table.rows():
        arrival_s = clock.seconds(cells[at_time].strip(), number)
        read = whole(cells[at_input], f"line {number}, {_INPUT}", rows.faults)
        generated = whole(cells[at_output], f"line {number}, {_OUTPUT}", rows.faults)
        first = first or cells[at_time].strip()
        if read == 0 or generated == 0:
            silent += 1
            continue
        rows.add(arrival_s, read, generated)
    if silent:
        rows.notes.append(f"{silent} requests without input or output tokens were left out")
    return rows.finish("azure", from_first=True, metadata={"began": first})


class _Clock:
    """Absolute times as seconds since the midnight before the first one, to all their decimals."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._known: dict[str, float] = {}
        self._origin: datetime | None = None

    def seconds(self, text: str, number: int) -> float | None:
        whole_part, _, rest = text.partition(".")
        fraction = rest.rstrip("Z")
        for sign in "+-":
            fraction = fraction.partition(sign)[0]
        offset = rest[len(fraction) :]
        key = whole_part + offset
        if key not in self._known:
            try:
                when = datetime.fromisoformat(key)
            except ValueError:
                when = None
            if when is None or not when.year > 1970:
                self._fault(number, text)
                return None
            when = when if when.tzinfo else when.replace(tzinfo=UTC)
            if self._origin is None:
                self._origin = when.replace(hour=0, minute=0, second=0)
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[key] = (when - self._origin).total_seconds()
        if rest and not (fraction.isascii() and fraction.isdigit() and len(fraction) <= 12):
            self._fault(number, text)
            return None
        return self._known[key] + (int(fraction) / 10 ** len(fraction) if fraction else 0.0)

    def _fault(self, number: int, text: str) -> None:
        allowed = "such as 2023-11-16 18:17:03.9799600"
        self._faults.add(f"line {number}, {_TIME}", "is no date and time", text, allowed)


READER = RequestReader("azure", f"Azure CSV {_TIME},{_INPUT},{_OUTPUT}", _sniff, _read)
