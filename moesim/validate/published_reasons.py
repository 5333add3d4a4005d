"""Why a published figure is not predicted: the first reason that holds, in words that can be counted."""

from __future__ import annotations

import re
from collections.abc import Callable

from moesim.validate.published_rows import PublishedRow

#: Units of what moesim computes at all.
_ABSOLUTE = re.compile(r"^(us|ms|s|tok/s.*|TFLOPS|GB/s.*|req/s)$")


def _matches(pattern: str, *columns: str) -> Callable[[PublishedRow], bool]:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda row: any(compiled.search(row.text(column)) for column in columns)


_REASONS: tuple[tuple[Callable[[PublishedRow], bool], str], ...] = (
    (_matches(r"train|^bwd$|^fwd|img/s|MFU", "phase", "unit", "metric"), "training is not modelled"),
    (
        _matches(
            r"offload|Lightning|FlexGen|MoE-Gen|Fiddler|Infinity|HOBBIT|ktransformers|llama\.cpp", "system"
        ),
        "weights outside of device memory are not modelled",
    ),
    (
        _matches(r"offline|cache \d+|perf-model", "phase"),
        "weights outside of device memory are not modelled",
    ),
    (_matches(r"^hardware$|^storage$|^load$", "phase"), "a property of the machine, not a prediction"),
    (_matches(r"MoE layer fused|MoE kernel", "phase"), "fused MoE kernels with their exchange inside"),
    (_matches(r"imbalance", "metric"), "depends on routing that is not published"),
    (
        lambda row: not _ABSOLUTE.match(row.text("unit")),
        "a ratio, share or size, not a time or a rate",
    ),
    (_matches(r"^not printed$", "parallelism"), "does not print how it is laid out over its devices"),
    (
        _matches(
            r"A5000|A6000|A30|A40|A800|V100|T4|L4|4090|3090|3080|3060|910A|910B|2080|Jetson|Testbed",
            "hardware",
        ),
        "no description of its hardware",
    ),
)


def reason_of(row: PublishedRow) -> str:
    """Why moesim has nothing to say to a row that none of its predictors takes."""
    return next((text for holds, text in _REASONS if holds(row)), "no predictor takes such a figure")
