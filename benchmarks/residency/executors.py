"""How far rules that share experts out between GPU and CPU are from the exhaustive optimum, and their speed.

    python benchmarks/residency/executors.py [--layers 1000] [--seed 0] [--most 8]

Every layer has 2 to 8 experts. ``decode`` gives each one token; ``batch`` draws the tokens of an expert from
1 to 64, logarithmically. A quarter, half or three quarters of the experts are resident, in turn. Costs are
those of one expert on GPU, CPU and link of the boxes named, by moesim's cost model; or the constants in the
source of HybriMoE (``DeepSeek``: GPU 0.5, CPU 1.0 per token and 0.79 for the first, link 0.418); or drawn for
each expert apart (``random``: GPU, CPU per token and link each from 0.1 to 1, logarithmically). ``mean``,
``p95`` and ``max`` are the makespan over that of the optimum; ``ns`` is processor time per layer, of which
handing a layer's arrays over is nearly all that ``gpu`` takes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import moesim as ms
from moesim.compiled import compiled
from moesim.cost import ExpertShape, expert_times
from moesim.hardware.types import Device
from moesim.policy.executors import Executor, assign

KINDS = ("gpu", "mask", "cheapest", "cheapest-max", "three-clock", "three-clock-code", "balanced", "optimum")
BOXES = ("a6000-xeon-10core", "rtx-4090-64core", "rtx-4090-workstation")
MODELS = (("mixtral-8x7b", "int4"), ("qwen2-57b-a14b", "int4"), ("deepseek-v2-lite", "int4"))
#: Milliseconds in ktransformers/operators/experts.py of the released code; CPU per token by model.
SOURCE_GPU, SOURCE_LINK, SOURCE_START = 0.5, 0.41791011235117914, 0.79
SOURCE_CPU = {"DeepSeek": 1.0, "Mixtral": 0.2, "Qwen2": 0.8}


@dataclass(frozen=True)
class Costs:
    """Seconds of one expert: GPU and CPU by tokens, link, and the start of the CPU."""

    name: str
    gpu: Callable[[np.ndarray], np.ndarray]
    cpu: Callable[[np.ndarray], np.ndarray]
    load: Callable[[np.ndarray], np.ndarray]
    start: float = 0.0


def of_box(box: str, model: str, dtype: str) -> Costs:
    """Costs of a machine and a model by the cost model."""
    hardware, loaded = ms.load_hardware(box), ms.load_model(model)
    shape = ExpertShape(loaded.hidden, loaded.moe.intermediate, loaded.moe.matrices, dtype)
    host = hardware.host
    cpu = Device("host", "", (host.processor,), (host.memory,))
    link = hardware.host_link
    load = link.latency_s + shape.weight_bytes / (link.bandwidth_bytes_per_s * link.efficiency)
    return Costs(
        f"{box}, {model}",
        lambda tokens: expert_times(tokens[:, None].astype(float), shape, hardware.device).seconds,
        lambda tokens: expert_times(tokens[:, None].astype(float), shape, cpu).seconds,
        lambda tokens: np.full(len(tokens), load),
    )


def of_source(model: str) -> Costs:
    """The constants of HybriMoE's source."""
    per_token = SOURCE_CPU[model]
    return Costs(
        f"HybriMoE source, {model}",
        lambda tokens: np.full(len(tokens), SOURCE_GPU),
        lambda tokens: per_token * tokens,
        lambda tokens: np.full(len(tokens), SOURCE_LINK),
        SOURCE_START,
    )


def at_random(seed: int) -> Costs:
    """Costs of each expert that have nothing to do with each other."""
    rng = np.random.default_rng(seed)

    def drawn(tokens: np.ndarray) -> np.ndarray:
        return np.exp(rng.uniform(np.log(0.1), 0, len(tokens)))

    return Costs("random", drawn, lambda tokens: drawn(tokens) * tokens, drawn)


