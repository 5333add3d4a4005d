"""A plan for people: imbalance before and after, proof, price, files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from moesim.cli.common import print_table, stderr
from moesim.cli.place_output import show_files

if TYPE_CHECKING:
    from moesim.placement import Placed
    from moesim.placement.ilp.answer import Progress
    from moesim.placement.redundancy import Redundancy
    from moesim.result import Prediction

_TITLES = {
    "before": "before (contiguous)",
    "balanced": "best without redundancy",
    "after": "after (the plan)",
}


def show(placed: Placed) -> None:
    """Print all of it."""
    _balance(placed)
    _proof(placed)
    if (moved := placed.moves) is not None:
        typer.echo(
            f"from the plan that is loaded {moved.experts.sum():,} experts are copied, "
            f"{moved.total_bytes / 1e9:.4g} GB, {moved.out.sum() / 1e9:.4g} GB of it between domains"
        )
    if placed.redundancy is not None:
        _numbers(placed.redundancy, placed.moe_layer_ids)
    if placed.predicted:
        _price(placed)
    show_files(placed.emitted)
    for note in placed.warnings:
        stderr(f"note: {note}")


def show_progress(state: Progress) -> None:
    """Print where an integer programme is, on stderr."""
    stderr(
        f"layer {state.layer}: incumbent {state.incumbent:.5g}, bound {state.bound:.5g} "
        f"(largest over mean), {state.seconds:.0f} s"
    )


def _balance(placed: Placed) -> None:
    import numpy as np

    plan = placed.expert_map
    evaluated = placed.judged["plan"].evaluated is not None
    columns = ["placement", "mean", "worst layer"] + (
        ["other load: mean", "worst layer"] if evaluated else []
    )
    rows = []
    for name, judged in placed.judged.items():
        row = [name, f"{judged.fitted.mean:.4f}", f"{judged.fitted.worst:.4f}"]
        if judged.evaluated is not None:
            row += [f"{judged.evaluated.mean:.4f}", f"{judged.evaluated.worst:.4f}"]
        rows.append(row)
    bound = float(np.nanmean(placed.lower_bound))
    rows.append(["lower bound", f"{bound:.4f}", "", *([""] * 2 * evaluated)])
    rule = "" if placed.dispatch == "even" else f", {placed.dispatch} dispatch"
    print_table(
        columns,
        rows,
        title=f"largest over mean rank load, {plan.ranks} ranks, {plan.slots} slots "
        f"({plan.redundant} redundant), {plan.layers} MoE layers{rule}",
    )


def _proof(placed: Placed) -> None:
    import numpy as np

    solution = placed.solution
    kinds = sorted(set(solution.bound_kind), key=solution.bound_kind.count, reverse=True)
    counted = ", ".join(f"{kind} in {solution.bound_kind.count(kind)}" for kind in kinds)
    if solution.objective not in ("max-load", "expected-max"):
        typer.echo(f"{solution.objective}: {np.nanmean(solution.value):.5g} mean over layers")
    seconds = f"solved in {solution.seconds:.2f} s"
    if not np.isfinite(solution.gap).any():
        typer.echo(f"not proven: anything about how good this is (bound: {counted} layers); {seconds}")
        return
    typer.echo(
        f"gap to the bound: {np.nanmean(solution.gap):.3%} mean, {np.nanmax(solution.gap):.3%} worst layer; "
        f"{seconds}"
    )
    typer.echo(
        f"proven: no placement is better by more than the gap on the load it was fitted to (bound: {counted} "
        "layers). Not proven: anything about other traffic, or about single batches."
    )


def _numbers(numbers: Redundancy, layer_ids: tuple[int, ...]) -> None:
    rows = []
    for choice in numbers.choices:
        if not choice.answers:
            rows.append([choice.redundant, None, None, None, None, None, "does not fit"])
            continue
        first = choice.answers[0]
        mark = "chosen" if choice is numbers.best else ""
        rows.append(
            [
                choice.redundant,
                f"{first.memory['weights_bytes'] / 1e9:.4g}",
                f"{choice.cache_tokens / 1e6:.4g}",
                f"{first.load_imbalance or 1:.3f}",
                _with_interval(first, "tpot_s"),
                f"{choice.output_throughput:.5g}",
                mark,
            ]
        )
    typer.echo()
    print_table(
        [
            "redundant",
            "weights per device, GB",
            "cache, M tokens",
            "imbalance per step",
            "TPOT, ms",
            "output tokens/s",
            "",
        ],
        rows,
        title="how many redundant experts",
    )
    if numbers.by_layer is not None:
        some = numbers.by_layer
        gain = some.output_throughput / numbers.best.output_throughput - 1.0
        typer.echo(
            f"With them in {len(some.layers)} of {len(layer_ids)} layers alone the prediction is {gain:.1%} "
            "higher; no engine that this writes for loads such a plan."
        )


def _price(placed: Placed) -> None:
    for predicted, where in (
        (placed.predicted, ""),
        (placed.predicted_elsewhere, " on the other traffic"),
    ):
        if not predicted:
            continue
        typer.echo()
        print_table(
            ["placement", "TTFT, ms", "TPOT, ms", "output tokens/s", "imbalance per step"],
            [
                [
                    _TITLES.get(name, name),
                    _with_interval(p, "ttft_s"),
                    _with_interval(p, "tpot_s"),
                    f"{p.output_throughput:.5g}",
                    f"{p.load_imbalance or 1:.3f}",
                ]
                for name, p in predicted.items()
            ],
            title=f"predicted{where} at {predicted['after'].concurrency:g} concurrent requests",
        )
    typer.echo()
    print_table(
        ["tokens per rank", "before, ms", "no redundancy, ms", "plan, ms"],
        [
            [
                p.tokens_per_rank,
                *(f"{s * 1e3:.4g}" if s is not None else None for s in (p.before_s, p.balanced_s, p.after_s)),
            ]
            for p in placed.prices
        ],
        title="TPOT by batch size",
    )
    typer.echo()
    for sentence in placed.verdict:
        typer.echo(sentence)


def _with_interval(answer: Prediction, name: str) -> str:
    value = f"{getattr(answer, name) * 1e3:.4g}"
    span = (answer.interval or {}).get(name)
    return value if span is None else f"{value} ({span[0] * 1e3:.4g} to {span[1] * 1e3:.4g})"
