"""One iteration of training: its work, memory, communication and pipeline."""

from moesim.training.experts import dropped_fraction, expert_rows, needed_capacity, rank_imbalance
from moesim.training.flops import training_flops
from moesim.training.iteration import Costs, Iteration, Line, iterate
from moesim.training.layout import Group, TrainLayout
from moesim.training.memory import TrainMemory, layer_activations
from moesim.training.pipeline import StageTimes, in_flight, run_schedule
from moesim.training.recipe import (
    CONTEXT,
    DISPATCH,
    EXPERT_KERNELS,
    LAYER_SCHEDULES,
    OVERLAPS,
    PADDING,
    PRECISIONS,
    RECOMPUTE,
    SCHEDULES,
    Recipe,
)
from moesim.training.schedule import Schedule, dualpipe, interleaved, one_forward_one_backward
from moesim.training.search import Found, Search, Space, search
from moesim.training.shapes import gpt
from moesim.training.traffic import exchange_seconds, reduce_seconds, two_level_seconds

__all__ = [
    "CONTEXT",
    "DISPATCH",
    "EXPERT_KERNELS",
    "LAYER_SCHEDULES",
    "OVERLAPS",
    "PADDING",
    "PRECISIONS",
    "RECOMPUTE",
    "SCHEDULES",
    "Costs",
    "Found",
    "Group",
    "Iteration",
    "Line",
    "Recipe",
    "Schedule",
    "Search",
    "Space",
    "StageTimes",
    "TrainLayout",
    "TrainMemory",
    "dropped_fraction",
    "dualpipe",
    "exchange_seconds",
    "expert_rows",
    "gpt",
    "in_flight",
    "interleaved",
    "iterate",
    "layer_activations",
    "needed_capacity",
    "one_forward_one_backward",
    "rank_imbalance",
    "reduce_seconds",
    "run_schedule",
    "search",
    "training_flops",
    "two_level_seconds",
]
