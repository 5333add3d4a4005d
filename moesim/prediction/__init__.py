"""From a question to an answer: one configuration, or many."""

from moesim.prediction.predict import predict
from moesim.prediction.question import Engine, Workload, check_routing
from moesim.prediction.sweep import Sweep, sweep

__all__ = ["Engine", "Sweep", "Workload", "check_routing", "predict", "sweep"]
