"""From a trace, a model and a machine to the best composition, beside the named systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moesim.errors import ConfigError, Fault
from moesim.offload import Box
from moesim.policy import Batcher, Composition, Residency, TokenByToken
from moesim.policy.batchers import Batches
from moesim.policy.predictors import NextGate, NoisyOracle
from moesim.policy.split import split
from moesim.systems.compositions import compositions, named
from moesim.systems.optimise.describe import changes_results, needs_future
from moesim.systems.optimise.ladder import Rung, reverted, simplified, upward
from moesim.systems.optimise.options import options_of
from moesim.systems.optimise.scoring import OBJECTIVES, Scored, Scorer
from moesim.systems.optimise.search import search
from moesim.systems.row import VARIANTS
from moesim.trace.types import PREFILL, RoutingTrace

#: Tokens of the training part, and how many times the tokens that are searched on are held out.
TRAIN_TOKENS, HELD = 20_000, 2


@dataclass(frozen=True, slots=True, eq=False)
class Rival:
    """A named system on the same parts.

    Parameters
    ----------
    name, variant
        As `moesim.systems.compositions` has it.
    scored, held
        On the part that is searched on, and on the part that is not.
    changes_results
        Whether the model computes something else under it.
    needs_future
        Whether it knows what no system knows.
    assumed, lacks
        Numbers that no source gives for this trace, and what stands in for what the trace lacks.
    """

    name: str
    variant: str
    scored: Scored
    held: Scored
    changes_results: bool
    needs_future: bool
    assumed: tuple[str, ...]
    lacks: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        """Whether a search without the future and without other results could have found it."""
        return not (self.changes_results or self.needs_future)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "system": self.name,
            "variant": self.variant,
            "scored": self.scored.value,
            "held": self.held.value,
            "changes_results": self.changes_results,
            "needs_future": self.needs_future,
            "assumed": list(self.assumed),
            "lacks": list(self.lacks),
            **{key: value for key, value in self.held.to_dict().items() if key != "value"},
        }


@dataclass(frozen=True, slots=True, eq=False)
class Advice:
    """The winner, the named systems, and the way between.

    Parameters
    ----------
    objective
        One of `OBJECTIVES`.
    tokens
        Of the parts ``train``, ``scored`` and ``held``.
    best, held
        The winner on the part that was searched on, and on the part that was not.
    rivals
        Named systems, best first on the part that is held out.
    start
        The best comparable one, by the part that was searched on.
    up, down
        From `start` to the winner slot by slot, and the winner with one slot put back each time.
    evaluations, settled
        Of the search.
    assumed
        What the winner rests on that the trace does not hold.
    refused
        Named systems that could not be replayed, with the reason.
    """

    objective: str
    tokens: dict[str, int]
    best: Scored
    held: Scored
    rivals: tuple[Rival, ...]
    start: Rival
    up: tuple[Rung, ...]
    down: tuple[Rung, ...]
    evaluations: int
    settled: bool
    assumed: tuple[str, ...]
    refused: dict[str, str]

    @property
    def gain(self) -> float:
        """How many times better than `start` the winner is on the part that is held out."""
        less = OBJECTIVES[self.objective][1]
        mine, theirs = self.held.value, self.start.held.value
        return theirs / mine if less else mine / theirs

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "objective": self.objective,
            "metric": OBJECTIVES[self.objective][0],
            "tokens": dict(self.tokens),
            "best": {"scored": self.best.value, **self.held.to_dict()},
            "against": {
                "system": self.start.name,
                "variant": self.start.variant,
                "held": self.start.held.value,
            },
            "gain": self.gain,
            "systems": [rival.to_dict() for rival in self.rivals],
            "up": [rung.to_dict() for rung in self.up],
            "down": [rung.to_dict() for rung in self.down],
            "evaluations": self.evaluations,
            "settled": self.settled,
            "assumed": list(self.assumed),
            "refused": dict(self.refused),
        }


def some(trace: RoutingTrace, tokens: int, seed: int) -> RoutingTrace:
    """Requests drawn at random that hold about `tokens` tokens; the trace itself if it has no more."""
    if trace.num_tokens <= tokens or len(np.unique(trace.request)) < 2:
        return trace
    return split(trace, tokens / trace.num_tokens, seed)[0]


def alone(trace: RoutingTrace) -> Batcher:
    """One request at a time: a prompt in one step, then token by token."""
    return Batches(1) if (trace.phase == PREFILL).any() else TokenByToken()


def optimise(
    trace: RoutingTrace,
    box: Callable[[int], Box],
    *,
    objective: str = "tpot",
    tokens: int = 1000,
    evaluations: int = 150,
    lossy: bool = False,
    assumed: bool = True,
    systems: tuple[str, ...] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Advice:
    """Search for the composition that serves a trace best on a box.

    The trace is cut in three by requests: tables are learnt from the first part, compositions are compared on
    the second, and all that is reported is of the third, which no choice has seen. Every system takes a
    prompt in one step, and without a batcher of its own one request at a time.

    Parameters
    ----------
    trace
        At least three requests of different text.
    box
        The machine for a number of sequences: more of them leave less memory to experts.
    objective
        ``tpot`` or ``ttft``, the less the better, for one request at a time; ``throughput``, the more the
        better, where requests may share steps.
    tokens
        About as many are compared on; twice as many are held out.
    evaluations
        Most compositions that are replayed in the search.
    lossy
        Whether what the model computes may change.
    assumed
        Whether the next layer's gate may predict with an assumed recall.
    systems
        Named systems to compare with; all by default.
    seed
        Of the parts and of what starts at random.
    progress
        Told what happens, a line at a time.

    Raises
    ------
    ConfigError
        If the objective is unknown, the trace has too few requests or no tokens to measure on, or model and
        trace do not fit.
    """
    faults = []
    if objective not in OBJECTIVES:
        faults.append(Fault("is unknown", "--objective", objective, ", ".join(OBJECTIVES)))
    for name, number in (("--tokens", tokens), ("--evaluations", evaluations)):
        if number < 1:
            faults.append(Fault("is too small", name, number, "at least 1"))
    if faults:
        raise ConfigError(faults)
    tell = progress or (lambda _: None)
    train, rest = split(trace, 0.5, seed)
    seen, unseen = split(rest, 0.5, seed + 1)
    train = some(train, TRAIN_TOKENS, seed + 2)
    seen, unseen = some(seen, tokens, seed + 3), some(unseen, HELD * tokens, seed + 4)
    scorer = Scorer(seen, train, box, objective, seed)
    held = Scorer(unseen, train, box, objective, seed)
    rivals, refused = _rivals(seen, box(1).slots, scorer, held, systems, tell)
    comparable = [rival for rival in rivals if rival.comparable or (lossy and not rival.needs_future)]
    if not comparable:
        raise ConfigError(Fault("leaves no system that keeps the model's results", "--systems", systems))
    start = comparable[0]
    for rival in comparable[1:]:
        if scorer.better(rival.scored.value, start.scored.value):
            start = rival
    tell(f"{len(rivals)} named systems; best: {start.name} ({start.variant}), {start.scored.value:.4g}")
    options = options_of(
        seen,
        batch=objective == "throughput",
        lossy=lossy,
        assumed=assumed,
        near=box(1).hardware.device.near is not None,
        requests=len(np.unique(seen.request)),
        alone=alone(trace),
    )
    found = search(
        scorer,
        [
            start.scored.composition,
            Composition(residency=Residency("lru", lookup="token_batch"), batcher=alone(trace)),
        ],
        options,
        evaluations=scorer.evaluations + evaluations,
        progress=lambda count, best: tell(f"{count} replays: {best.value:.4g}"),
    )
    best = simplified(found.best, start.scored, scorer)
    shown = held(best.composition)
    if shown is None:
        raise ConfigError(Fault("cannot be replayed on the part that is held out", "TRACE"))
    winner, base = best.composition, start.scored.composition
    up, down = upward(base, winner, scorer, held), reverted(winner, base, scorer, held)
    tell(f"{found.evaluations} replays in all")
    order = sorted(rivals, key=lambda rival: rival.held.value, reverse=not OBJECTIVES[objective][1])
    return Advice(
        objective,
        {"train": train.num_tokens, "scored": seen.num_tokens, "held": unseen.num_tokens},
        best,
        shown,
        tuple(order),
        start,
        tuple(up),
        tuple(down),
        found.evaluations,
        found.settled,
        _assumed(winner),
        refused,
    )


def _assumed(winner: Composition) -> tuple[str, ...]:
    """What a trace cannot vouch for."""
    predictor = winner.predictor
    if winner.transfer.width and isinstance(predictor, NoisyOracle | NextGate):
        return (f"a recall of {predictor.recall}: a trace does not hold what gates applied early would say",)
    return ()


def _rivals(
    trace: RoutingTrace,
    slots: int,
    scorer: Scorer,
    held: Scorer,
    systems: tuple[str, ...] | None,
    tell: Callable[[str], None],
) -> tuple[list[Rival], dict[str, str]]:
    """Named systems, paper and code where they differ; and why some cannot be replayed."""
    found, refused = [], {}
    for system in systems or [entry.name for entry in compositions()]:
        for variant in VARIANTS:
            entry = named(system, trace, slots, variant)
            if variant != VARIANTS[0] and entry.system.code is None:
                continue
            composition = entry.composition
            if isinstance(composition.batcher, TokenByToken):
                composition = replace(composition, batcher=alone(trace))
            scored = scorer(composition)
            shown = held(composition) if scored is not None else None
            if scored is None or shown is None:
                why = {**scorer.refused, **held.refused}[scorer.key(composition)]
                refused[f"{entry.system.name} ({variant})"] = why
                continue
            tell(f"{entry.system.name} ({variant}): {scored.value:.4g}")
            found.append(
                Rival(
                    entry.system.name,
                    variant,
                    scored,
                    shown,
                    changes_results(composition),
                    needs_future(composition),
                    tuple(f"{a.name}={a.value:g} ({a.low:g} to {a.high:g}): {a.why}" for a in entry.assumed),
                    entry.lacks,
                )
            )
    return found, refused
