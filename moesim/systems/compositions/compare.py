"""Several systems on one trace, box and memory, beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.offload import Box, Timed, run
from moesim.policy import Composition, require_disjoint, split, taken, token_steps
from moesim.systems.compositions.table import find, named
from moesim.systems.compositions.types import Named
from moesim.trace.types import RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A system's replay.

    Parameters
    ----------
    named
        The system as a composition, with what it assumes.
    timed
        Its times and counts; None where it cannot be replayed on this box.
    refused
        Why not.
    swept
        Replays with an assumed number at the ends of its range, all others as they are, by its name.
    """

    named: Named
    timed: Timed | None
    refused: str = ""
    swept: Mapping[str, tuple[Timed, Timed]] = field(default_factory=dict)

    @property
    def gap(self) -> float | None:
        """How much longer a token takes than with all experts at hand, as a fraction of that."""
        if self.timed is None:
            return None
        tpot, least = self.timed.tpot_s, self.timed.bounds.get("tpot_s")
        if tpot is None or not least or not math.isfinite(tpot):
            return None
        return tpot / least - 1.0

    def _ends(self, name: str) -> dict[str, list[float | None]]:
        """What the ends of an assumption's range give."""
        if name not in self.swept:
            return {}
        return {
            "hit_ratio": [timed.hit_ratio for timed in self.swept[name]],
            "tpot_s": [timed.tpot_s for timed in self.swept[name]],
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        timed = {} if self.timed is None else self.timed.to_dict()
        return {
            "system": self.named.system.name,
            "variant": self.named.variant,
            "slots": self.named.system.summary,
            "assumed": [
                {
                    "name": a.name,
                    "value": a.value,
                    "range": [a.low, a.high],
                    "why": a.why,
                    **self._ends(a.name),
                }
                for a in self.named.assumed
            ],
            "lacks": list(self.named.lacks),
            "gap": self.gap,
            "refused": self.refused or None,
            **{("slots_held" if k == "slots" else k): v for k, v in timed.items()},
        }


def parts(
    names: Sequence[str],
    trace: RoutingTrace,
    train: RoutingTrace | None = None,
    *,
    any_learns: bool = False,
    fraction: float = 0.5,
    seed: int = 0,
) -> tuple[RoutingTrace | None, RoutingTrace]:
    """What tables are learnt from, and what is replayed, the same for all.

    Parameters
    ----------
    names
        Systems.
    trace
        As the user gave it.
    train
        A trace to learn from. Without it, `trace` is split by request if any of the systems learns; if none
        does, nothing is learnt from and all of it is replayed.
    any_learns
        Whether something else does, as slots that the user chose may.
    fraction, seed
        Of that split.
    """
    if train is not None:
        return train, trace
    if not any_learns and not any(find(name).learns for name in names):
        return None, trace
    return split(trace, fraction, seed)


def compare(
    names: Sequence[str],
    trace: RoutingTrace,
    box: Box,
    slots: int,
    *,
    train: RoutingTrace | None = None,
    variants: Sequence[str] = ("paper",),
    values: Mapping[str, float] | None = None,
    slots_by_name: Mapping[str, object] | None = None,
    sweep: bool = False,
    seed: int = 0,
    spans: int = 0,
) -> list[Outcome]:
    """Replay systems one by one.

    Parameters
    ----------
    names
        Systems.
    trace
        What all of them replay.
    box
        Machine and model.
    slots
        Experts that fast memory holds, in the model's own precision; in the same memory systems of fewer bits
        hold more.
    train
        What those that learn learn from; disjoint from `trace`.
    variants
        ``paper``, ``code`` or both; a system without code of its own is replayed once.
    values
        Assumed values that the user sets, by name; each system takes those that it assumes.
    slots_by_name
        Slots that every system has instead of its own, by their names in `Composition`.
    sweep
        Whether each assumed number is also taken to both ends of its range.
    seed
        Of what starts at random.
    spans
        As for `moesim.offload.run`.

    Raises
    ------
    ConfigError
        If a name or value is unknown, a system that learns has nothing to learn from, or a training trace
        holds what is replayed. What the box lacks for one system of several is said in its outcome.
    """
    wanted = [
        (name, variant, _known(name, trace, slots, variant, values or {}))
        for name in names
        for variant in variants
        if variant == "paper" or len(variants) == 1 or find(name).code is not None
    ]
    taken_up = {name for _, _, own in wanted for name in own}
    if stray := [name for name in values or {} if name not in taken_up]:
        known = {a.name for name, variant, _ in wanted for a in named(name, trace, slots, variant).assumed}
        of = ", ".join(dict.fromkeys(names))
        raise ConfigError(
            [
                Fault(f"is no assumption of {of}", "--assume", s, ", ".join(sorted(known)) or "none")
                for s in stray
            ]
        )
    untaught = [find(name).name for name, _, _ in wanted if train is None and find(name).learns]
    if untaught:
        message = "needs a disjoint trace to learn its tables from"
        raise ConfigError([Fault(message, "--system", name, "--train") for name in dict.fromkeys(untaught)])
    if train is not None:
        require_disjoint(train, trace)

    def named_as(name: str, variant: str, values: Mapping[str, float]) -> Named:
        n = named(name, trace, slots, variant, values)
        return replace(n, composition=replace(n.composition, **(slots_by_name or {})))  # type: ignore[arg-type]

    def timed_of(n: Named) -> Timed:
        require_unit(n, box)
        if "predictor" in (slots_by_name or {}) and n.composition.transfer.width == 0:
            message = f"of {n.system.name} fetches nothing ahead, so that guesses are for nothing"
            raise ConfigError(Fault(message, "transfer", allowed="--slot transfer=fetch:width=4"))
        held = same_memory(n.composition, trace, box, slots, train) if n.system.cached else 0
        return run(n.composition, trace, box, train=train, slots=held, seed=seed, spans=spans)

    found = []
    for name, variant, own in wanted:
        n = named_as(name, variant, own)
        try:
            timed = timed_of(n)
            swept = {}
            for a in n.assumed if sweep else ():
                low, high = (named_as(name, variant, own | {a.name: end}) for end in (a.low, a.high))
                swept[a.name] = (timed_of(low), timed_of(high))
        except (ConfigError, InfeasibleError) as error:
            if len(wanted) == 1:
                raise
            found.append(Outcome(n, None, str(error)))
        else:
            found.append(Outcome(n, timed, swept=swept))
    return found


def _known(
    name: str, trace: RoutingTrace, slots: int, variant: str, values: Mapping[str, float]
) -> dict[str, float]:
    """Those of the values that a system assumes."""
    own = {a.name for a in named(name, trace, slots, variant).assumed}
    return {key: value for key, value in values.items() if key in own}


def require_unit(named: Named, box: Box) -> None:
    """Refuse a near-data system on a box without a unit beside the memory."""
    if named.composition.executor.kind in ("split", "prefix") and len(box.hardware.device.processors) < 2:
        message = f"has no near-data unit, which {named.system.name} computes on"
        raise ConfigError(Fault(message, "--hardware", box.hardware.name, "as a100-monde"))


def same_memory(
    composition: Composition, trace: RoutingTrace, box: Box, slots: int, train: RoutingTrace | None
) -> int:
    """Experts of the composition's widest precision in the memory of `slots` in the model's own."""
    precision = composition.precision
    if precision is None:
        return slots
    if train is not None:
        precision = precision.fit(train)
    bits = precision.levels(token_steps(taken(trace, slice(1)))).bits
    widest = box.with_bits(bits.tolist()).widths[0].bytes
    every = trace.topk_ids.shape[1] * trace.num_experts
    held: int = min(int(slots * box.widths[0].bytes / widest + 1e-9), every)
    return held
