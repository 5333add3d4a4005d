"""Download public traces: from a mirror folder if there is one, resumed if broken off, checked by hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import quote

from moesim.errors import ConfigError, Fault, UnknownNameError
from moesim.files import data_dir
from moesim.units import show

MIRROR = "MOESIM_MIRROR"
_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 60
Progress = Callable[[str, int, int | None], None]


class Stream(Protocol):
    """What is read from: a file or a response."""

    def read(self, size: int = ..., /) -> bytes: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a public trace.

    Parameters
    ----------
    path
        Its path below the folder of the trace.
    url
        Where it is.
    size_bytes, sha256
        When known.
    """

    path: str
    url: str
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class PublicTrace:
    """A trace that its owners let everyone download.

    Parameters
    ----------
    name
        What ``moesim trace fetch`` calls it.
    title, note
        What it is; what to know before using it.
    model
        Catalogue name, or empty.
    kind, format
        ``routing_trace`` or ``load_counts``; the format of the files.
    licence, source
        The owners' licence, and their page.
    files
        What is downloaded.
    """

    name: str
    title: str
    model: str
    kind: str
    format: str
    licence: str
    source: str
    note: str
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int | None:
        """Size of all files, if all are known."""
        sizes = [f.size_bytes for f in self.files]
        known = [s for s in sizes if s is not None]
        return sum(known) if len(known) == len(sizes) else None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is there now.

    Parameters
    ----------
    path
        Where.
    sha256
        Its hash.
    verified
        Whether the registry knows the hash, and it is this one.
    origin
        ``present``, ``mirror`` or ``network``.
    """

    path: Path
    sha256: str
    verified: bool
    origin: str


def registry(path: str | os.PathLike[str] | None = None) -> dict[str, PublicTrace]:
    """The public traces by name, from moesim's own list or another one of the same form.

    Raises
    ------
    ConfigError
        If the list cannot be read, or an entry is not complete.

    Examples
    --------
    >>> registry()["esft-intent"].licence.split()[0]
    'MIT'
    """
    source = Path(path) if path is not None else data_dir("traces") / "registry.json"
    try:
        entries = json.loads(source.read_text(encoding="utf-8"))["traces"]
        return {entry["name"]: _entry(entry) for entry in entries}
    except OSError as error:
        raise ConfigError(
            Fault(f"cannot be read: {(error.strerror or str(error)).lower()}"), source
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(Fault(f"is no registry of traces: {error!r}"), source) from None


def find(name: str, known: Mapping[str, PublicTrace] | None = None) -> PublicTrace:
    """The public trace of a name.

    Raises
    ------
    UnknownNameError
        With the nearest names.
    """
    traces = registry() if known is None else known
    if name not in traces:
        raise UnknownNameError("public trace", name, list(traces), "moesim trace fetch --list shows all")
    return traces[name]


def fetch(
    trace: PublicTrace,
    folder: str | os.PathLike[str],
    *,
    mirror: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> list[Fetched]:
    """Put the files of a public trace into a folder.

    A file that is there with the right hash stays. Else it is taken from ``mirror/<name>/<path>``, or from
    the network, continuing what an earlier run left in ``<path>.part``. It appears under its name only when
    it is whole and its hash is right.

    Parameters
    ----------
    trace
        What to fetch.
    folder
        Made if need be.
    mirror
        A local copy; without it the folder that ``MOESIM_MIRROR`` names, if it is set.
    progress
        Called with the path, the bytes there so far, and the bytes in all, if known.

    Returns
    -------
    list of Fetched
        In the order of the trace's files.

    Raises
    ------
    ConfigError
        If a file cannot be had, or its hash or size is wrong; nothing of a wrong file is kept.
    """
    local = mirror if mirror is not None else os.environ.get(MIRROR) or None
    root = Path(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            Fault(f"cannot be made: {(error.strerror or '').lower()}", "--output", str(root))
        ) from None
    shelf = None if local is None else Path(local) / trace.name
    return [_one(file, root, shelf, progress or (lambda *_: None)) for file in trace.files]


def _entry(entry: dict[str, Any]) -> PublicTrace:
    base = entry["base_url"].rstrip("/")
    files = tuple(
        RemoteFile(f["path"], f.get("url") or f"{base}/{quote(f['path'])}", f["bytes"], f["sha256"])
        for f in entry["files"]
    )
    for file in files:
        if PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts:
            raise ValueError(f"{file.path} leaves its folder")
        if not file.url.startswith(("https://", "http://")):
            raise ValueError(f"{file.url} is no web address")
    texts = {
        name: entry[name]
        for name in ("name", "title", "model", "kind", "format", "licence", "source", "note")
    }
    return PublicTrace(**texts, files=files)


def _one(file: RemoteFile, root: Path, shelf: Path | None, progress: Progress) -> Fetched:
    import pooch  # type: ignore[import-untyped]

    target = root / file.path
    got = _Download(file, target, shelf, progress)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        known = None if file.sha256 is None else f"sha256:{file.sha256}"
        with _quiet(pooch.get_logger()):
            pooch.retrieve(file.url, known, fname=target.name, path=target.parent, downloader=got)
    except ValueError:  # how pooch reports a wrong hash; the file is gone by now
        what = f"has the SHA-256 {got.sha256}: refused, and nothing of it kept"
        raise ConfigError(Fault(what, file.path, allowed=f"{file.sha256}"), got.origin) from None
    except OSError as error:
        raise ConfigError(
            Fault(f"cannot be written: {(error.strerror or str(error)).lower()}", file.path), target
        ) from None
    sha256 = got.sha256 or _sha256(target)
    return Fetched(target, sha256, file.sha256 == sha256, got.kind)


class _Download:
    """A downloader for pooch: from the mirror, or from the network with resumption.

    Parameters
    ----------
    file, target
        What, and where it will be.
    shelf
        The mirror's folder of this trace.
    progress
        Told about every piece.
    """

    def __init__(self, file: RemoteFile, target: Path, shelf: Path | None, progress: Progress) -> None:
        self.file, self.progress = file, progress
        self.copy = None if shelf is None else shelf / file.path
        self.part = target.with_name(target.name + ".part")
        self.tag = target.with_name(target.name + ".part.etag")
        self.kind, self.origin, self.sha256 = "present", str(target), ""

    def __call__(self, url: str, output_file: str, pooch: object) -> None:  # noqa: ARG002 - pooch's protocol
        out = Path(output_file)
        if self.copy is not None and self.copy.is_file():
            self.kind, self.origin = "mirror", str(self.copy)
            with self.copy.open("rb") as source, out.open("wb") as stream:
                self._pour(source, stream, 0, self.copy.stat().st_size)
        else:
            self.kind, self.origin = "network", url
            self._download()
            shutil.move(self.part, out)
            self.tag.unlink(missing_ok=True)
        size, wanted = out.stat().st_size, self.file.size_bytes
        self.sha256 = _sha256(out)
        if self.file.sha256 is None and wanted is not None and size != wanted:
            what = f"has {size:,} bytes: refused, and nothing of it kept"
            raise ConfigError(Fault(what, self.file.path, allowed=f"{wanted:,}"), self.origin)

    def _download(self) -> None:
        """Fill the ``.part`` file, from where it ends if the server can."""
        from http.client import HTTPException
        from urllib.error import HTTPError, URLError

        have = self._usable()
        try:
            if not self._request(have):
                self.part.unlink(missing_ok=True)
                self._request(0)
        except HTTPError as error:
            raise self._failed(f"HTTP {error.code} {error.reason}") from None
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            raise self._failed(str(getattr(error, "reason", None) or error)) from None

    def _usable(self) -> int:
        """Bytes of an earlier attempt that may be continued.

        Without a hash to check the whole by, and without the server's tag, the two halves might be of
        different files.
        """
        if not self.part.exists() or (self.file.sha256 is None and not self.tag.exists()):
            return 0
        return self.part.stat().st_size

    def _request(self, have: int) -> bool:
        """Download from byte `have` on; False if what is there cannot be continued."""
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen

        request = Request(self.file.url, headers={"User-Agent": "moesim"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            if self.tag.exists():
                request.add_header("If-Range", self.tag.read_text(encoding="utf-8"))
        try:
            response = urlopen(request, timeout=_TIMEOUT_S)
        except HTTPError as error:
            if error.code == 416 and have:
                error.close()
                return False
            raise
        with response:
            start = have if response.status == 206 else 0
            if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                return False
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else self.file.size_bytes
            tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if tag and not tag.startswith("W/"):
                self.tag.write_text(tag, encoding="utf-8")
            with self.part.open("ab" if start else "wb") as stream:
                there = self._pour(response, stream, start, total)
        if total is not None and there < total:
            raise self._failed(
                f"the connection broke off after {there:,} of {total:,} bytes; run again to go on"
            )
        return True

    def _pour(self, source: Stream, stream: Any, start: int, total: int | None) -> int:  # noqa: ANN401
        there = start
        self.progress(self.file.path, there, total)
        while chunk := source.read(_CHUNK_BYTES):
            stream.write(chunk)
            there += len(chunk)
            self.progress(self.file.path, there, total)
        return there

    def _failed(self, why: str) -> ConfigError:
        where = "" if self.copy is None else f" (and there is no {self.copy})"
        allowed = f"a network, or a folder named by {MIRROR} that holds <name>/{self.file.path}"
        return ConfigError(
            Fault(f"cannot be fetched: {why}{where}", self.file.path, allowed=allowed), self.origin
        )


def size_text(trace: PublicTrace) -> str:
    """Size of a trace for people."""
    return "size unknown" if trace.size_bytes is None else show(trace.size_bytes, "bytes")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Silence pooch, which would print the hash of every file in its own words."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
