"""Slow memory: where the weights of experts lie that have no place in fast memory."""

from __future__ import annotations

import tempfile
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault

Words = npt.NDArray[np.uint16]


class Slow(Protocol):
    """Somewhere to copy an expert from."""

    def read(self, start: int, out: Words) -> None:
        """Copy ``len(out)`` words from `start` on into a slot."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class SlowRam:
    """The pool of weights itself: copies go from memory to memory.

    Parameters
    ----------
    words
        The pool.
    """

    def __init__(self, words: Words) -> None:
        self._words = words

    def read(self, start: int, out: Words) -> None:
        """Copy memory."""
        np.copyto(out, self._words[start : start + len(out)])

    def close(self) -> None:
        """Nothing to give back."""


class SlowFile:
    """A file with what the pool holds, in the folder for temporary files; gone when closed, come what may.

    Where the file fits into free memory the system keeps its pages, and what is timed is the copy out of
    them. Waiting for a disk is in the clock on the wall only.

    Parameters
    ----------
    words
        The pool.
    """

    def __init__(self, words: Words) -> None:
        try:
            self._file = tempfile.TemporaryFile(prefix="moesim-experts-", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _cannot(error, words) from None
        try:
            view, done = words.data.cast("B"), 0
            while done < len(view):
                done += self._file.write(view[done : done + 2**26])
        except OSError as error:
            self.close()
            raise _cannot(error, words) from None
        except BaseException:
            self.close()
            raise

    def read(self, start: int, out: Words) -> None:
        """Read the file into the slot."""
        view, done = out.data.cast("B"), 0
        self._file.seek(2 * start)
        while done < len(view):
            done += self._file.readinto(view[done:])

    def close(self) -> None:
        """Close, and with it remove, the file."""
        self._file.close()


def _cannot(error: OSError, words: Words) -> ConfigError:
    reason = (error.strerror or str(error)).lower()
    room = f"{words.nbytes / 1e6:.0f} MB of room; TMPDIR names another folder"
    return ConfigError(
        Fault(f"the file of experts cannot be written: {reason}", "backing", tempfile.gettempdir(), room)
    )
