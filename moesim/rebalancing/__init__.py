"""Rebalancing: experts move while traffic changes, or ranks are lost; what that gains, and what it costs."""

from moesim.rebalancing.compare import COLUMNS, Rebalanced, Rules, rebalance
from moesim.rebalancing.copying import Copying
from moesim.rebalancing.elastic import Restored, restored
from moesim.rebalancing.history import History
from moesim.rebalancing.policies import (
    POLICIES,
    Incremental,
    Periodic,
    Policy,
    Static,
    Triggered,
    policy_faults,
    policy_of,
)
from moesim.rebalancing.price import StepCost, StepPricer
from moesim.rebalancing.replay import Loss, Rebalance, Replayed, replay
from moesim.rebalancing.serving import rebalanced_windows
from moesim.rebalancing.steps import Stepwise, cut, in_turn, recorded, sampled, steps_of_rows

__all__ = [
    "COLUMNS",
    "POLICIES",
    "Copying",
    "History",
    "Incremental",
    "Loss",
    "Periodic",
    "Policy",
    "Rebalance",
    "Rebalanced",
    "Replayed",
    "Restored",
    "Rules",
    "Static",
    "StepCost",
    "StepPricer",
    "Stepwise",
    "Triggered",
    "cut",
    "in_turn",
    "policy_faults",
    "policy_of",
    "rebalance",
    "rebalanced_windows",
    "recorded",
    "replay",
    "restored",
    "sampled",
    "steps_of_rows",
]
