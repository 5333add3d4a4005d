"""MoE-Lightning, FlexGen and DeepSpeed on T4 and L4: every published row beside ours.

    python benchmarks/throughput/lightning.py          the table
    python benchmarks/throughput/lightning.py --fit    what is fitted, to Table 4 alone, with its residuals
    python benchmarks/throughput/lightning.py --sweep  Table 5 with each uncertain number moved

Figures are of arXiv:2411.11217 (Tables 4 and 5) and of the plots of its artifact (caoshiyi/artifacts: MTBench
runs behind Figure 7, padded lengths, and the policies of FlexGen's runs). ``train`` rows are those that the
fit sees; Table 5 is ``test``, and so is everything from Figure 7.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, replace

import numpy as np
from scipy.optimize import least_squares

from moesim import load_hardware, load_model
from moesim.systems.rows.lightning import RUNS
from moesim.throughput import ENGINE, Engine, LayerShape, Machine


def boxes() -> dict[str, Machine]:
    """T4 and L4 at the rates of their hardware files."""
    return {name: Machine.of(load_hardware(name)) for name in ("t4", "l4")}


def fit(shape: LayerShape) -> None:
    """Prefill share and FlexGen's share of CPU attention, from the ten rows of Table 4."""
    train = [case for case in RUNS if case.part == "train"]
    machines = boxes()

    def errors(x: np.ndarray) -> np.ndarray:
        engine = Engine(*np.exp(x).tolist())
        rates = [case.plan(shape, machines[case.box], engine).tokens_per_s for case in train]
        return np.log(np.array(rates) / [case.published for case in train])

    found = least_squares(errors, np.log([0.5, 0.1]))
    variance = np.sum(found.fun**2) / (len(train) - 2)
    spread = np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac)) * variance)
    for name, value, error, used in zip(
        ("prefill share", "FlexGen(c) CPU share"), np.exp(found.x), spread, astuple(ENGINE), strict=True
    ):
        print(f"{name:22} {value:.4f} +- {error:.0%}   (in use {used})")
    print(f"root mean square of the residuals {np.sqrt(np.mean(found.fun**2)):.1%}")
    for case, error in zip(train, found.fun, strict=True):
        print(f"  {case.system:14} {case.box} {case.prompt:5}/{case.output:<3} {np.expm1(error):+7.1%}")


def sweep(shape: LayerShape) -> None:
    """Table 5, ours over published, with each number moved that is not certain."""
    table = [case for case in RUNS if case.where == "Table 5"]
    t4 = boxes()["t4"]
    print(f"{'':44}" + "".join(f"{case.system[:8]} {case.micro_batch * case.count:<6}" for case in table))
    for name, machine, engine in (
        ("in use", t4, ENGINE),
        ("prefill share of the fit, - 6 %", t4, replace(ENGINE, prefill=0.94 * ENGINE.prefill)),
        ("prefill share of the fit, + 6 %", t4, replace(ENGINE, prefill=1.06 * ENGINE.prefill)),
        ("T4 reads at 239.6 GB/s (a device copy)", replace(t4, gpu_weights=239.6e9), ENGINE),
        ("T4 reads at 176 GB/s (paged attention)", replace(t4, gpu_weights=176e9), ENGINE),
        (
            "link at 9.7 GB/s in, 11.1 out (bandwidthTest)",
            replace(t4, link_in=9.7e9, link_out=11.1e9),
            ENGINE,
        ),
        ("reading and multiplying overlap", replace(t4, overlap=float("inf")), ENGINE),
    ):
        ratios = [case.plan(shape, machine, engine).tokens_per_s / case.published for case in table]
        print(f"{name:46}" + "".join(f"{ratio:<15.2f}" for ratio in ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    arguments = parser.parse_args()
    shape = LayerShape.of(load_model("mixtral-8x7b"))
    if arguments.fit:
        return fit(shape)
    if arguments.sweep:
        return sweep(shape)
    machines = boxes()
    print("part   where    system          box  in/out    mu x n      published    ours  ratio  bound by")
    ratios: dict[tuple[str, str], list[float]] = {}
    for case in RUNS:
        plan = case.plan(shape, machines[case.box])
        ratio = plan.tokens_per_s / case.published
        ratios.setdefault((case.part, case.where), []).append(ratio)
        tight = min(plan.bounds, key=lambda name: plan.bounds[name])
        print(
            f"{case.part:6} {case.where:8} {case.system:15} {case.box}  {case.prompt:4}/{case.output:<4}"
            f" {case.micro_batch:4} x {case.count:<4} {case.published:10.2f} {plan.tokens_per_s:8.2f}"
            f" {ratio:6.2f}  {tight}"
        )
    for (part, where), found in ratios.items():
        off = np.abs(np.array(found) - 1)
        print(f"{part} {where}: {np.sum(off <= 0.15)} of {len(off)} within 15 %, worst {off.max():.0%}")
    return None


if __name__ == "__main__":
    main()
