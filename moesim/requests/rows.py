"""Requests as a reader finds them, one by one, kept in plain arrays until the file ends."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Mapping

import numpy as np

from moesim.errors import ConfigError, TraceError
from moesim.requests.source import MAX_REQUESTS, Faults, Source
from moesim.requests.types import RequestTrace, request_trace

#: Formats that have requests in the order in which they ended.
_BY_END = ("aiperf",)
#: Warning of a trace whose requests were not in order.
UNSORTED = "requests are not in order of arrival, and were sorted"


class Rows:
    """Requests of a file, in any order of arrival.

    Parameters
    ----------
    source
        The file they are read from.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.faults = Faults()
        self.notes: list[str] = []
        self._arrival, self._input, self._output = array("d"), array("i"), array("i")
        self._session, self._session_ids = array("i"), dict[Hashable, int]()
        self._hashes, self._ptr = array("q"), array("q", [0])
        self._hashed = False

    def __len__(self) -> int:
        return len(self._arrival)

    def add(
        self,
        arrival_s: float | None,
        input_tokens: int | None,
        output_tokens: int | None,
        *,
        session: Hashable = None,
        hashes: Iterable[int] | None = None,
    ) -> None:
        """Keep a request; one with a part that is None is left out, its fault having been noted."""
        if arrival_s is None or input_tokens is None or output_tokens is None:
            return
        if len(self._arrival) == MAX_REQUESTS:
            self.faults.add("", f"holds more than {MAX_REQUESTS} requests")
            self.faults.raise_if_any(self.source.path)
        self._arrival.append(arrival_s)
        self._input.append(input_tokens)
        self._output.append(output_tokens)
        self._session.append(-1 if session is None else self._session_id(session))
        if hashes is not None:
            self._hashed = True
            self._hashes.extend(hashes)
        self._ptr.append(len(self._hashes))

    def finish(
        self,
        format_name: str,
        *,
        from_first: bool = False,
        prefix_block_tokens: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> RequestTrace:
        """The trace of all requests added.

        Parameters
        ----------
        format_name
            Name of the format, for the metadata.
        from_first
            Count seconds from the first request.

        Raises
        ------
        TraceError
            With every fault noted, or if there are no requests.
        """
        path = self.source.path
        self.faults.raise_if_any(path)
        if not len(self):
            self.faults.add("", "holds no requests" + ("; " + "; ".join(self.notes) if self.notes else ""))
            self.faults.raise_if_any(path)
        arrival = np.frombuffer(self._arrival, np.float64)
        if format_name not in _BY_END and (np.diff(arrival) < 0).any():
            self.notes.append(UNSORTED)
        try:
            return request_trace(
                arrival - arrival.min() if from_first else arrival,
                np.frombuffer(self._input, np.int32),
                np.frombuffer(self._output, np.int32),
                session=self._sessions(),
                prefix_hashes=np.frombuffer(self._hashes, np.int64) if self._hashed else None,
                prefix_ptr=np.frombuffer(self._ptr, np.int64) if self._hashed else None,
                prefix_block_tokens=prefix_block_tokens,
                source=path.name,
                warnings=tuple(self.notes),
                metadata={"format": format_name, **(metadata or {})},
            )
        except ConfigError as error:
            raise TraceError(error.faults, path) from None

    def _session_id(self, name: Hashable) -> int:
        return self._session_ids.setdefault(name, len(self._session_ids))

    def _sessions(self) -> np.ndarray[tuple[int], np.dtype[np.int32]] | None:
        """Sessions, numbered as they appear; requests without one become sessions of their own."""
        if not self._session_ids:
            return None
        session = np.frombuffer(self._session, np.int32).copy()
        lonely = np.flatnonzero(session < 0)
        session[lonely] = len(self._session_ids) + np.arange(len(lonely))
        return session
