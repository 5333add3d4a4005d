"""MoE-Lightning (arXiv:2411.11217), and FlexGen and DeepSpeed as it measured them, on T4 and L4.

Policies are those of the published runs: Tables 4 and 5, and scripts of the artifact (caoshiyi/artifacts).
``train`` runs, of Table 4, gave the two numbers of `moesim.throughput.engine`; they are no rows here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row
from moesim.throughput import ENGINE, Engine, LayerShape, Machine, Plan, Workload
from moesim.throughput import flexgen as flexgen_model
from moesim.throughput import lightning as lightning_model
from moesim.throughput.lightning_search import best as best_lightning

SOURCE = "arXiv:2411.11217"
NAMES = {"moe-lightning": "MoE-Lightning", "flexgen": "FlexGen", "flexgen-c": "FlexGen"}
SLOTS = {
    "moe-lightning": "Batcher(N, mu) + Placement(r_w, r_c) + Timeline(CGOPipe)",
    "flexgen": "Batcher(block) + Placement(LP) + Timeline(zig-zag)",
    "flexgen-c": "Batcher(block) + Placement(LP) + Timeline(zig-zag) + Executor(CPU attention)",
}


@dataclass(frozen=True, slots=True)
class Run:
    """A published run of Mixtral-8x7B.

    Parameters
    ----------
    part
        ``train`` or ``test``.
    where
        Table or figure.
    system, box
        What ran where.
    prompt, output
        Tokens; prompts are padded: 256 synthetic reasoning, 1984 summarization, 418 MTBench.
    micro_batch, count
        Sequences of a micro-batch, and micro-batches of a batch.
    published
        Generated tokens per second, prefill counted.
    weights
        Share of the weights on the GPU (FlexGen).
    """

    part: str
    where: str
    system: str
    box: str
    prompt: int
    output: int
    micro_batch: int
    count: int
    published: float
    weights: float = 0.0

    def plan(self, shape: LayerShape, machine: Machine, engine: Engine = ENGINE) -> Plan:
        """Our times of the run, with the policy that was published."""
        work = Workload(self.prompt, self.output)
        if self.system == "moe-lightning":
            policy = lightning_model.Policies.one(self.micro_batch * self.count, self.micro_batch)
            return lightning_model.plan(shape, machine, work, policy, engine)
        if self.system == "deepspeed-zero":
            return flexgen_model.zero(shape, machine, work, self.micro_batch, engine)
        on_cpu = self.system == "flexgen-c"
        block = flexgen_model.Block(self.micro_batch, self.count, self.weights, cpu_attention=on_cpu)
        return flexgen_model.plan(shape, machine, work, block, engine)


RUNS = (
    Run("train", "Table 4", "moe-lightning", "t4", 256, 50, 36, 26, 26.349),
    Run("train", "Table 4", "moe-lightning", "t4", 1984, 64, 4, 19, 4.52),
    Run("train", "Table 4", "moe-lightning", "l4", 256, 50, 100, 15, 105.29),
    Run("train", "Table 4", "moe-lightning", "l4", 1984, 64, 8, 36, 12.393),
    Run("train", "Table 4", "flexgen", "t4", 1984, 64, 3, 92, 3.868, 0.07),
    Run("train", "Table 4", "flexgen", "l4", 256, 50, 64, 33, 50.138, 0.14),
    Run("train", "Table 4", "flexgen", "l4", 1984, 64, 8, 36, 7.14, 0.12),
    Run("train", "Table 4", "flexgen-c", "t4", 256, 50, 32, 61, 16.903, 0.07),
    Run("train", "Table 4", "flexgen-c", "t4", 1984, 64, 3, 92, 2.614, 0.07),
    Run("train", "Table 4", "flexgen-c", "l4", 1984, 64, 8, 36, 4.307, 0.12),
    Run("test", "Table 5", "flexgen", "t4", 418, 128, 8, 139, 9.5, 0.08),
    Run("test", "Table 5", "flexgen", "t4", 418, 128, 36, 14, 16.816, 0.08),
    Run("test", "Table 5", "flexgen", "t4", 418, 128, 36, 31, 20.654, 0.08),
    Run("test", "Table 5", "moe-lightning", "t4", 418, 128, 36, 14, 30.12),
    Run("test", "Figure 7", "moe-lightning", "t4", 418, 32, 36, 14, 15.609),
    Run("test", "Figure 7", "moe-lightning", "t4", 418, 64, 36, 14, 23.997),
    Run("test", "Figure 7", "moe-lightning", "t4", 418, 256, 36, 14, 33.938),
    Run("test", "Figure 7", "moe-lightning", "l4", 418, 32, 68, 16, 53.714),
    Run("test", "Figure 7", "moe-lightning", "l4", 418, 64, 68, 15, 67.369),
    Run("test", "Figure 7", "moe-lightning", "l4", 418, 128, 68, 13, 78.972),
    Run("test", "Figure 7", "moe-lightning", "l4", 418, 256, 68, 11, 78.6),
    Run("test", "Figure 7", "flexgen", "t4", 418, 32, 32, 40, 12.1, 0.07),
    Run("test", "Figure 7", "flexgen", "t4", 418, 64, 16, 78, 12.3, 0.08),
    Run("test", "Figure 7", "flexgen", "t4", 418, 256, 8, 113, 9.6, 0.08),
    Run("test", "Figure 7", "flexgen", "l4", 418, 32, 64, 21, 29.2, 0.12),
    Run("test", "Figure 7", "flexgen", "l4", 418, 64, 64, 20, 34.9, 0.12),
    Run("test", "Figure 7", "flexgen", "l4", 418, 128, 64, 18, 37.2, 0.12),
    Run("test", "Figure 7", "flexgen", "l4", 418, 256, 32, 30, 28.8, 0.14),
    Run("test", "Figure 7", "flexgen-c", "t4", 418, 32, 32, 40, 9.8, 0.07),
    Run("test", "Figure 7", "flexgen-c", "t4", 418, 64, 16, 78, 9.4, 0.08),
    Run("test", "Figure 7", "flexgen-c", "t4", 418, 256, 8, 113, 6.8, 0.08),
    Run("test", "Figure 7", "flexgen-c", "l4", 418, 32, 64, 21, 17.5, 0.12),
    Run("test", "Figure 7", "flexgen-c", "l4", 418, 64, 64, 20, 18.9, 0.12),
    Run("test", "Figure 7", "flexgen-c", "l4", 418, 128, 64, 18, 20.0, 0.12),
    Run("test", "Figure 7", "flexgen-c", "l4", 418, 256, 32, 30, 15.9, 0.14),
    Run("test", "Table 4", "deepspeed-zero", "t4", 256, 50, 102, 1, 11.832),
    Run("test", "Table 4", "deepspeed-zero", "t4", 1984, 64, 8, 1, 0.965),
    Run("test", "Table 4", "deepspeed-zero", "l4", 256, 50, 156, 1, 18.589),
    Run("test", "Table 4", "deepspeed-zero", "l4", 1984, 64, 12, 1, 1.447),
)

PREFILL = Assumption(
    "prefill",
    ENGINE.prefill,
    0.26,
    0.32,
    "share of sustained matrix products that prefill reaches: fitted to Table 4, two standard errors",
)
READ = Assumption(
    "read",
    220.0,
    176.0,
    240.0,
    "GB/s that T4 reads weights at: measured by readers of arXiv:1903.07486, others",
)
ATTEND = Assumption(
    "attend",
    ENGINE.cpu_attention,
    0.036,
    0.054,
    "share of CPU attention that FlexGen reaches: fitted to Table 4, two standard errors",
)
LINK = Assumption(
    "link",
    1.0,
    0.5,
    1.0,
    "part of a link of 16 lanes that each of several T4 has: not stated; two often share",
)


@cache
def machine(box: str) -> Machine:
    """Rates of a box."""
    return Machine.of(load_hardware(box))


@cache
def mixtral() -> LayerShape:
    """The model of all runs."""
    return LayerShape.of(load_model("mixtral-8x7b"))


def tokens_per_s(run: Run, case: Case) -> float:
    """Ours, with the assumptions of a case."""
    box = machine(run.box)
    if "read" in case.values:
        box = replace(box, gpu_weights=1e9 * case["read"])
    engine = replace(ENGINE, prefill=case["prefill"])
    if "attend" in case.values:
        engine = replace(engine, cpu_attention=case["attend"])
    return run.plan(mixtral(), box, engine).tokens_per_s


def _row(run: Run) -> Row:
    first = run == RUNS[13] or run == RUNS[10]
    assumed = [PREFILL]
    if run.box == "t4":
        assumed.append(READ)
    if run.system == "flexgen-c":
        assumed.append(ATTEND)
    name = NAMES[run.system]
    figure = Figure("generation throughput", "tok/s", run.published, source=SOURCE, locator=run.where)
    return Row(
        name,
        f"{run.system}-{run.box}-{run.output}-{run.micro_batch}x{run.count}",
        headline(name) if first else figure,
        lambda case, run=run: tokens_per_s(run, case),  # type: ignore[misc]
        "storage" if run.system == "deepspeed-zero" else "cpu-gpu",
        SLOTS[run.system],
        hardware=f"{run.box}-24core",
        workload=f"Mixtral-8x7B, MTBench padded to {run.prompt}, {run.output} generated,"
        f" {run.count} micro-batches of {run.micro_batch}",
        assumed=tuple(assumed),
        headline=first,
    )


def _several(box: str, output: int, published: float) -> Row:
    """Several T4, whose policy was not published: the one that the search finds."""

    def compute(case: Case) -> float:
        engine = replace(ENGINE, prefill=case["prefill"])
        box_ = machine(box)
        shared = replace(box_, link_in=case["link"] * box_.link_in, link_out=case["link"] * box_.link_out)
        shape = LayerShape.of(load_model("mixtral-8x22b"))
        return best_lightning(shape, shared, Workload(417, output), engine).tokens_per_s

    return Row(
        "MoE-Lightning",
        f"{box}-{output}",
        Figure("generation throughput", "tok/s", published, source=SOURCE, locator="Figure 7 (S6, S7)"),
        compute,
        "cpu-gpu",
        SLOTS["moe-lightning"],
        hardware=f"{box}-32core",
        workload=f"Mixtral-8x22B, MTBench padded to 417, {output} generated, policy found by search",
        assumed=(PREFILL, LINK),
        cause="missing specification",
        reason="policy and links are not stated: on two T4, times per step look as if they shared one link;"
        " exchange between the GPUs is left out",
    )


def _rows() -> Iterator[Row]:
    yield from (_row(run) for run in RUNS if run.part == "test" and run.system in NAMES)
    for box, published in (
        ("t4-2", (5.383, 7.334, 7.751, 9.128)),
        ("t4-4", (14.883, 22.348, 26.228, 25.813)),
    ):
        for output, value in zip((32, 64, 128, 256), published, strict=True):
            yield _several(box, output, value)


ROWS = tuple(_rows())
