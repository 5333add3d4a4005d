"""What a Parquet file claims of its columns and pages, read without trusting it.

pyarrow knows the numbers of values too, but asking it for a column of a damaged footer ends the process: it
throws an exception where C++ allows none. Footer and headers of pages are structures of Thrift's compact
protocol; all but a few fields are passed over.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from moesim.errors import Fault, TraceError
from moesim.trace.limits import size_fault
from moesim.trace.peek import unreadable

_MAX_FOOTER_BYTES = 64 * 2**20
_MAX_DEPTH = 24
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    10,
    11,
    12,
    13,
)
_VARINTS = (4, 5, 6)
_FIXED = {_BYTE: 1, _DOUBLE: 8, _UUID: 16}
#: Field numbers of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
_ROW_GROUPS, _COLUMNS, _ROWS, _META, _PATH, _VALUES = 4, 1, 3, 3, 3, 5
_STORED, _DATA, _DICTIONARY = 7, 9, 11
#: Those of PageHeader.
_UNPACKED, _PACKED = 2, 3
_PAGE_WINDOW, _MAX_PAGES = 1 << 16, 1_000_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """A column of a row group: its dotted path, values, first byte and compressed bytes."""

    name: str
    values: int
    start: int
    nbytes: int


def column_values(path: Path) -> list[tuple[int, list[tuple[str, int]]]]:
    """Rows, and the dotted path and number of values of each column, of every row group.

    Raises
    ------
    TraceError
        If the footer is damaged or too large.
    """
    return [(rows, [(c.name, c.values) for c in chunks]) for rows, chunks in _footer(path)]


def page_fault(path: Path, names: Collection[str]) -> Fault | None:
    """The first page of some columns that claims to be larger than it can be, or None.

    What reads a page believes its header and allocates that much first.

    Raises
    ------
    TraceError
        If a header of a page or the footer is damaged.
    """
    size, pages = path.stat().st_size, 0
    try:
        with path.open("rb") as stream:
            for _, chunks in _footer(path):
                for chunk in chunks:
                    if chunk.name.split(".")[0] not in names or not chunk.values:
                        continue
                    at, end = chunk.start, min(size, chunk.start + chunk.nbytes)
                    while at < end:
                        if not 0 <= at < size or pages == _MAX_PAGES:
                            return Fault("has pages that lie outside the file, or too many", chunk.name)
                        stream.seek(at)
                        header, unpacked, packed = _Compact(stream.read(_PAGE_WINDOW)).page()
                        fault = size_fault(unpacked, f"a page of {chunk.name}", on_disk_bytes=size)
                        if fault or unpacked < 0 or not 0 <= packed <= end - at - header:
                            return fault or Fault("has a page that is larger than its column", chunk.name)
                        at, pages = at + header + packed, pages + 1
    except OSError as error:
        raise unreadable(error, path) from None
    except (IndexError, ValueError) as error:
        raise TraceError(Fault(f"has a damaged page: {error}"), path) from None
    return None


def _footer(path: Path) -> list[tuple[int, list[Chunk]]]:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - 8))
            tail = stream.read(8)
            length = int.from_bytes(tail[:4], "little")
            if tail[4:] != b"PAR1" or length > size - 8:
                raise TraceError(Fault("is no Parquet file, or is truncated"), path)
            fault = size_fault(length, "the footer", _MAX_FOOTER_BYTES)
            if fault:
                raise TraceError(fault, path)
            stream.seek(size - 8 - length)
            footer = stream.read(length)
    except OSError as error:
        raise unreadable(error, path) from None
    try:
        return _Compact(footer).file()
    except (IndexError, ValueError) as error:
        raise TraceError(Fault(f"has a damaged footer: {error}"), path) from None


class _Compact:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def page(self) -> tuple[int, int, int]:
        """Bytes of the header of a page, of the page unpacked, and as stored."""
        sizes, field = {_UNPACKED: -1, _PACKED: -1}, 0
        while (head := self._field(field)) is not None:
            field, kind = head
            if field in sizes and kind in _VARINTS:
                sizes[field] = self._zigzag()
            else:
                self._skip(kind)
        return self._at, sizes[_UNPACKED], sizes[_PACKED]

    def file(self) -> list[tuple[int, list[Chunk]]]:
        groups = []
        field = 0
        while (head := self._field(field)) is not None:
            field, kind = head
            if field == _ROW_GROUPS and kind == _LIST:
                groups = [self._row_group() for _ in range(self._structs())]
            else:
                self._skip(kind)
        return groups

    def _row_group(self) -> tuple[int, list[Chunk]]:
        columns: list[Chunk] = []
        rows = field = 0
        while (head := self._field(field)) is not None:
            field, kind = head
            if field == _COLUMNS and kind == _LIST:
                columns = [self._chunk() for _ in range(self._structs())]
            elif field == _ROWS and kind in _VARINTS:
                rows = self._zigzag()
            else:
                self._skip(kind)
        return rows, columns

    def _chunk(self) -> Chunk:
        chunk, field = Chunk("", -1, 0, 0), 0
        while (head := self._field(field)) is not None:
            field, kind = head
            if field == _META and kind == _STRUCT:
                chunk = self._metadata()
            else:
                self._skip(kind)
        return chunk

    def _metadata(self) -> Chunk:
        name, field = "", 0
        numbers = {_VALUES: -1, _STORED: 0, _DATA: 0, _DICTIONARY: 0}
        while (head := self._field(field)) is not None:
            field, kind = head
            if field == _PATH and kind == _LIST:
                inner, size = self._list()
                if inner != _BINARY:
                    raise ValueError("a column has a strange path")
                name = ".".join(self._text() for _ in range(size))
            elif field in numbers and kind in _VARINTS:
                numbers[field] = self._zigzag()
            else:
                self._skip(kind)
        first = numbers[_DICTIONARY]
        start = first if 0 < first < numbers[_DATA] else numbers[_DATA]
        return Chunk(name, numbers[_VALUES], start, numbers[_STORED])

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _field(self, last: int) -> tuple[int, int] | None:
        head = self._byte()
        if head & 0x0F == _STOP:
            return None
        number = last + (head >> 4) if head >> 4 else self._zigzag()
        return number, head & 0x0F

    def _list(self) -> tuple[int, int]:
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._varint()
        if size > len(self._data):
            raise ValueError("a list is longer than the footer")
        return head & 0x0F, size

    def _structs(self) -> int:
        kind, size = self._list()
        if kind != _STRUCT and size:
            raise ValueError("a list holds something strange")
        return size

    def _text(self) -> str:
        length = self._varint()
        start = self._jump(length)
        return self._data[start : start + length].decode("utf-8", errors="replace")

    def _jump(self, count: int) -> int:
        start = self._at
        if count > len(self._data) - start:
            raise ValueError("it is truncated")
        self._at += count
        return start

    def _skip(self, kind: int, depth: int = 0, in_list: bool = False) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if kind in _VARINTS:
            self._varint()
        elif kind in (_TRUE, _FALSE):
            self._jump(int(in_list))
        elif kind in _FIXED:
            self._jump(_FIXED[kind])
        elif kind == _BINARY:
            self._jump(self._varint())
        elif kind in (_LIST, _SET):
            inner, size = self._list()
            for _ in range(size):
                self._skip(inner, depth + 1, in_list=True)
        elif kind == _MAP:
            size = self._varint()
            kinds = self._byte() if size else 0
            if size > len(self._data):
                raise ValueError("a map is longer than the footer")
            for _ in range(size):
                self._skip(kinds >> 4, depth + 1, in_list=True)
                self._skip(kinds & 0x0F, depth + 1, in_list=True)
        elif kind == _STRUCT:
            field = 0
            while (head := self._field(field)) is not None:
                field, inner = head
                self._skip(inner, depth + 1)
        else:
            raise ValueError("it has a value of an unknown type")
