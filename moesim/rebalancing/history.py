"""What a policy may know: steps that are over, the plan in force, and what the cost model says of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.layout import ExpertMap
from moesim.placement.migration import Moves, moves
from moesim.rebalancing.copying import Copying, seconds_lost
from moesim.rebalancing.price import StepPricer
from moesim.rebalancing.steps import Stepwise

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Everything up to a step, and nothing behind it.

    Parameters
    ----------
    past
        The steps so far, the one just run included.
    plan
        The plan in force.
    since
        Step at which it took effect.
    pricer, copying
        What steps cost, and how experts are copied.
    """

    past: Stepwise
    plan: ExpertMap
    since: int
    pricer: StepPricer
    copying: Copying

    @property
    def now(self) -> int:
        """Steps run so far."""
        return len(self.past)

    def window(self, steps: int) -> FloatArray:
        """Loads of the last steps, float64 ``[steps, layers, experts]``."""
        return self.past.counts[max(0, self.now - steps) :]

    def seconds(self, plan: ExpertMap, steps: Iterable[int]) -> FloatArray:
        """Seconds that past steps take under a plan, float64 ``[steps]``."""
        return np.array([self.pricer.price(plan, self.past.draw(step)).seconds for step in steps])

    def moves_to(self, plan: ExpertMap) -> Moves:
        """What a change to a plan moves."""
        return moves(plan, self.plan, self.pricer.expert_bytes, self.pricer.domain)

    def imbalance(self, steps: int) -> float:
        """Largest over mean rank load of the plan in force, averaged over layers and the last steps."""
        return float(np.mean([self.pricer.imbalance(self.plan, counts) for counts in self.window(steps)]))

    def cost_of(self, plan: ExpertMap) -> float:
        """Seconds that a change to a plan adds to the steps."""
        copy_s = float(self.pricer.copy_seconds(self.moves_to(plan)).sum())
        return seconds_lost(copy_s, self.pricer.price(self.plan, self.past.draw(self.now - 1)), self.copying)
