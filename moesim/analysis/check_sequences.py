"""What the order of tokens shows: copies of requests, shared prefixes, gaps, phases out of order.

Without token ids, a token is known by the experts it chose in the first few layers. Routing in the first
layers depends on the tokens up to this one alone and hardly on rounding, so equal prefixes of text give equal
prefixes of routing; deeper layers differ by rounding from batch to batch. What is found is a lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.analysis.check_hash import Hashes, running
from moesim.trace import DECODE, PREFILL

#: Tokens whose order is examined; it bounds memory to some 350 MB.
MAX_TOKENS = 2**22
#: Shorter requests may be alike by chance.
MIN_REPEATED = 8
_KINDS = 1_000_000


def key_layers(layers: int, num_experts: int, top_k: int) -> int:
    """How many leading layers tell tokens apart: at least three, and a million different choices.

    >>> key_layers(26, 64, 6), key_layers(32, 8, 2), key_layers(1, 60, 4)
    (3, 5, 1)
    """
    choices = math.comb(num_experts, min(top_k, num_experts))
    needed = math.ceil(math.log(_KINDS) / math.log(choices)) if choices > 1 else layers
    return min(layers, max(3, needed))


@dataclass(slots=True)
class _Request:
    """What is remembered of a request between batches."""

    tokens: int = 0
    prefix: int = 0
    position: int = 0
    phase: int = PREFILL
    phases: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A token."""

    request: int
    position: int


class Sequences:
    """Examine tokens in file order, batch by batch."""

    def __init__(self) -> None:
        self.tokens = 0
        self.gaps = 0
        self.first_gap: Place | None = None
        self.backward = 0
        self.first_backward: Place | None = None
        self._requests: dict[int, _Request] = {}
        self._hashes: list[Hashes] = []
        self._request: list[npt.NDArray[np.int32]] = []
        self._position: list[npt.NDArray[np.int32]] = []

    def add(
        self,
        key: Hashes,
        request: npt.NDArray[np.int32],
        position: npt.NDArray[np.int32],
        phase: npt.NDArray[np.int8],
    ) -> npt.NDArray[np.int64]:
        """Examine the next tokens.

        Parameters
        ----------
        key
            What tells tokens apart, uint64 ``[tokens]``.
        request, position, phase
            ``[tokens]``.

        Returns
        -------
        ndarray
            Place of each token in its request, int64 ``[tokens]``.
        """
        room = MAX_TOKENS - self.tokens
        key, request, position, phase = key[:room], request[:room], position[:room], phase[:room]
        if not len(key):
            return np.zeros(0, np.int64)
        order = np.argsort(request, kind="stable")
        sorted_request = request[order]
        first = np.r_[True, sorted_request[1:] != sorted_request[:-1]]
        starts = np.flatnonzero(first)
        lengths = np.diff(np.r_[starts, len(order)])
        states = [self._requests.setdefault(int(r), _Request()) for r in sorted_request[starts]]
        index = np.arange(len(order)) - np.repeat(starts, lengths)
        index += np.repeat([s.tokens for s in states], lengths)
        terms = running(key[order], index)
        total = np.cumsum(terms, dtype=np.uint64)
        base = total[starts] - terms[starts] - np.array([s.prefix for s in states], np.uint64)
        prefix = total - np.repeat(base, lengths)
        self._order(position[order], phase[order], starts, lengths, states, sorted_request)
        ends = starts + lengths - 1
        for i, (end, state) in enumerate(zip(ends, states, strict=True)):
            state.tokens += int(lengths[i])
            state.prefix = int(prefix[end])
            state.position, state.phase = int(position[order[end]]), int(phase[order[end]])
        hashes, places = np.empty_like(prefix), np.empty_like(index)
        hashes[order], places[order] = prefix, index
        self._hashes.append(hashes)
        self._request.append(request)
        self._position.append(position)
        self.tokens += len(key)
        return places

    def _order(
        self,
        position: npt.NDArray[np.int32],
        phase: npt.NDArray[np.int8],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        states: list[_Request],
        request: npt.NDArray[np.int32],
    ) -> None:
        """Count gaps and steps back to prefill; note which phases each request has."""
        old_position, old_phase = np.empty_like(position), np.empty_like(phase)
        old_position[1:], old_phase[1:] = position[:-1], phase[:-1]
        old_position[starts] = [
            s.position if s.tokens else position[i] - 1 for i, s in zip(starts, states, strict=True)
        ]
        old_phase[starts] = [s.phase for s in states]
        gap = np.flatnonzero(position != old_position + 1)
        back = np.flatnonzero((old_phase == DECODE) & (phase == PREFILL))
        if len(gap) and self.first_gap is None:
            self.first_gap = Place(int(request[gap[0]]), int(position[gap[0]]))
        if len(back) and self.first_backward is None:
            self.first_backward = Place(int(request[back[0]]), int(position[back[0]]))
        self.gaps += len(gap)
        self.backward += len(back)
        decoded = np.add.reduceat((phase == DECODE).astype(np.int64), starts)
        for state, decode, length in zip(states, decoded.tolist(), lengths.tolist(), strict=True):
            state.phases |= (decode < length) + 2 * (decode > 0)

    @property
    def requests(self) -> int:
        """Requests seen."""
        return len(self._requests)

    def phases(self) -> tuple[int, int]:
        """How many requests have no decode tokens, and how many no prefill tokens."""
        found = [state.phases for state in self._requests.values()]
        return found.count(1), found.count(2)

    def repeated(self) -> dict[int, int]:
        """Requests that are copies, and what each is a copy of."""
        seen: dict[tuple[int, int], int] = {}
        copies = {}
        for request, state in self._requests.items():
            if state.tokens >= MIN_REPEATED:
                original = seen.setdefault((state.prefix, state.tokens), request)
                if original != request:
                    copies[request] = original
        return copies

    def template(self, copies: dict[int, int]) -> tuple[int, Place | None]:
        """Tokens inside a prefix that an earlier request had, and the one at the highest position.

        Requests that are copies as a whole do not count.
        """
        if not self._hashes:
            return 0, None
        hashes, request = np.concatenate(self._hashes), np.concatenate(self._request)
        if copies:
            keep = ~np.isin(request, list(copies))
            hashes, request = hashes[keep], request[keep]
            position = np.concatenate(self._position)[keep]
        else:
            position = np.concatenate(self._position)
        _, first = np.unique(hashes, return_index=True)
        seen = np.ones(len(hashes), bool)
        seen[first] = False
        inside = np.flatnonzero(seen)
        if not len(inside):
            return 0, None
        deepest = inside[np.argmax(position[inside])]
        return len(inside), Place(int(request[deepest]), int(position[deepest]))
