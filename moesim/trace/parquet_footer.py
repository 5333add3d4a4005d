"""The number of values in each column of a Parquet file, from its footer.

pyarrow has them too, but asking it for a column of a damaged footer ends the process: it throws an exception
where C++ allows none. The footer is a structure of Thrift's compact protocol; all but a few fields are passed
over.
"""

from __future__ import annotations

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


def column_values(path: Path) -> list[tuple[int, list[tuple[str, int]]]]:
    """Rows, and the dotted path and number of values of each column, of every row group.

    Raises
    ------
    TraceError
        If the footer is damaged or too large.
    """
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

    def file(self) -> list[tuple[int, list[tuple[str, int]]]]:
        groups = []
        field = 0
        while (head := self._field(field)) is not None:
            field, kind = head
            if field == _ROW_GROUPS and kind == _LIST:
                groups = [self._row_group() for _ in range(self._structs())]
            else:
                self._skip(kind)
        return groups

    def _row_group(self) -> tuple[int, list[tuple[str, int]]]:
        columns: list[tuple[str, int]] = []
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

    def _chunk(self) -> tuple[str, int]:
        name, values, field = "", -1, 0
        while (head := self._field(field)) is not None:
            field, kind = head
            if field == _META and kind == _STRUCT:
                name, values = self._metadata()
            else:
                self._skip(kind)
        return name, values

    def _metadata(self) -> tuple[str, int]:
        name, values, field = "", -1, 0
        while (head := self._field(field)) is not None:
            field, kind = head
            if field == _PATH and kind == _LIST:
                inner, size = self._list()
                if inner != _BINARY:
                    raise ValueError("a column has a strange path")
                name = ".".join(self._text() for _ in range(size))
            elif field == _VALUES and kind in _VARINTS:
                values = self._zigzag()
            else:
                self._skip(kind)
        return name, values

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
