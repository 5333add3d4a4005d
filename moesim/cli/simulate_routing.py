"""Routing that changes while `moesim simulate` serves, and experts that follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.errors import ConfigError, Fault

if TYPE_CHECKING:
    from moesim.hardware import Hardware
    from moesim.layout import ExpertMap, Parallelism
    from moesim.model import Model
    from moesim.prediction import Engine
    from moesim.serving.periods import Window
    from moesim.trace import Routing


@dataclass(frozen=True, slots=True)
class Drift:
    """Options about it; None where nothing is said.

    Parameters
    ----------
    windows
        Equal parts of the recording that follow each other.
    tokens
        Tokens served that each stands for; as many as it holds by default.
    policy
        Of `moesim.rebalancing.POLICIES`: who moves experts.
    interval, tokens_per_step
        Steps between two looks of the policy, and tokens of a step of the recording.
    """

    windows: int | None
    tokens: float | None
    policy: str | None
    interval: int
    tokens_per_step: int

    def faults(self, trace: str | None) -> list[Fault]:
        """What is wrong with them."""
        found = []
        for value, option in ((self.windows, "--routing-windows"), (self.policy, "--rebalance")):
            if value is not None and trace is None:
                found.append(Fault("needs a recording", option, value, "with --trace"))
        if self.windows is not None and self.policy is not None:
            found.append(Fault("either cuts the recording", "--routing-windows or --rebalance"))
        for number, option in (
            (self.windows, "--routing-windows"),
            (self.tokens, "--window-tokens"),
            (self.interval, "--rebalance-interval"),
            (self.tokens_per_step, "--tokens-per-step"),
        ):
            if number is not None and not 1 <= number <= 1e12:
                found.append(Fault("is out of range", option, number, "1 to 1e12"))
        if self.tokens is not None and self.windows is None:
            found.append(Fault("is of --routing-windows", "--window-tokens", self.tokens))
        if self.policy is not None:
            from moesim.rebalancing import policy_faults

            found += [
                Fault(f.message, "--rebalance", f.value, f.allowed) for f in policy_faults([self.policy])
            ]
        return found

    def windows_of(
        self,
        routing: Routing | None,
        model: Model,
        hardware: Hardware,
        layout: Parallelism,
        engine: Engine,
        plan: ExpertMap | None,
        seed: int,
    ) -> list[Window] | None:
        """Windows of routing; None where it stays as it is.

        Raises
        ------
        ConfigError
            If the recording does not hold so many windows.
        """
        if routing is None or (self.windows is None and self.policy is None):
            return None
        if self.windows is not None:
            from moesim.serving.periods import windows_of

            return windows_of(routing, self.windows, self.tokens, model.top_k)
        from moesim.cli.rebalance import played_of
        from moesim.layout import ExpertMap
        from moesim.rebalancing import Rules, StepPricer, policy_of, rebalanced_windows

        assert self.policy is not None
        if model.moe is None or layout.ep < 2:
            raise ConfigError(
                Fault("needs experts on several ranks", "--rebalance", self.policy, "--ep of 2 or more")
            )
        steps = played_of([routing], model, self.tokens_per_step, None, True, seed)
        rules = Rules(interval=self.interval)
        policy = policy_of(
            self.policy, interval=rules.interval, window=rules.window, groups=model.moe.groups,
            trigger=rules.trigger, horizon=rules.horizon, most=rules.most, seed=seed,
        )  # fmt: skip
        start = plan or ExpertMap.contiguous(len(model.moe_layer_ids), model.num_experts, layout.ep)
        pricer = StepPricer(model, hardware, layout.ep, engine)
        return rebalanced_windows(steps, pricer, policy, start, per_window=self.interval)[0]
