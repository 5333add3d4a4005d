"""A first look at a file: is it there, may it be read, what does it begin with."""

from __future__ import annotations

import os
import stat
import zipfile
from functools import cached_property
from pathlib import Path
from typing import IO

from moesim.errors import Fault, TraceError

_HEAD_BYTES = 4096
_CHUNK_BYTES = 1 << 20


class Peek:
    """A file that readers look at before one of them takes it.

    Parameters
    ----------
    path
        A regular file.

    Raises
    ------
    TraceError
        If it is missing, empty, a folder or another special file, or may not be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            info = self.path.stat()
            if stat.S_ISDIR(info.st_mode):
                raise TraceError(Fault("is a folder, not a file"), self.path)
            if not stat.S_ISREG(info.st_mode):
                raise TraceError(Fault("is no regular file"), self.path)
            with self.path.open("rb") as stream:
                self.head = stream.read(_HEAD_BYTES)
        except (OSError, ValueError) as error:
            raise unreadable(error, self.path) from None
        self.size = info.st_size
        if not self.head:
            raise TraceError(Fault("is empty"), self.path)

    def open(self) -> IO[bytes]:
        """The file, for reading from its start."""
        try:
            return self.path.open("rb")
        except OSError as error:
            raise unreadable(error, self.path) from None

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
        return self.head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")

    def contains(self, needle: bytes, limit_bytes: int) -> bool:
        """Whether `needle` occurs in the first `limit_bytes`, read in pieces."""
        if needle in self.head:
            return True
        tail, seen = b"", 0
        with self.open() as stream:
            while seen < limit_bytes and (chunk := stream.read(_CHUNK_BYTES)):
                if needle in tail + chunk:
                    return True
                seen += len(chunk)
                tail = chunk[-len(needle) + 1 :]
        return False


def unreadable(error: Exception, path: object) -> TraceError:
    """The error of a file that could not be read."""
    reason = getattr(error, "strerror", None) or str(error)
    return TraceError(Fault(f"cannot be read: {reason.lower()}"), path)
