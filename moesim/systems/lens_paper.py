"""The settings of MoE-Lens's evaluation, and its accuracy claim by its own equations.

Section 8 compares a performance model with measured throughput, 94 % accurate in the mean. The measured
values are bars without numbers, so what can be checked is whether closed forms say what the system does: here
the second stage against a schedule that runs every iteration. That is not the authors' measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.throughput.lens import LensBox, first_stage, second_stage
from moesim.throughput.lens_schedule import Run, simulate
from moesim.throughput.result import Workload

HARDWARE = "a40-xeon-8380"
MODELS = ("mixtral-8x7b", "mixtral-8x22b", "dbrx")
#: Prompt and output: MTBench with four output lengths, RAG, AIME.
LENGTHS = ((98, 32), (98, 64), (98, 128), (98, 256), (926, 128), (128, 512))
CACHES = (70e9, 210e9)
#: The paper has 20 to 25 thousand.
REQUESTS = 25_000
LINK_BYTES_PER_S = 19.5e9
MEMORY_BYTES_PER_S = 150e9
#: Tokens that saturate the A40 with Mixtral-8x7B, as the authors' profiler finds: so much does it multiply
#: while the weights stream.
N_REAL = 18_500
#: At 210 GB of cache an iteration's weights take 6 s instead of 5: 35 of 150 GB/s cost the link a sixth.
FRICTION = (1.0 - 5.0 / 6.0) / (210e9 / 6.0 / MEMORY_BYTES_PER_S)


def paper_box(model: str, *, friction: float = FRICTION, n_real: float = N_REAL) -> LensBox:
    """A model on the authors' machine.

    Examples
    --------
    >>> box = paper_box("mixtral-8x7b")
    >>> round(box.delta_s, 2), round(box.flops_per_s / 1e12), round(box.full)
    (4.79, 97, 18500)
    """
    hardware = load_hardware(HARDWARE)
    reference = LensBox.of(load_model("mixtral-8x7b"), hardware)
    flops = n_real * reference.token_flops / (reference.weight_bytes / LINK_BYTES_PER_S)
    return LensBox.of(load_model(model), hardware).but(
        link_bytes_per_s=LINK_BYTES_PER_S,
        memory_bytes_per_s=MEMORY_BYTES_PER_S,
        flops_per_s=flops,
        friction=friction,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """One setting: the two stages and the schedule, tokens per second with prompts."""

    model: str
    prompt_len: int
    output_len: int
    cache_bytes: float
    first: float
    second: float
    run: Run

    @property
    def error(self) -> float:
        """Of the second stage, signed."""
        return self.second / self.run.tokens_per_s - 1.0

    @property
    def first_error(self) -> float:
        """Of the first stage, which is a bound."""
        return self.first / self.run.tokens_per_s - 1.0


def setting(
    model: str,
    prompt_len: int,
    output_len: int,
    cache_bytes: float,
    *,
    requests: int = REQUESTS,
    friction: float = FRICTION,
    n_real: float = N_REAL,
) -> Setting:
    """Both stages and the schedule of one setting."""
    box, workload = (
        paper_box(model, friction=friction, n_real=n_real),
        Workload(prompt_len, output_len, requests),
    )
    return Setting(
        model,
        prompt_len,
        output_len,
        cache_bytes,
        first_stage(box, workload, cache_bytes),
        second_stage(box, workload, cache_bytes).tokens_per_s,
        simulate(box, workload, cache_bytes),
    )


def settings(
    *, requests: int = REQUESTS, friction: float = FRICTION, n_real: float = N_REAL
) -> list[Setting]:
    """All 36 settings of the evaluation."""
    return [
        setting(model, p, g, cache, requests=requests, friction=friction, n_real=n_real)
        for model in MODELS
        for p, g in LENGTHS
        for cache in CACHES
    ]


def accuracy(found: list[Setting]) -> tuple[float, float]:
    """One less the mean absolute error: of the second stage, and of the first."""
    second = sum(abs(s.error) for s in found) / len(found)
    first = sum(abs(s.first_error) for s in found) / len(found)
    return 1.0 - second, 1.0 - first
