"""Options of the commands that have many, in groups, for their help."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Options by what they are about, under the first of their names.
PANELS: Mapping[str, tuple[str, ...]] = {
    "Model and machine": ("--model", "--hardware", "--nodes", "--dtype", "--kv-cache-dtype", "--price"),
    "Traffic": (
        "--requests",
        "--arrivals",
        "--request-rate",
        "--concurrency",
        "--num-requests",
        "--resample",
        "--input-len",
        "--output-len",
        "--drop-long",
        "--burstiness",
    ),
    "Promise": ("--goodput", "--slo", "--attainment", "--max-devices", "--max-usd-per-hour", "--nodes-max"),
    "Layout": (
        "--tensor-parallel-size",
        "--pipeline-parallel-size",
        "--data-parallel-size",
        "--expert-parallel-size",
        "--replicas",
        "--router",
        "--overlap",
    ),
    "Pools": (
        "--disaggregated",
        "--prefill-workers",
        "--decode-workers",
        "--prefill-tp",
        "--prefill-pp",
        "--prefill-dp",
        "--prefill-ep",
        "--kv-link",
        "--kv-oversubscription",
        "--kv-overlap",
        "--first-token-from",
        "--attention-workers",
        "--expert-workers",
        "--micro-batches",
    ),
    "Routing and placement": (
        "--trace",
        "--num-experts",
        "--routing",
        "--plan",
        "--redundant",
        "--dispatch",
        "--routing-windows",
        "--window-tokens",
        "--rebalance",
        "--rebalance-interval",
        "--tokens-per-step",
    ),
    "Experts that do not fit": ("--offload", "--cache-fraction"),
    "Engine": (
        "--backend",
        "--max-num-batched-tokens",
        "--max-num-seqs",
        "--gpu-memory-utilization",
        "--scheduler-recv-interval",
        "--speculative-tokens",
        "--acceptance-rate",
        "--enforce-eager",
        "--block-size",
        "--enable-chunked-prefill",
        "--enable-prefix-caching",
        "--prefill-first",
        "--order",
        "--admission",
        "--output-share",
        "--preemption",
        "--cuda-graph-sizes",
        "--async-scheduling",
        "--calibration",
    ),
    "Failures": ("--mtbf", "--repair", "--fail", "--crews", "--reload", "--retries"),
    "How sure": (
        "--warmup",
        "--cooldown",
        "--replications",
        "--confirm",
        "--what-if",
        "--processes",
        "--seed",
    ),
    "Many plans": ("--grid", "--scheduler", "--query"),
    "Results": (
        "--output",
        "--timeline",
        "--timeline-ranks",
        "--timeline-requests",
        "--timeline-window",
        "--aiperf",
        "--bench",
        "--emit",
        "--out",
        "--json",
    ),
}
_PANEL_OF = {option: panel for panel, options in PANELS.items() for option in options}
#: Commands whose options all have a panel.
GROUPED = ("predict", "simulate", "plan")


def panel_of(option: str) -> str:
    """The group of an option, empty if it has none.

    >>> panel_of("--hardware"), panel_of("--wetware")
    ('Model and machine', '')
    """
    return _PANEL_OF.get(option, "")


def group_options(parameters: Iterable[Any]) -> None:
    """Have the help of a command show its options in groups; `parameters` are those of typer's command."""
    for parameter in parameters:
        panels = [panel for option in parameter.opts if (panel := panel_of(option))]
        parameter.rich_help_panel = panels[0] if panels else None
