"""What a reader of requests is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moesim.requests.source import Source
from moesim.requests.types import RequestTrace


@dataclass(frozen=True, slots=True)
class RequestReader:
    """One format.

    Parameters
    ----------
    name
        Short name, as in ``moesim requests info``.
    title
        What it is, for the list of formats in an error.
    sniff
        Whether a file is of this format, told from its beginning.
    read
        Read it, or raise `TraceError` with everything that is wrong.
    """

    name: str
    title: str
    sniff: Callable[[Source], bool]
    read: Callable[[Source], RequestTrace]
