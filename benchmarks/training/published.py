"""Print how predictions of training compare with published runs: the tables of ``docs/training.md``.

python benchmarks/training/published.py
"""

from __future__ import annotations

import statistics

from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.systems.row import Case
from moesim.systems.rows import folding, megablocks, megascale
from moesim.training import Recipe, TrainLayout, iterate


def table(title, runs):
    print(f"\n{title}\n")
    print("| model | method | GPUs | tokens | published | ours | points |\n|---|---|---|---|---|---|---|")
    errors = []
    for run in runs:
        ours = folding.predicted(run).mfu
        errors.append(100 * abs(ours - run.mfu))
        print(
            f"| {run.model} | {run.method} | {run.gpus} | {run.seq} | {run.mfu:.1%} | {ours:.1%} "
            f"| {100 * (ours - run.mfu):+.1f} |"
        )
    print(f"\nmedian {statistics.median(errors):.2f} points, largest {max(errors):.1f}, {len(errors)} runs")


def deepseek():
    """DeepSeek-V3 (arXiv:2412.19437): 2048 H800, 16 stages, 64 expert ranks, 180K GPU hours per 1T tokens."""
    model, hardware = load_model("deepseek-v3"), load_hardware("h800-sxm-8", nodes=256)
    layout = TrainLayout(pp=16, dp=128, ep=64)
    for dispatch, size in (("two-level", 1.0), ("exchange", 2.0)):
        recipe = Recipe(
            15360,
            4096,
            schedule="dualpipe",
            precision="fp8",
            recompute="selective",
            dispatch=dispatch,
            dispatch_bytes=size,
            state_bytes=8.0,
        )
        done = iterate(model, hardware, layout, recipe, need_memory=False)
        hours = 1e12 / done.tokens_per_s * done.devices / 3600
        print(f"DeepSeek-V3, {dispatch}: {hours:,.0f} H800 hours per 1T tokens, published 180,000", end="; ")
        print(f"{done.memory.total / 1e9:.0f} GB per GPU")


def main():
    table("Parallel Folding, tables 1 and 3 (256 sequences)", folding.TABLE_1)
    table("Parallel Folding, ends of table 4 (1024 sequences)", folding.TABLE_4)
    table("Parallel Folding, table 5 (long sequences; masked scores counted)", folding.TABLE_5)
    for run in folding.TABLE_5:
        print(
            f"masked scores left out: {run.method} {run.seq}: {folding.predicted(run, halved=True).mfu:.1%}"
        )
    for rows in (megascale.ROWS, megablocks.ROWS):
        print(f"\n{rows[0].system}\n\n| row | published | ours | ratio |\n|---|---|---|---|")
        for row in rows:
            if row.compute is not None:
                ours, theirs = row.compute(Case(row.central())), row.figure.value
                print(f"| {row.name} | {theirs:.4g} | {ours:.4g} | {ours / theirs:.3f} |")
    print()
    deepseek()


if __name__ == "__main__":
    main()
