"""What a residency rule of one's own has to say: a key per expert, of which the smallest leaves."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Keyed(Protocol):
    """A residency rule in Python, for trying a rule out; the rules that ship are compiled.

    The replay calls `touched` at every access in order, hit or miss, and `loaded` when a miss has brought the
    expert in, after `touched`. When a pool is full, the resident of the smallest `key` leaves, of equals the
    one of the lower layer, then expert. `reset`, where there is one, is called when the pool is emptied
    between requests.
    """

    def touched(self, layer: int, expert: int, step: int, hit: bool, weight: float) -> None:
        """An expert is asked for; `weight` is its router weight in this step, nan without weights."""
        ...

    def loaded(self, layer: int, expert: int, step: int) -> None:
        """An expert has become resident."""
        ...

    def key(self, layer: int, expert: int) -> float:
        """What orders residents; called at an eviction alone."""
        ...
