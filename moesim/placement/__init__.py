"""Expert placement: which rank holds which expert, how far from the best possible, and in which file."""

from moesim.placement.bound import Bound, bound_with_kind, lower_bound
from moesim.placement.emit import (
    FORMATS,
    EmittedFile,
    emit_faults,
    parse_emit,
    read_sglang,
    to_sglang,
    write,
)
from moesim.placement.greedy import greedy, pack, replicate
from moesim.placement.place import Judged, Placed, PricePoint, place
from moesim.placement.problem import METHODS, Imbalance, Solution, evaluate, faults, solve

__all__ = [
    "FORMATS",
    "METHODS",
    "Bound",
    "EmittedFile",
    "Imbalance",
    "Judged",
    "Placed",
    "PricePoint",
    "Solution",
    "bound_with_kind",
    "emit_faults",
    "evaluate",
    "faults",
    "greedy",
    "lower_bound",
    "pack",
    "parse_emit",
    "place",
    "read_sglang",
    "replicate",
    "solve",
    "to_sglang",
    "write",
]
