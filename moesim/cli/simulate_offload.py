"""Experts that do not fit the device: options of `moesim simulate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.errors import ConfigError, Fault, InfeasibleError

if TYPE_CHECKING:
    from moesim.engine.traits import Traits
    from moesim.hardware import Hardware
    from moesim.model import Model
    from moesim.prediction import Engine
    from moesim.requests import RequestTrace
    from moesim.serving.offloaded import Offloaded
    from moesim.serving.outcome import Outcome
    from moesim.serving.settings import Scheduler
    from moesim.serving.simulate import Ready
    from moesim.trace import Routing


@dataclass(slots=True)
class Offload:
    """Options about it; None where nothing is said.

    Parameters
    ----------
    system
        A composition of `moesim.systems`, as for `moesim replay --system`.
    fraction
        Experts that the device holds, as a part of all.
    """

    system: str | None
    fraction: float | None
    slots: int = field(default=0, init=False)
    learnt: int = field(default=0, init=False)
    assumed: list[dict[str, Any]] = field(default_factory=list, init=False)
    found: Offloaded | None = field(default=None, init=False)

    @property
    def asked(self) -> bool:
        """Whether experts are offloaded."""
        return self.system is not None

    def faults(self, trace: str | None, said: Mapping[str, object]) -> list[Fault]:
        """What is wrong with them, and with other options beside them, None where nothing is said."""
        if self.system is None:
            if self.fraction is None:
                return []
            return [Fault("is of --offload", "--cache-fraction", self.fraction)]
        from moesim.systems.compositions.table import find

        found = []
        try:
            find(self.system)
        except ConfigError as error:
            found += [replace(fault, where="--offload") for fault in error.faults]
        if self.fraction is None:
            found.append(Fault("needs --cache-fraction", "--offload", self.system, "above 0, at most 1"))
        elif not 0 < self.fraction <= 1:
            found.append(Fault("is out of range", "--cache-fraction", self.fraction, "above 0, at most 1"))
        if trace is None:
            found.append(Fault("needs a recording to replay", "--offload", self.system, "with --trace"))
        found += [
            Fault("does not go with --offload, which serves from one device", option, value)
            for option, value in said.items()
            if value is not None
        ]
        return found

    def trace_faults(self, path: str | None, routing: Routing | None, model: Model) -> list[Fault]:
        """What a recording lacks to be replayed."""
        from moesim.prediction.question import check_routing
        from moesim.trace import DECODE, RoutingTrace

        if routing is None:
            return []
        if not isinstance(routing, RoutingTrace):
            return [Fault("needs tokens; these are load counts", "--trace", path)]
        found = []
        if not (routing.phase == DECODE).any():
            found.append(Fault("has no tokens that were decoded", "--trace", path))
        try:
            check_routing(routing, model)
        except ConfigError as error:
            found += error.faults
        return found

    def prepare(
        self,
        model: Model,
        hardware: Hardware,
        routing: Routing | None,
        requests: RequestTrace,
        longest: int | None,
        engine: Engine,
        scheduler: Scheduler,
        traits: Traits,
        seed: int,
    ) -> Ready:
        """The box before its first request.

        Raises
        ------
        ConfigError
            If system, box and trace do not fit together.
        InfeasibleError
            If so many experts do not fit beside dense weights and the longest request.
        """
        from moesim.engine.eager import LAUNCH_S
        from moesim.offload import Box
        from moesim.offload.box import CHUNK_TOKENS
        from moesim.offload.run import SPARES
        from moesim.serving.admit import lengths_of
        from moesim.serving.offloaded import prepare_offloaded
        from moesim.systems.compositions import named
        from moesim.systems.compositions.compare import parts, require_unit, same_memory
        from moesim.trace import DECODE, RoutingTrace

        assert self.system is not None
        assert self.fraction is not None
        assert isinstance(routing, RoutingTrace)
        most = max(lengths_of(requests, model), longest or 0)
        box = Box.of(
            hardware, model, dtype=engine.dtype, kv_cache_dtype=engine.kv_cache_dtype, context=float(most),
            launch_s=LAUNCH_S if engine.enforce_eager else 0.0,
        )  # fmt: skip
        every = len(model.moe_layer_ids) * model.num_experts
        slots, each = round(self.fraction * every), box.widths[0].bytes
        if slots > box.slots:
            raise InfeasibleError(
                f"{slots} experts take {slots * each / 1e9:.1f} GB; beside dense weights and a request of "
                f"{most} tokens {box.hardware.name} has {box.expert_bytes / 1e9:.1f} GB, enough for "
                f"--cache-fraction {np.floor(100 * box.slots / every) / 100:.2f}",
                resource="device memory",
                needed=slots * each,
                available=box.expert_bytes,
            )
        train, replayed = parts([self.system], routing, seed=seed)
        if not (replayed.phase == DECODE).any():
            message = "has no decoded tokens in the half that is not learnt from"
            raise ConfigError(Fault(message, "--trace", routing.source or None))
        composed = named(self.system, replayed, slots)
        require_unit(composed, box)
        held = same_memory(composed.composition, replayed, box, slots, train) if composed.system.cached else 0
        # What experts leave free is the cache's.
        room = min((slots + SPARES) * each, box.expert_bytes)
        ready, self.found = prepare_offloaded(
            replace(box, expert_bytes=room), composed.composition, replayed, requests, longest=longest,
            engine=engine, scheduler=scheduler, train=train, slots=held, traits=traits, seed=seed,
        )  # fmt: skip
        self.slots, self.learnt = slots, 0 if train is None else train.num_tokens
        self.assumed = [
            {"name": a.name, "value": a.value, "range": [a.low, a.high], "why": a.why}
            for a in composed.assumed
        ]
        name = composed.system.name
        notes = [
            f"{name}: assumed {a.name} = {a.value:g} ({a.low:g} to {a.high:g}: {a.why})"
            for a in composed.assumed
        ]
        notes += [f"{name}: the trace lacks {text}" for text in composed.lacks]
        if train is not None:
            notes.append(f"{name} learnt from {train.num_tokens:,} tokens of other requests of the trace")
        if engine.chunk_tokens > CHUNK_TOKENS:
            notes.append(f"steps take at most {CHUNK_TOKENS} tokens, for which the device keeps room")
        about = replace(ready.about, notes=(*ready.about.notes, *notes))
        return replace(ready, about=about)

    def document(self, outcome: Outcome) -> dict[str, Any] | None:
        """What was found and moved, of the steps of the first run; None without offload."""
        if self.found is None:
            return None
        from moesim.serving.state import STEPS

        tally = outcome.state.tally
        logged = min(int(tally.logged[0]), len(tally.log))
        steps = int(tally.sums[:, STEPS].sum())
        ratio, moved = self.found.during(tally.log[:logged], np.array([-np.inf, np.inf]))
        # Of a long run the first steps are kept, which stand for all.
        whole = float(moved[0]) * steps / max(logged, 1)
        done = int(outcome.done.sum())
        return {
            "system": self.system,
            "cache_fraction": self.fraction,
            "slots": self.slots,
            "learnt_tokens": self.learnt,
            "assumed": self.assumed,
            "hit_ratio": float(ratio[0]),
            "moved_bytes": whole,
            "moved_bytes_per_request": whole / done if done else None,
            "steps_seen": logged,
        }
