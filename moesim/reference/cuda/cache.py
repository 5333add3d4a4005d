"""Compiled kernels are kept, by the hash of all that went into them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import filelock

from moesim.files import cache_dir

#: Sources of the kernels.
KERNELS = Path(__file__).resolve().parent / "kernels"


def folder() -> Path:
    """Where compiled kernels are kept."""
    return cache_dir("kernels")


@cache
def kernels_digest() -> bytes:
    """Hash of every file of `KERNELS`, names and contents."""
    digest = hashlib.sha256()
    for path in sorted(KERNELS.iterdir()):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return digest.digest()


def built(name: str, key: bytes, make: Callable[[Path], None]) -> Path:
    """File of the cache for a key, made if it is not there.

    Parameters
    ----------
    name
        Of the file, with its suffix; the key's hash goes in between.
    key
        Everything that the file's content depends on.
    make
        Writes the file at the path it is given. Others that want the same file wait for it; a file half
        written is never seen.
    """
    where = Path(name)
    target = folder() / f"{where.stem}-{hashlib.sha256(key).hexdigest()[:24]}{where.suffix}"
    if target.exists():
        return target
    with filelock.FileLock(f"{target}.lock"):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as room:
                unfinished = Path(room) / target.name
                make(unfinished)
                unfinished.replace(target)
    return target
