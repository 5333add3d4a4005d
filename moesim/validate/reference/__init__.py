"""The simulator against real runs of the reference execution: held-out layers, predicted and measured."""

from moesim.validate.reference.cases import DEVICES, frozen
from moesim.validate.reference.described import Described, described
from moesim.validate.reference.execute import ROUNDS, Anchor, execute, machine_name
from moesim.validate.reference.predict import Predicted, Turn, Work, predict
from moesim.validate.reference.recordings import recordings
from moesim.validate.reference.runs import Runs, read_runs, write_runs
from moesim.validate.reference.score import GATES, scored

__all__ = [
    "DEVICES",
    "GATES",
    "ROUNDS",
    "Anchor",
    "Described",
    "Predicted",
    "Runs",
    "Turn",
    "Work",
    "described",
    "execute",
    "frozen",
    "machine_name",
    "predict",
    "read_runs",
    "recordings",
    "scored",
    "write_runs",
]
