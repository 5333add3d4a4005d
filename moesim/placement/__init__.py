"""Expert placement: which rank holds which expert, how far from the best possible, and in which file."""

from moesim.placement.bound import Bound, bound_with_kind, lower_bound
from moesim.placement.files import (
    FORMATS,
    EmittedFile,
    NotAPlanError,
    PlanCheck,
    check_plan,
    emit_faults,
    parse_emit,
    read_plan,
    write,
)
from moesim.placement.place import place
from moesim.placement.placed import Judged, Placed
from moesim.placement.price import Gain, PricePoint
from moesim.placement.problem import Problem
from moesim.placement.solution import Imbalance, Solution, evaluate
from moesim.placement.solve import METHODS, solve
from moesim.placement.solvers.greedy import greedy, pack, replicate

__all__ = [
    "FORMATS",
    "METHODS",
    "Bound",
    "EmittedFile",
    "Gain",
    "Imbalance",
    "Judged",
    "NotAPlanError",
    "Placed",
    "PlanCheck",
    "PricePoint",
    "Problem",
    "Solution",
    "bound_with_kind",
    "check_plan",
    "emit_faults",
    "evaluate",
    "greedy",
    "lower_bound",
    "pack",
    "parse_emit",
    "place",
    "read_plan",
    "replicate",
    "solve",
    "write",
]