@compiled
def ends(kind, bounds, tokens, resident, gpu, cpu, load, near, free, vector, where, order, out):
    """Makespan of every layer under one rule."""
    for layer in range(len(bounds) - 1):
        a, b = bounds[layer], bounds[layer + 1]
        out[layer] = assign(
            kind,
            tokens[a:b],
            resident[a:b],
            gpu[a:b],
            cpu[a:b],
            load[a:b],
            near[a:b],
            free,
            vector,
            where[a:b],
            order[a:b],
        )


def draw(layers: int, most: int, batch: bool, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First access of every layer, tokens and residency of every access."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, most + 1, layers)
    bounds = np.concatenate(([0], np.cumsum(sizes)))
    total = int(bounds[-1])
    tokens = np.ones(total, np.int32)
    if batch:
        tokens = np.floor(np.exp(rng.uniform(0, np.log(65), total))).astype(np.int32)
    share = np.repeat(np.array([0.25, 0.5, 0.75])[np.arange(layers) % 3], sizes)
    return bounds, tokens, rng.random(total) < share


def measured(costs: Costs, batch: bool, arguments: argparse.Namespace) -> dict[str, tuple[float, ...]]:
    """Mean, 95th percentile and maximum of the ratio to the optimum, and nanoseconds, by rule."""
    bounds, tokens, resident = draw(arguments.layers, arguments.most, batch, arguments.seed)
    gpu, cpu = costs.gpu(tokens).astype(float), costs.cpu(tokens).astype(float)
    load, near = costs.load(tokens), np.full(len(tokens), np.inf)
    where, order = np.zeros(len(tokens), np.int8), np.zeros(len(tokens), np.int64)
    found: dict[str, np.ndarray] = {}
    nanoseconds = {}
    for kind in KINDS:
        executor = Executor(kind)
        # top_k of 0: one token, unless some expert has several
        vector = executor.vector(top_k=0, cpu_start_s=costs.start)
        best = np.inf
        for _ in range(1 if kind == "optimum" else 3):
            out = np.zeros(arguments.layers)
            started = time.process_time()
            ends(
                executor.code,
                bounds,
                tokens,
                resident,
                gpu,
                cpu,
                load,
                near,
                np.zeros(4),
                vector,
                where,
                order,
                out,
            )
            best = min(best, time.process_time() - started)
        found[kind], nanoseconds[kind] = out, best / arguments.layers * 1e9
    ratios = {kind: found[kind] / found["optimum"] for kind in KINDS}
    return {kind: (r.mean(), np.percentile(r, 95), r.max(), nanoseconds[kind]) for kind, r in ratios.items()}


def main() -> None:
    """Print one block per cost table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=1000)
    parser.add_argument("--most", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tables = [of_box(box, *model) for box in BOXES for model in MODELS]
    tables += [of_source(model) for model in SOURCE_CPU] + [at_random(arguments.seed)]
    total: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for costs in tables:
        one = np.ones(1, np.int32)
        gpu, cpu, load = costs.gpu(one)[0], costs.cpu(one)[0], costs.load(one)[0]
        print(f"\n{costs.name}: one token GPU {gpu:.3g}, CPU {cpu:.3g}, load {load:.3g}")
        print(f"{'':18}{'decode':>8}{'':28}{'batch':>8}")
        print(f"{'':18}" + f"{'mean':>8}{'p95':>8}{'max':>8}{'ns':>8}    " * 2)
        decode, batch = (measured(costs, kind, arguments) for kind in (False, True))
        for kind in KINDS:
            total[kind] += [decode[kind][0], batch[kind][0]]
            cells = "    ".join(
                f"{a:8.3f}{b:8.3f}{c:8.3f}{d:8.0f}" for a, b, c, d in (decode[kind], batch[kind])
            )
            print(f"{kind:18}{cells}")
    print("\nmean over all tables")
    for kind in KINDS:
        print(f"{kind:18}{np.mean(total[kind]):8.3f}   largest mean {max(total[kind]):.3f}")


if __name__ == "__main__":
    main()
