"""The objects of a JSON array, one at a time, however long the array."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

from moesim.requests.source import Faults, Source

#: One object, as text.
MAX_ITEM_CHARS = 64 * 2**20
_PIECE_BYTES = 1 << 20


def array_items(source: Source, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and value of every object of the array a file holds; ends at the first fault."""
    with source.open() as stream:
        text, count = _Text(stream), 0
        try:
            if text.next_char() != "[":
                faults.add("", "is no JSON array")
                return
            text.at += 1
            while (char := text.next_char()) != "]":
                if not char:
                    faults.add(f"[{count}]", "is truncated: the array does not end")
                    return
                if char == "," and count:
                    text.at += 1
                    char = text.next_char()
                if char != "{":
                    faults.add(f"[{count}]", "is no JSON object", char)
                    return
                yield count, text.value()
                count += 1
        except UnicodeDecodeError:
            faults.add(f"[{count}]", "is no UTF-8 text")
        except RecursionError:
            faults.add(f"[{count}]", "is nested too deeply")
        except ValueError as error:
            what = error.msg.lower() if isinstance(error, json.JSONDecodeError) else str(error)
            faults.add(f"[{count}]", f"is no JSON, or is truncated: {what}")


class _Text:
    """A file's text, of which no more is held than one item needs."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.at = 0
        self._stream = stream
        self._buffer, self._ended = "", False
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()

    def next_char(self) -> str:
        """The next character that is no space, or nothing at the end."""
        while True:
            while self.at < len(self._buffer) and self._buffer[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self._buffer):
                return self._buffer[self.at]
            if not self._more():
                return ""

    def value(self) -> dict[str, Any]:
        """The object that begins here."""
        while True:
            try:
                value, self.at = self._json.raw_decode(self._buffer, self.at)
            except json.JSONDecodeError:
                # One that goes on beyond what was read looks like a damaged one.
                if len(self._buffer) - self.at > MAX_ITEM_CHARS or not self._more():
                    raise
            else:
                found: dict[str, Any] = value
                return found

    def _more(self) -> bool:
        """Read on, as much again as waits, so that a long item is not tried often."""
        if self._ended:
            return False
        piece = self._stream.read(max(_PIECE_BYTES, len(self._buffer) - self.at))
        self._ended = not piece
        self._buffer, self.at = self._buffer[self.at :] + self._decode.decode(piece, self._ended), 0
        return not self._ended
