"""Find shipped data and write files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from moesim.errors import ConfigError, Fault

#: What a file system says while it is written to; any other OSError may be of something that is read.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Folder of shipped data, ``hardware`` or ``traces``, from the wheel or from a checkout.

    >>> data_dir("hardware").is_dir()
    True
    """
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigError(f"moesim's own {name!r} folder is missing; reinstall moesim")


def cache_dir(room: str) -> Path:
    """A folder for what can be made again, in the user's cache or below ``MOESIM_CACHE``; made if absent.

    Raises
    ------
    ConfigError
        If nothing can be written there.
    """
    chosen = os.environ.get("MOESIM_CACHE")
    if not chosen:
        import pooch  # type: ignore[import-untyped]

        chosen = str(pooch.os_cache("moesim"))
    path = Path(chosen) / room
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fault = Fault(f"nothing can be kept there: {reason}", "MOESIM_CACHE", str(path), "a writable folder")
        raise ConfigError(fault) from None
    return path


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[str] | IO[bytes]]:
    """Open a temporary file beside `path` and rename it over `path` only if the block succeeds.

    Parameters
    ----------
    path
        The file to write.
    mode
        ``"w"`` for UTF-8 text, ``"wb"`` for bytes.

    Raises
    ------
    ConfigError
        If the folder is missing or cannot be written, or has no room, naming the path.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            Fault("cannot be written: " + reason.lower(), allowed="a writable path"), target
        ) from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(Fault(f"cannot be written: {reason}"), target) from None
        raise


def check_writable(path: str | os.PathLike[str], option: str) -> list[Fault]:
    """Faults that would keep `path` from being written, found before any work is done."""
    target = Path(path)
    folder = target.parent
    if target.is_dir():
        return [Fault("is a folder, not a file", option, str(target), "a file path")]
    if not folder.is_dir():
        return [Fault("its folder does not exist", option, str(target), "a path in an existing folder")]
    if not os.access(folder, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        return [Fault("cannot be written: permission denied", option, str(target), "a writable path")]
    return []
