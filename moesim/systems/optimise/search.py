"""Coordinate descent over slots, from several starts, within a number of replays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moesim.policy import Composition
from moesim.systems.optimise.options import Option
from moesim.systems.optimise.scoring import Scored, Scorer

#: Told of every better composition: replays so far, and what it is.
Progress = Callable[[int, Scored], None]
#: Slots that are tried once the others have a first value.
_AFTER = ("memory", "executor", "prefetch")


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search ends with.

    Parameters
    ----------
    best
        The best of all that was replayed.
    evaluations
        Compositions replayed.
    settled
        Whether no change of one slot makes it better; false where the replays ran out.
    """

    best: Scored
    evaluations: int
    settled: bool


def search(
    scorer: Scorer,
    starts: Sequence[Composition],
    options: Mapping[str, Sequence[Option]],
    *,
    evaluations: int = 150,
    progress: Progress | None = None,
) -> Found:
    """The best composition that changing slots one after the other leads to.

    Which tokens share a step, and in how many bits experts are, weighs most and goes first, on the best
    start. Memory and executor depend on each other most - what the CPU may compute need not be resident - so
    every pair of them is tried next. Then each start and that pair are improved: every option
    of a slot, the best kept, slot after slot, until a round changes nothing. The order is fixed, so the
    result depends on nothing but what is given.

    Parameters
    ----------
    scorer
        Replays, and remembers.
    starts
        Compositions to begin with.
    options
        By slot, as `options_of`.
    evaluations
        Most replays, those before the search included.
    progress
        Called at every better composition.

    Raises
    ------
    ValueError
        If no start can be replayed.
    """
    best: Scored | None = None

    def tried(composition: Composition) -> Scored | None:
        nonlocal best
        if not scorer.known(composition) and scorer.evaluations >= evaluations:
            return None
        scored = scorer(composition)
        if scored is not None and (best is None or scorer.better(scored.value, best.value)):
            best = scored
            if progress is not None:
                progress(scorer.evaluations, scored)
        return scored

    def improved(state: Scored, choices: Sequence[Option]) -> Scored:
        for option in choices:
            scored = tried(option.on(state.composition))
            if scored is not None and scorer.better(scored.value, state.value):
                state = scored
        return state

    states = [scored for start in starts if (scored := tried(start)) is not None]
    if not states or best is None:
        raise ValueError("no start can be replayed")
    first = best
    for slot, choices in options.items():
        if slot not in _AFTER:
            first = improved(first, choices)
    for memory in options.get("memory", ()):
        for executor in options.get("executor", ()):
            tried(executor.on(memory.on(first.composition)))
    settled = False
    for state in [best, *states]:
        if scorer.evaluations >= evaluations:
            break
        while True:
            before = state
            for choices in options.values():
                state = improved(state, choices)
            if state is before:
                break
        settled = settled or (state.value == best.value and scorer.evaluations < evaluations)
    return Found(best, scorer.evaluations, settled)
