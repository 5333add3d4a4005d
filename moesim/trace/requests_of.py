"""Which request each token of a batch log belongs to, as far as positions tell."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence


class Follower:
    """Follows requests through the forward passes of one rank.

    A chunk of prompt that begins at 0 is a new request; one that begins where another ended continues it. A
    decoded token continues the request that waits for its position: the first in the batch's order if several
    do, since engines keep that order.

    Examples
    --------
    >>> follower = Follower()
    >>> follower.prefill([0, 1, 2, 0, 1], [3, 2])
    [0, 0, 0, 1, 1]
    >>> follower.decode([3, 2]), follower.decode([4]), follower.decode([4, 9])
    ([0, 1], [0], [2, 3])
    """

    def __init__(self) -> None:
        self.requests = 0
        self.ambiguous = 0
        self._waiting: dict[int, deque[int]] = defaultdict(deque)
        self._decoding: set[int] = set()

    def prefill(self, positions: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """The request of each token of a pass over prompts; `lengths` adds up to the tokens."""
        owners: list[int] = []
        at = 0
        for length in lengths:
            if length:
                begin = positions[at]
                owner = self._take(begin) if begin else self._new()
                owners += [owner] * length
                self._waiting[begin + length].append(owner)
                at += length
        return owners

    def decode(self, positions: Sequence[int]) -> list[int]:
        """The request of each token of a decoding pass."""
        owners = [self._take(position) for position in positions]
        # Whoever decoded before and does not now has ended.
        ended = self._decoding - set(owners)
        if ended:
            waiting = {at: deque(o for o in queue if o not in ended) for at, queue in self._waiting.items()}
            self._waiting = defaultdict(deque, {at: queue for at, queue in waiting.items() if queue})
        self._decoding = set(owners)
        for position, owner in zip(positions, owners, strict=True):
            self._waiting[position + 1].append(owner)
        return owners

    def _take(self, position: int) -> int:
        queue = self._waiting.get(position)
        if not queue:
            return self._new()
        self.ambiguous += len(queue) > 1
        owner = queue.popleft()
        if not queue:
            del self._waiting[position]
        return owner

    def _new(self) -> int:
        self.requests += 1
        return self.requests - 1
