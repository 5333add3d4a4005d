"""Which slot brings how much: from the best named system up to the winner, and back from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim.policy import Composition
from moesim.systems.optimise.describe import SLOTS, described, with_slot
from moesim.systems.optimise.scoring import Scored, Scorer

#: Part of the objective that a choice must bring to be worth another than the named system's.
WORTH = 0.002


@dataclass(frozen=True, slots=True, eq=False)
class Rung:
    """One slot changed.

    Parameters
    ----------
    slot
        Which.
    before, after
        What it was and is, in words.
    scored
        On the part that the search saw.
    held
        On the part that it did not see.
    """

    slot: str
    before: str
    after: str
    scored: float
    held: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("slot", "before", "after", "scored", "held")
        return {name: getattr(self, name) for name in names}


def differing(one: Composition, other: Composition) -> list[str]:
    """Slots in which two compositions differ."""
    first, second = described(one), described(other)
    return [slot for slot in SLOTS if first[slot] != second[slot]]


def simplified(winner: Scored, start: Scored, scorer: Scorer) -> Scored:
    """The winner with every slot put back to what `start` has where that costs next to nothing.

    Parameters
    ----------
    winner
        As the search found it.
    start
        Whose choices are kept unless all that are put back cost more than `WORTH` together.
    scorer
        Of the part that the search saw.
    """
    best = winner.value
    for slot in differing(start.composition, winner.composition):
        scored = scorer(with_slot(winner.composition, slot, start.composition))
        if scored is not None and abs(scored.value - best) <= WORTH * abs(best):
            winner = scored
    return start if scorer.better(start.value, winner.value) else winner


def upward(start: Composition, winner: Composition, scorer: Scorer, held: Scorer) -> list[Rung]:
    """Slots of the winner put into `start` one after the other, the one that helps most first.

    The order is chosen on the part that the search saw. Together the rungs are the whole way.
    """
    rungs = []
    current = start
    left = differing(start, winner)
    while left:
        best: tuple[str, Scored] | None = None
        for slot in left:
            scored = scorer(with_slot(current, slot, winner))
            if scored is not None and (best is None or scorer.better(scored.value, best[1].value)):
                best = slot, scored
        if best is None:
            break
        slot, scored = best
        shown = held(scored.composition)
        if shown is None:
            break
        before, after = described(current)[slot], described(winner)[slot]
        rungs.append(Rung(slot, before, after, scored.value, shown.value))
        current = scored.composition
        left.remove(slot)
    return rungs


def reverted(winner: Composition, start: Composition, scorer: Scorer, held: Scorer) -> list[Rung]:
    """The winner with one slot at a time put back to what `start` has."""
    rungs = []
    for slot in differing(winner, start):
        composition = with_slot(winner, slot, start)
        scored, shown = scorer(composition), held(composition)
        if scored is not None and shown is not None:
            before, after = described(winner)[slot], described(start)[slot]
            rungs.append(Rung(slot, before, after, scored.value, shown.value))
    return rungs
