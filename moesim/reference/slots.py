"""Physical slots of experts: where each copy of a replay's log goes, and which experts run together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.offload.given import FETCHED, PASSED
from moesim.policy import Steps

I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]


class Load(NamedTuple):
    """One copy of an expert to the device.

    Parameters
    ----------
    expert
        ``layer * num_experts + expert``.
    slot
        That is written to.
    victim
        Who leaves the pool for it, -1 if nobody does. It is not always what lies in `slot`: a copy fills the
        spare slot that has waited longest, and the slot of its victim becomes spare.
    stays
        Whether it has a place in its pool; else it is gone when it has run.
    """

    expert: int
    slot: int
    victim: int = -1
    stays: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """Experts of a cell that can run together.

    Parameters
    ----------
    runs
        Experts of the layer that run, int32 ``[runs]``, in the engine's order: residents first.
    loads
        Copies on demand that they wait for, in order.
    slot_of_expert
        Slot of every expert of the layer when they run, int32 ``[experts]``; -1 for those that are not there,
        and for those that run in another round of the cell. What is resident and not asked for has its slot.
    """

    runs: I4
    loads: tuple[Load, ...]
    slot_of_expert: I4


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One layer of one step.

    Parameters
    ----------
    fill
        What is put on the device before anything runs, or after a reset, which clears it; not counted. None
        where there is neither.
    ahead
        Copies that begin between the gate of the cell before and the gate of this one.
    rounds
        Every expert that is asked for runs in exactly one of them. There is more than one where a slot is
        needed twice.
    hits
        Experts that were there, or on their way, when the gate had run.
    """

    fill: tuple[Load, ...] | None
    ahead: tuple[Load, ...]
    rounds: tuple[Round, ...]
    hits: int

    @property
    def loads(self) -> int:
        """Copies on demand."""
        return sum(len(part.loads) for part in self.rounds)


class Slots:
    """Physical slots while a log is read.

    Pools have their slots one after the other, then come the spare ones. A copy that pushes somebody out
    fills the spare slot that has waited longest, and leaves the victim's slot as the new spare one.

    Parameters
    ----------
    quota
        Slots of each pool, int64 ``[pools]``.
    pool
        Pool of each layer, int64 ``[layers]``.
    initial
        What is there at the start, as `Load.expert` numbers it.
    spares
        Slots beside the pools, at least 1.
    num_experts
        Of a layer.
    """

    def __init__(self, quota: I8, pool: I8, initial: I8, spares: int, num_experts: int) -> None:
        self.quota, self.pool, self.initial = quota, pool, initial
        self.spares, self.num_experts = spares, num_experts
        self.of = np.full(len(pool) * num_experts, -1, np.int32)

    def fill(self) -> tuple[Load, ...]:
        """Begin anew with what is there at the start."""
        ends = np.cumsum(self.quota)
        self.of[:] = -1
        self.empty = [deque(range(end - many, end)) for end, many in zip(ends, self.quota, strict=True)]
        self.spare = deque(range(int(ends[-1]), int(ends[-1]) + self.spares))
        return tuple(self.load(int(x)) for x in self.initial)

    def load(self, x: int, victim: int = -1) -> Load:
        """Load an expert that stays, in the place of a victim where there is one."""
        if victim < 0:
            slot = self.empty[self.pool[x // self.num_experts]].popleft()
        else:
            slot = self.spare.popleft()
            self.spare.append(int(self.of[victim]))
            self.of[victim] = -1
        self.of[x] = slot
        return Load(x, slot, victim)

    def passing(self, x: int) -> Load:
        """Load an expert that does not stay."""
        self.spare.rotate(-1)
        return Load(x, self.spare[-1], stays=False)

    def cells(self, steps: Steps, log: I8, reset: bool) -> Iterator[Cell]:
        """Cells in order, each with the loads that were logged for it."""
        first = np.searchsorted(log[:, 0], np.arange(steps.num_steps * steps.layers + 1))
        for cell in range(steps.num_steps * steps.layers):
            step, layer = divmod(cell, steps.layers)
            begins = layer == 0 and (step == 0 or (reset and steps.request[step] != steps.request[step - 1]))
            fill = self.fill() if begins else None
            rows = log[first[cell] : first[cell + 1]].tolist()
            ahead = tuple(self.load(x, victim) for _, x, victim, why in rows if why == FETCHED)
            misses = [(x, victim, why) for _, x, victim, why in rows if why != FETCHED]
            asked = layer * self.num_experts + steps.experts[steps.starts[cell] : steps.starts[cell + 1]]
            missing = {x for x, _, _ in misses}
            there = [x for x in asked.tolist() if x not in missing]
            yield Cell(fill, ahead, tuple(self.rounds(layer, there, misses)), len(there))

    def rounds(self, layer: int, there: list[int], misses: list[tuple[int, int, int]]) -> Iterator[Round]:
        """Run what is there and what is loaded, together as long as no slot is needed twice."""
        base = layer * self.num_experts
        runs, loads = list(there), list[Load]()
        slots = {x: int(self.of[x]) for x in there}
        done = set[int]()

        def close() -> Round:
            found = self.of[base : base + self.num_experts].copy()
            found[[x - base for x in done]] = -1
            found[[x - base for x in runs]] = [slots[x] for x in runs]
            return Round(np.array(runs, np.int32) - base, tuple(loads), found)

        for x, victim, why in misses:
            written = self.spare[0] if why == PASSED or victim >= 0 else -1
            if written in slots.values():
                yield close()
                done |= set(runs)
                runs, loads, slots = [], [], {}
            load = self.passing(x) if why == PASSED else self.load(x, victim)
            runs.append(x)
            loads.append(load)
            slots[x] = load.slot
        if runs:
            yield close()
