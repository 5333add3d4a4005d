"""Draw the losses: ``python traces/tiny-moe/plot.py LOSS.csv LOSS.svg``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import corpus
import matplotlib as mpl
from matplotlib.figure import Figure


def main() -> None:
    """Held-out loss of each kind as dots, loss in training as a line."""
    source, target = map(Path, sys.argv[1:3])
    with source.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, kind in enumerate(corpus.KINDS):
        for part, style in (("train", "-"), ("valid", "o")):
            points = [
                (int(r["tokens"]) / 1e6, float(r[f"{part}_{kind}"])) for r in rows if r[f"{part}_{kind}"]
            ]
            label = kind if part == "train" else None
            axes.plot(
                *zip(*points, strict=True), style, color=f"C{i}", markersize=4, linewidth=1, label=label
            )
    axes.set(xlabel="million tokens", ylabel="nats per token", ylim=(0, None))
    axes.set_title("lines: in training; dots: held out", fontsize="medium")
    axes.legend(frameon=False)
    mpl.rcParams["svg.hashsalt"] = "tiny-moe"
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
