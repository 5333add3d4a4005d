"""Six insights into the routing of a trace: `moesim trace stats --insights`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.cli.common import print_table, stderr

if TYPE_CHECKING:
    from moesim.analysis import Insights
    from moesim.analysis.stats import Progress

#: What each value says; what is not named here is shown under its own name.
_SAYS = {
    "next_layer cover": "next layer: mass of the likeliest 20 % of followers",
    "next_layer popular": "next layer: mass of the most popular 20 %, whatever came before",
    "next_token cover": "next token: mass of the likeliest 20 % of followers",
    "next_token popular": "next token: mass of the most popular 20 %, whatever came before",
    "prefill_decode spearman": "prefill and decode: rank correlation of loads",
    "hottest_expert max_over_mean": "hottest expert over the mean",
    "hottest_expert worst_layer": "the same in its worst layer",
    "pairs top10_share": "pairs: share of the hottest 10 %",
    "pairs hottest_over_random": "pairs: the hottest over random choice",
    "pairs worst_layer_over_random": "the same in its worst layer",
}


def find(
    path: Path,
    about: dict[str, Any],
    model: str,
    hardware: str | None,
    seed: int,
    progress: Progress | None = None,
) -> Insights:
    """Insights into a file; its own model is taken where none was named and the catalogue has it."""
    from moesim.analysis import insights_of
    from moesim.hardware import load_hardware
    from moesim.model import load_model, names

    shape = about["shape"] or (load_model(model) if model in names() else None)
    machine = load_hardware(hardware) if hardware is not None else None
    return insights_of(path, model=shape, hardware=machine, seed=seed, progress=progress, **about)


def show(path: Path, found: Insights) -> None:
    """Print a table, and say why an insight is missing."""
    size = "load counts" if found.tokens is None else f"{found.tokens:,} tokens"
    rows = []
    for insight in found.found:
        for name, value in insight.values.items():
            label = f"{insight.name} {name}"
            if name in ("chance", "least", "most", "least_spearman") or name.endswith("_chance"):
                continue
            if name.endswith("_overlap"):
                label = f"prefill and decode: overlap of the {name[3:-8]} hottest experts"
            if insight.name == "data_movement":
                label = f"data movement: share of a decode step of {int(name[6:]):,} tokens"
            ends = [insight.values.get(end) if name == "cover" else None for end in ("least", "most")]
            if name == "spearman":
                ends[0] = insight.values["least_spearman"]
            chance = insight.values.get(name.replace("_overlap", "_chance"))
            if name in ("cover", "popular", "top10_share"):
                chance = insight.values["chance"]
            elif not name.endswith("_overlap"):
                chance = 1.0 if "over" in name or name == "worst_layer" else None
            rows.append([_SAYS.get(label, label), *(_text(v) for v in (value, *ends, chance))])
    title = (
        f"{path.name}: {found.model or 'unknown model'}, {size}, {found.num_experts} experts, "
        f"top-{found.top_k or '?'}; means over layers"
    )
    print_table(["insight", "value", "least layer", "most", "by chance"], rows, title=title)
    for insight in found.found:
        if insight.reason:
            stderr(f"note: no {insight.name.replace('_', ' ')}: {insight.reason}")
    for warning in found.warnings:
        stderr(f"warning: {warning}")


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
