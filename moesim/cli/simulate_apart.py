"""Attention and experts on workers of their own: options of `moesim simulate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.errors import Fault

if TYPE_CHECKING:
    from moesim.engine.traits import Traits
    from moesim.hardware import Hardware
    from moesim.layout import Apart, ExpertMap
    from moesim.model import Model
    from moesim.prediction import Engine
    from moesim.requests import RequestTrace
    from moesim.serving.settings import Fleet, Scheduler
    from moesim.serving.simulate import Ready
    from moesim.trace import Routing

#: As many as keep both sides busy where the way takes less than half of a stage: MegaScale-Infer, equation 3.
MICRO = 3


@dataclass(frozen=True, slots=True)
class Workers:
    """Options about them; None where nothing is said."""

    attention: int | None
    experts: int | None
    micro: int | None

    @property
    def asked(self) -> bool:
        """Whether both sides are said."""
        return self.attention is not None and self.experts is not None

    def faults(self, said: Mapping[str, object]) -> list[Fault]:
        """What is wrong with them, and with other options beside them, None where nothing is said."""
        if self.attention is None and self.experts is None:
            if self.micro is None:
                return []
            return [Fault("is of --attention-workers and --expert-workers", "--micro-batches", self.micro)]
        found = []
        for value, option, other in (
            (self.experts, "--attention-workers", "--expert-workers"),
            (self.attention, "--expert-workers", "--attention-workers"),
        ):
            if value is None:
                found.append(Fault("needs the other side", option, allowed=f"with {other}"))
        instead = {
            "--dp": "of attention is --attention-workers",
            "--ep": "is --expert-workers",
            "--pp": "does not go with --attention-workers: they form no pipelines",
        }
        found += [
            Fault(instead.get(option, "does not go with --attention-workers"), option, value)
            for option, value in said.items()
            if value is not None
        ]
        return found

    def layout(self, tp: int) -> Apart:
        """Both sides."""
        from moesim.layout import Apart, Parallelism

        assert self.attention is not None
        assert self.experts is not None
        return Apart(
            Parallelism(tp, 1, self.attention, 1),
            Parallelism(1, 1, self.experts, self.experts),
            MICRO if self.micro is None else self.micro,
        )

    def prepare(
        self,
        model: Model,
        hardware: Hardware,
        layout: Apart,
        routing: Routing | None,
        plan: ExpertMap | None,
        requests: RequestTrace,
        longest: int | None,
        engine: Engine,
        scheduler: Scheduler,
        fleet: Fleet,
        traits: Traits,
        seed: int,
    ) -> Ready:
        """The workers before their first request."""
        from moesim.prediction.kept import deployment_of
        from moesim.prediction.question import check_routing
        from moesim.serving.attention_ffn import Pools, prepare_apart

        if routing is not None:
            check_routing(routing, model)
        attention, experts = (
            deployment_of(model, hardware, side, engine, routing, placed, seed, traits)
            for side, placed in ((layout.attention, None), (layout.experts, plan))
        )
        return prepare_apart(
            Pools(attention, experts, layout.micro), requests, longest=longest, engine=engine,
            scheduler=scheduler, fleet=fleet, seed=seed,
        )  # fmt: skip
