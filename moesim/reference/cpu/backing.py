"""A file as slow memory, where the weights of experts lie that have no place in fast memory."""

from __future__ import annotations

import tempfile
from typing import BinaryIO

from moesim.errors import ConfigError, Fault
from moesim.reference.exact import Bits


def file_of(words: Bits) -> BinaryIO:
    """Open a file with these words in the folder for temporary files; it is gone when closed, come what may.

    Where the file fits into free memory the system keeps its pages, and a timed read is a copy out of them.
    Waiting for a disk is in the clock on the wall only.
    """
    file: BinaryIO | None = None
    try:
        file = tempfile.TemporaryFile(prefix="moesim-experts-", buffering=0)  # noqa: SIM115
        assert file is not None
        view, done = words.data.cast("B"), 0
        while done < len(view):
            done += file.write(view[done : done + 2**26])
    except BaseException as error:
        if file is not None:
            file.close()
        if not isinstance(error, OSError):
            raise
        reason = (error.strerror or str(error)).lower()
        room = f"{words.nbytes / 1e6:.0f} MB of room; TMPDIR names another folder"
        fault = Fault(
            f"the file of experts cannot be written: {reason}", "backing", tempfile.gettempdir(), room
        )
        raise ConfigError(fault) from None
    return file
