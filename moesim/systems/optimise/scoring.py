"""What a composition is worth on a part of a trace: replayed with time, and remembered."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.offload import Box, Timed, run
from moesim.policy import Composition
from moesim.systems.optimise.describe import described
from moesim.trace.types import RoutingTrace

#: What is sought: the field of a replay, and whether less is better.
OBJECTIVES: dict[str, tuple[str, bool]] = {
    "tpot": ("tpot_s", True),
    "ttft": ("ttft_s", True),
    "throughput": ("output_throughput", False),
}
#: Executors that compute beside a memory.
_NEAR = ("split", "prefix")


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A composition with what it reached.

    Parameters
    ----------
    composition
        Before its tables are learnt.
    value
        The objective, in its unit.
    timed
        The replay.
    """

    composition: Composition
    value: float
    timed: Timed

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        timed = self.timed
        return {
            "slots": described(self.composition),
            "value": self.value,
            "ttft_s": timed.ttft_s,
            "tpot_s": timed.tpot_s,
            "output_throughput": timed.output_throughput,
            "hit_ratio": timed.hit_ratio,
            "bytes_moved": dict(timed.bytes_moved),
            "stalls": dict(timed.stalls),
            "bounds": dict(timed.bounds),
        }


def sequences_of(batcher: object) -> int:
    """Requests whose cache must be in memory at once."""
    requests = int(getattr(batcher, "requests", 0))
    if not requests:
        # Two batches of tokens, of as many requests each.
        requests = 2 * int(getattr(batcher, "tokens", 0))
    return max(requests, 1) * max(int(getattr(batcher, "batches", 1)), 1)


@dataclass(slots=True, eq=False)
class Scorer:
    """Replays compositions on one part of a trace, each once.

    Parameters
    ----------
    trace
        What is replayed.
    train
        The disjoint part that tables are learnt from.
    box
        The machine for a number of sequences, whose cache takes memory from experts.
    objective
        One of `OBJECTIVES`.
    seed
        Of what starts at random.
    refused
        Why compositions were not replayed, by `key`.
    """

    trace: RoutingTrace
    train: RoutingTrace
    box: Callable[[int], Box]
    objective: str = "tpot"
    seed: int = 0
    refused: dict[tuple[str, ...], str] = field(default_factory=dict)
    _known: dict[tuple[str, ...], Scored | None] = field(default_factory=dict)
    _boxes: dict[int, Box] = field(default_factory=dict)

    @property
    def evaluations(self) -> int:
        """Compositions that were replayed."""
        return len(self._known)

    def known(self, composition: Composition) -> bool:
        """Whether it was replayed already."""
        return self.key(composition) in self._known

    def __call__(self, composition: Composition) -> Scored | None:
        """Replay a composition; None where it does not fit the box, or the trace lacks what it needs.

        Raises
        ------
        ConfigError
            If the trace has nothing that the objective could be measured on.
        """
        key = self.key(composition)
        if key not in self._known:
            self._known[key] = self._replayed(composition)
        return self._known[key]

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is better by more than rounding."""
        less = OBJECTIVES[self.objective][1]
        return one < other * (1 - 1e-9) if less else one > other * (1 + 1e-9)

    def key(self, composition: Composition) -> tuple[str, ...]:
        """What makes a composition the same as another: its slots in words."""
        return tuple(described(composition).values())

    def _replayed(self, composition: Composition) -> Scored | None:
        key, sequences = self.key(composition), sequences_of(composition.batcher)
        try:
            if sequences not in self._boxes:
                self._boxes[sequences] = self.box(sequences)
            if composition.executor.kind in _NEAR and self._boxes[sequences].hardware.device.near is None:
                self.refused[key] = "the box has no near-data unit"
                return None
            timed = run(composition, self.trace, self._boxes[sequences], train=self.train, seed=self.seed)
        except (ConfigError, InfeasibleError) as error:
            self.refused[key] = str(error)
            return None
        value = getattr(timed, OBJECTIVES[self.objective][0])
        if value is None:
            missing = "prompt" if self.objective == "ttft" else "decoded"
            fault = Fault(f"has no {missing} tokens to measure it on", "--objective", self.objective)
            raise ConfigError(fault)
        if not math.isfinite(value):
            self.refused[key] = "the box lacks a processor that it computes on"
            return None
        return Scored(composition, float(value), timed)
