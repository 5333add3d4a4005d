"""From a question to an answer: one configuration, or many."""

from moesim.prediction.expert_count import ServingCost, serving_costs
from moesim.prediction.predict import predict
from moesim.prediction.question import Engine, Workload, check_routing
from moesim.prediction.sweep import Sweep, sweep
from moesim.prediction.timeline import StepTimeline, step_timeline

__all__ = [
    "Engine",
    "ServingCost",
    "StepTimeline",
    "Sweep",
    "Workload",
    "check_routing",
    "predict",
    "serving_costs",
    "step_timeline",
    "sweep",
]
