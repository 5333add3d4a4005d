"""Every cell of Faster MoE inference beside ours: DeepSeek-V3 and V2-Lite with fewer experts.

    python benchmarks/systems/faster_moe_cells.py ../shared/data/published/measurements.csv

Nothing is fitted to the cells: layouts are the engine's defaults (one device where the model fits, else all).
"""

from __future__ import annotations

import csv
import re
import sys
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np

from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.systems.fewer_experts import narrowed, throughput

SYSTEM = "Faster MoE LLM Inference"
#: Hardware, layout, active experts and experts of the whole model.
MODELS = {
    "deepseek-v3": ("h200-sxm-8", Parallelism(tp=8), 8, 256),
    "deepseek-v2-lite": ("a800-pcie-2", Parallelism(tp=1), 6, 64),
}


def cells(path: Path) -> dict[tuple[str, str, int, int], np.ndarray]:
    """By table, model, active experts and experts: rows of concurrency, tokens in, tokens out, tokens/s."""
    found = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["system"] != SYSTEM:
                continue
            name = "deepseek-v3" if "V3" in line["model"] else "deepseek-v2-lite"
            _, _, top_k, experts = MODELS[name]
            active = re.search(r"n_a=(\d+)", line["model"])
            every = re.search(r"n_e=(\d+)", line["model"])
            key = (
                line["locator"],
                name,
                int(active.group(1)) if active else top_k,
                int(every.group(1)) if every else experts,
            )
            concurrency = int(re.search(r"\d+", line["batch"]).group())
            lengths = float(line["input_len"] or 1024), float(line["output_len"] or 1024)
            found[key].append((concurrency, *lengths, float(line["value"])))
    return {key: np.array(sorted(rows)) for key, rows in sorted(found.items())}


def errors(path: Path) -> dict[tuple[str, str, int, int], np.ndarray]:
    """As `cells`: rows of concurrency and of ours over published, less 1."""
    found = {}
    for key, rows in cells(path).items():
        _, name, active, experts = key
        hardware, layout, _, _ = MODELS[name]
        concurrency, inputs, outputs, published = rows.T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours = throughput(
                narrowed(load_model(name), active, experts),
                load_hardware(hardware),
                layout,
                concurrency,
                inputs,
                outputs,
            )
        found[key] = np.stack([concurrency, ours / published - 1.0], axis=1)
    return found


def main() -> None:
    """Print errors cell by cell, and medians by table and load."""
    found = errors(Path(sys.argv[1]))
    for (table, name, active, experts), rows in found.items():
        line = " ".join(f"{int(load)}:{error:+.2f}" for load, error in rows)
        print(f"{table:9} {name:17} {active} of {experts:3}  {line}")
    groups = defaultdict(list)
    for (table, name, _, _), rows in found.items():
        for load, error in rows:
            part = "to 8" if load <= 8 else "12 to 128" if load <= 128 else "192 and more"
            for group in ("all", name, f"{name}, {table}", f"{name}, {part} at a time"):
                groups[group].append(abs(error))
    print()
    for group, values in sorted(groups.items()):
        median, p90 = np.median(values), np.quantile(values, 0.9)
        print(f"{group:42} {len(values):4} cells, median {median:6.1%}, p90 {p90:6.1%}")


if __name__ == "__main__":
    main()
