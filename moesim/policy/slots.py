"""The eight decisions that systems are made of, as protocols, and their composition.

Rules that keep them apart: a residency's key only orders and never moves; a transfer only moves and never
decides what stays; an executor sees when weights will be there; a precision is asked at a miss and at a
prefetch. Learned tables come from `fit` on a part of the trace that is disjoint from what is replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.policy.executor import Executor
from moesim.policy.guesses import Guesses
from moesim.policy.precision import Precision
from moesim.policy.residency import Residency
from moesim.policy.selected import Selected
from moesim.policy.split import require_disjoint
from moesim.policy.steps import Steps, token_steps
from moesim.trace.types import RoutingTrace

Array = npt.NDArray[np.float64]


@runtime_checkable
class Gate(Protocol):
    """Changes which experts tokens go to: skips, fewer experts, other experts."""

    def select(self, trace: RoutingTrace) -> Selected:
        """The trace as the model would route it under this gate; experts may be fewer, never more."""
        ...


@runtime_checkable
class Predictor(Protocol):
    """Says which experts later layers, or the next step, will ask for."""

    def fit(self, train: RoutingTrace) -> Predictor:
        """The same with its tables learnt from `train`, which shares no request with what is replayed."""
        ...

    def guess(self, steps: Steps) -> Guesses:
        """Guesses at every cell, from what is known there and nothing later, unless it is an oracle."""
        ...


@runtime_checkable
class Batcher(Protocol):
    """Forms steps of the tokens of a trace."""

    def form(self, trace: RoutingTrace, kept: npt.NDArray[np.bool_] | None = None) -> Steps:
        """Every row of the trace in exactly one step; of its slots only those that a gate has `kept`."""
        ...


@runtime_checkable
class Placement(Protocol):
    """How many slots each layer has, and what is resident before the first step."""

    def quota(self, slots: int, train: RoutingTrace) -> npt.NDArray[np.int64]:
        """Slots of each layer, int64 ``[layers]``, at most `slots` in all."""
        ...

    def resident(self, quota: npt.NDArray[np.int64], train: RoutingTrace) -> npt.NDArray[np.bool_]:
        """What is resident at first, bool ``[layers, experts]``, at most `quota` in each layer."""
        ...


class TokenByToken:
    """A batcher: one token per step, in stored order."""

    def form(self, trace: RoutingTrace, kept: npt.NDArray[np.bool_] | None = None) -> Steps:
        """Steps of one token."""
        return token_steps(trace, kept)


class AsRouted:
    """A gate that changes nothing."""

    def select(self, trace: RoutingTrace) -> Selected:
        """The trace itself."""
        return Selected(trace)


@dataclass(frozen=True, slots=True)
class Transfer:
    """How weights move between slow and fast memory.

    Parameters
    ----------
    width
        Guessed experts that are fetched per target cell; 0 fetches on demand alone.
    distance
        Cells ahead that are fetched for, at most.
    order
        ``score`` by the guess's score, ``near`` by distance first, ``near-score`` by score over distance.
    preemptible
        Whether a demand may break off a prefetch that has begun.
    write_back
        Whether a victim is copied back to slow memory.
    channels
        Copies under way at once; they share the link.
    """

    width: int = 0
    distance: int = 1
    order: str = "score"
    preemptible: bool = False
    write_back: bool = False
    channels: int = 1

    def __post_init__(self) -> None:
        faults = [
            Fault("is too small", name, value, f"{least} or more")
            for name, value, least in (("width", self.width, 0), ("distance", self.distance, 1))
            if value < least
        ]
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True, slots=True)
class Composition:
    """A system: one plug-in per slot.

    `precision` and `executor` are described in `moesim.policy.precision` and `moesim.policy.executor`; a
    precision of None is that of the model.
    """

    residency: Residency = field(default_factory=Residency)
    transfer: Transfer = field(default_factory=Transfer)
    gate: Gate = field(default_factory=AsRouted)
    predictor: Predictor | None = None
    batcher: Batcher = field(default_factory=TokenByToken)
    placement: Placement | None = None
    executor: Executor = field(default_factory=Executor)
    precision: Precision | None = None

    def steps(self, trace: RoutingTrace) -> Steps:
        """What the trace asks for, past this gate and in the steps of this batcher."""
        selected = self.gate.select(trace)
        return self.batcher.form(selected.trace, selected.kept)

    def fit(self, train: RoutingTrace, trace: RoutingTrace) -> Composition:
        """The same with the tables of its slots learnt from `train`, to replay `trace`.

        Raises
        ------
        ConfigError
            When requests of `trace` stand in `train` too.
        """
        require_disjoint(train, trace)
        learnt = {
            name: slot.fit(train)
            for name in ("gate", "predictor", "precision")
            if hasattr(slot := getattr(self, name), "fit")
        }
        return replace(self, **learnt)
