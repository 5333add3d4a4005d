"""How the public runs were started, where rows do not say: settings that change times, of published scripts.

Most rows are of SemiAnalysisAI/InferenceX, whose launch scripts are public (folder ``benchmarks``, files
``<model>_<precision>_<system>[_trt].sh``; those of October 2025 to April 2026). Where a script leaves a
setting open, MiniMax's cache on B200, the one is taken that lets the recorded load run.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.model import Latent, load_model
from moesim.validate.rows import ServingRow

_HOPPER = ("h100", "h200", "h20-", "h800")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of one row.

    Parameters
    ----------
    kv_cache_dtype
        As `moesim.prediction.Engine` takes it.
    wait_steps
        Decode steps that a new request waits on average before the engine takes it in.
    """

    kv_cache_dtype: str
    wait_steps: float


def recipe_of(row: ServingRow) -> Recipe:
    """Settings of a row, by its model, engine, system and load."""
    return Recipe(_cache(row), _wait_steps(row))


def _cache(row: ServingRow) -> str:
    """Data type of the cache: fp8 of quantised models, as scripts and NVFP4 checkpoints ask for.

    Scripts leave it to the engine, which takes 16 bits, for gpt-oss on Hopper, for latent caches in SGLang on
    Hopper (whose kernel for 8 bits is ten times slower there), and for Kimi-K2.5 in 4-bit integers; runs of
    Qwen3 are of another campaign, without a script, and count as the engine's default in vLLM and SGLang.
    """
    hopper = row.hardware.startswith(_HOPPER)
    default = (
        row.dtype == "bf16"
        or (hopper and row.model.startswith("gpt-oss"))
        or (hopper and row.backend == "sglang" and _latent(row.model))
        or (row.dtype == "auto" and row.model.startswith("kimi"))
        or (row.backend != "trtllm" and row.model.startswith("qwen3-"))
    )
    return "auto" if default else "fp8"


def _latent(model: str) -> bool:
    return any(isinstance(layer.attention, Latent) for layer in load_model(model).layers)


def _wait_steps(row: ServingRow) -> float:
    """Steps until a request is looked at.

    SGLang's ``--scheduler-recv-interval`` looks for requests every so many decode steps: in the scripts for
    Blackwell, 30 from a concurrency of 16 on, else 10. TensorRT-LLM's ``batch_wait_timeout_iters`` holds
    prompts back until they fill a batch: 20 steps for Llama-3.1-70B at 1k/1k on fewer than 8 devices, 40 for
    DeepSeek-R1 in fp8 at 1k/1k from a concurrency of 64 on.
    """
    if row.mode != "agg" or row.layout is None:
        return 0.0
    blackwell = not row.hardware.startswith(_HOPPER)
    if row.backend == "sglang" and blackwell:
        return (30.0 if row.concurrency >= 16 else 10.0) / 2.0
    if row.backend == "trtllm" and row.isl == row.osl == 1024:
        if row.model == "llama-3.1-70b" and row.layout.world < 8:
            return 20.0
        if row.model == "deepseek-r1" and row.dtype == "fp8" and blackwell and 64 <= row.concurrency < 256:
            return 40.0
    return 0.0
