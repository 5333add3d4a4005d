"""A clock that prices steps with the cost model."""

from __future__ import annotations

import math

from moesim.batching.types import StepLoad
from moesim.engine.deployment import Deployment
from moesim.errors import ConfigError, Fault
from moesim.ops import Batch


class EngineClock:
    """Seconds of a step by the cost model, for `batch_requests` and `schedule`.

    Loads are rounded to a grid of equal ratios, and every point of it is priced once: a schedule of 100,000
    steps asks the cost model a few thousand times.

    Parameters
    ----------
    deployment
        The model on its hardware, with its routing and placement. Every data-parallel rank is taken to be as
        busy as the one that is scheduled.
    resolution
        Ratio of neighbouring grid points, less 1.

    Raises
    ------
    ConfigError
        If the resolution is not between 0 and 1.
    """

    def __init__(self, deployment: Deployment, *, resolution: float = 0.05) -> None:
        if not 0 < resolution < 1:
            raise ConfigError(Fault("is out of range", "resolution", resolution, "between 0 and 1"))
        self.deployment = deployment
        self._ratio = math.log1p(resolution)
        self._known: dict[tuple[int, ...], float] = {}

    def __call__(self, load: StepLoad) -> float:
        """Seconds of a step."""
        amounts = (
            load.prompts,
            load.prefill_tokens,
            load.past_tokens,
            load.decode_tokens,
            load.context_tokens,
        )
        key = tuple(map(self._place, amounts))
        seconds = self._known.get(key)
        if seconds is None:
            seconds = self._known[key] = self._price(*map(self._value, key))
        return seconds

    @property
    def priced(self) -> int:
        """Loads the cost model was asked about so far."""
        return len(self._known)

    def _place(self, amount: int) -> int:
        """The grid point nearest to an amount; 0 is none."""
        return 0 if amount == 0 else 1 + round(math.log(amount) / self._ratio)

    def _value(self, place: int) -> float:
        return 0.0 if place == 0 else math.exp((place - 1) * self._ratio)

    def _price(self, prompts: float, prefill: float, past: float, decode: float, context: float) -> float:
        each = max(prompts, 1.0)
        batch = Batch.of(
            sequences=decode,
            context=max(context / max(decode, 1.0), 1.0) if decode else 0.0,
            prompts=prompts,
            chunk=prefill / each,
            past=past / each,
        )
        return float(self.deployment.step(batch).seconds[0])
