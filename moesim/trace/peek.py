"""A first look at a file or folder: is it there, may it be read, what does it begin with."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from moesim.errors import Fault, TraceError
from moesim.trace.limits import FREE_BYTES, MAX_LINE_BYTES, MAX_RATIO, size_fault

_HEAD_BYTES = 4096
_PICKLE_HEAD_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
_MAX_FILES, _MAX_DEPTH = 1_000_000, 6
_GZIP = b"\x1f\x8b"
_BROKEN_GZIP = (OSError, EOFError, zlib.error)
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


class Peek:
    """A file or folder that readers look at before one of them takes it.

    Parameters
    ----------
    path
        A regular file, or a folder of them.

    Attributes
    ----------
    head
        The first bytes; none for a folder.
    size
        Bytes; for a folder, of all files below it.
    is_folder
        Whether it is a folder.

    Raises
    ------
    TraceError
        If it is missing, empty, a special file, or may not be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.is_folder = False
        try:
            info = self.path.stat()
            if stat.S_ISDIR(info.st_mode):
                self.is_folder, self.head = True, b""
                self._sizes = dict(_files(self.path))
                self.size = sum(self._sizes.values())
                return
            if not stat.S_ISREG(info.st_mode):
                raise TraceError(Fault("is no regular file"), self.path)
            with self.path.open("rb") as stream:
                self.head = stream.read(_HEAD_BYTES)
        except (OSError, ValueError) as error:
            raise unreadable(error, self.path) from None
        self.size = info.st_size
        if not self.head:
            raise TraceError(Fault("is empty"), self.path)

    @property
    def names(self) -> tuple[str, ...]:
        """Files below a folder, as sorted relative paths with forward slashes; empty for a file."""
        return tuple(self._sizes) if self.is_folder else ()

    def child(self, name: str) -> Peek:
        """A file below this folder."""
        return Peek(self.path / name)

    def open(self) -> IO[bytes]:
        """The file, for reading from its start."""
        try:
            return self.path.open("rb")
        except OSError as error:
            raise unreadable(error, self.path) from None

    def open_text(self) -> IO[bytes]:
        """The file for reading from its start, unpacked within bounds if it is gzipped."""
        stream = self.open()
        if not self.head.startswith(_GZIP):
            return stream
        return io.BufferedReader(_Unpacked(stream, self.path, max(FREE_BYTES, MAX_RATIO * self.size)))

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines of a text, numbered from 1; blank ones are passed over.

        Raises
        ------
        TraceError
            If a line is longer than any trace's, or the file cannot be read or unpacked.
        """
        try:
            with self.open_text() as stream:
                number = 0
                while line := stream.readline(MAX_LINE_BYTES):
                    number += 1
                    if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                        raise TraceError(
                            size_fault(len(line) + 1, f"line {number}", MAX_LINE_BYTES) or "", self.path
                        )
                    if not line.isspace():
                        yield number, line
        except OSError as error:
            raise unreadable(error, self.path) from None

    @cached_property
    def text_head(self) -> bytes:
        """The first bytes of the text, unpacked if it is gzipped; nothing if that fails."""
        if not self.head.startswith(_GZIP):
            return self.head
        try:
            return zlib.decompressobj(wbits=31).decompress(self.head, _HEAD_BYTES)
        except zlib.error:
            return b""

    @cached_property
    def pickle_head(self) -> bytes:
        """The beginning of the pickle in a ``torch.save`` archive; nothing for any other file."""
        names = [name for name in self.zip_names if name.endswith("/data.pkl")]
        if not names:
            return b""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(names[0]) as stream:
                return stream.read(_PICKLE_HEAD_BYTES)
        except (*_BROKEN_ZIP, KeyError):
            return b""

    @cached_property
    def zip_names(self) -> tuple[str, ...]:
        """Names inside a zip archive; empty for anything else, and for a damaged archive."""
        if not self.head.startswith(b"PK"):
            return ()
        try:
            with zipfile.ZipFile(self.path) as archive:
                return tuple(archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return ()

    @cached_property
    def looks_like_json(self) -> bool:
        """Whether the first character that is no space opens a JSON object or array."""
        return self.text_head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")

    def contains(self, needle: bytes, limit_bytes: int) -> bool:
        """Whether `needle` occurs in the first `limit_bytes` of the text, read in pieces."""
        if needle in self.text_head:
            return True
        tail, seen = b"", 0
        try:
            with self.open_text() as stream:
                while seen < limit_bytes and (chunk := stream.read(_CHUNK_BYTES)):
                    if needle in tail + chunk:
                        return True
                    seen += len(chunk)
                    tail = chunk[-len(needle) + 1 :]
        except (OSError, TraceError):
            return False  # What is wrong with it is for the reader to say.
        return False


class _Unpacked(io.RawIOBase):
    """What a gzip file holds, up to a limit."""

    def __init__(self, packed: IO[bytes], path: Path, limit_bytes: int) -> None:
        self._packed, self._path, self._limit, self._left = packed, path, limit_bytes, limit_bytes
        self._stream = gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        try:
            chunk = self._stream.read(min(len(buffer), _CHUNK_BYTES))
        except _BROKEN_GZIP as error:
            reason = (str(error) or type(error).__name__).lower()
            raise TraceError(Fault(f"is damaged or truncated gzip: {reason}"), self._path) from None
        self._left -= len(chunk)
        if self._left < 0:
            fault = Fault("unpacks to more than any real trace", allowed=f"{self._limit} bytes")
            raise TraceError(fault, self._path)
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._packed.close()
        super().close()


def _files(folder: Path, prefix: str = "", depth: int = 0) -> list[tuple[str, int]]:
    """Regular files below a folder with their sizes, sorted by relative path; hidden ones are left out."""
    found: list[tuple[str, int]] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if depth < _MAX_DEPTH:
                    found += _files(Path(entry.path), f"{name}/", depth + 1)
            elif entry.is_file():
                found.append((name, entry.stat().st_size))
            if len(found) > _MAX_FILES:
                raise TraceError(Fault(f"holds more than {_MAX_FILES} files"), folder)
    return found


def unreadable(error: Exception, path: object) -> TraceError:
    """The error of a file that could not be read."""
    reason = getattr(error, "strerror", None) or str(error)
    return TraceError(Fault(f"cannot be read: {reason.lower()}"), path)
