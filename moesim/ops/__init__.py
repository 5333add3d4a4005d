"""What one step of one model asks of one rank: operations, bytes and messages."""

from moesim.ops.batch import Batch
from moesim.ops.precision import Precision
from moesim.ops.step import ExpertWork, LayerKinds, StepWork, step_work
from moesim.ops.table import Message, Op, OpTable

__all__ = [
    "Batch",
    "ExpertWork",
    "LayerKinds",
    "Message",
    "Op",
    "OpTable",
    "Precision",
    "StepWork",
    "step_work",
]
