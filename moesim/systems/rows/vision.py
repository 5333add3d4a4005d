"""Vision models: Mono-InternVL-1.5, ShiftAddViT, Edge-MoE."""

from __future__ import annotations

import functools

from moesim.cost import op_times
from moesim.engine.eager import LAUNCH_RANGE_S, LAUNCH_S
from moesim.hardware import load_hardware
from moesim.ops.primitives import add, elementwise, gemm, norm, scores, softmax
from moesim.ops.table import Op, OpTable
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Figure, Row

GPU = "a100-sxm-80gb-8"
MONO = "arXiv:2507.12566"
#: InternViT-300M: layers, width, intermediate width, heads, tokens of a tile of 448 x 448 (config.json of
#: OpenGVLab/InternViT-300M-448px); 256 of them reach the language model.
VISION = (24, 1024, 4096, 16, 1025)
#: InternLM2-1.8B: layers, width, intermediate width, heads, heads of keys (config.json of
#: internlm/internlm2-1_8b).
LANGUAGE = (24, 2048, 8192, 16, 8)
TILE_TOKENS = 256


def _attention(tokens: float, heads: int, dim: int, kv_heads: int, tiles: float = 1.0) -> list[Op]:
    """Stored scores, as in eager code; tiles do not see each other."""
    every = heads * tiles
    return [
        scores("qk", every, tokens, tokens, dim, kv_heads * tiles, "attention_prefill"),
        softmax("softmax", every * tokens * tokens),
        scores("sv", every, tokens, tokens, dim, kv_heads * tiles, "attention_prefill"),
    ]


def vision_layer(tiles: float) -> list[Op]:
    """A layer of the vision encoder."""
    _, width, inner, heads, tokens = VISION
    rows = tiles * tokens
    return [
        norm("norm1", rows, width),
        gemm("qkv", rows, width, 3 * width),
        *_attention(tokens, heads, width // heads, heads, tiles),
        gemm("out", rows, width, width),
        add("add1", rows, width),
        norm("norm2", rows, width),
        gemm("fc1", rows, width, inner),
        elementwise("gelu", rows * inner, flops_each=8.0, tensors=2.0),
        gemm("fc2", rows, inner, width),
        add("add2", rows, width),
    ]


def language_layer(tokens: float, text: float, experts: bool, fused: bool) -> list[Op]:
    """A layer of the language model on image and text tokens.

    Parameters
    ----------
    tokens, text
        All of them, and those of text.
    experts
        Whether image tokens have feed-forward weights of their own.
    fused
        Whether both kinds of tokens go through one kernel per matrix; else they are gathered, multiplied by
        one expert after the other and scattered.
    """
    _, width, inner, heads, kv_heads = LANGUAGE
    dim = width // heads
    parts = [tokens] if not experts else [text, tokens - text]
    blocks: list[Op] = []
    for i, rows in enumerate(parts):
        launches = 1 if i == 0 or not fused else 0
        if experts and not fused:
            blocks += [elementwise(f"gather{i}", rows * width, flops_each=0.0, tensors=2.0)]
        blocks += [
            gemm(f"gate_up{i}", rows, width, 2 * inner),
            elementwise(f"act{i}", rows * inner, flops_each=5.0, tensors=3.0, launches=launches),
            gemm(f"down{i}", rows, inner, width),
        ]
        if experts and not fused:
            blocks += [elementwise(f"scatter{i}", rows * width, flops_each=0.0, tensors=2.0)]
    return [
        norm("norm1", tokens, width),
        gemm("qkv", tokens, width, width + 2 * kv_heads * dim),
        elementwise("rope", tokens * (width + kv_heads * dim), flops_each=6.0, tensors=2.0),
        *_attention(tokens, heads, dim, kv_heads),
        gemm("out", tokens, width, width),
        add("add1", tokens, width),
        norm("norm2", tokens, width),
        *blocks,
        add("add2", tokens, width),
    ]


@functools.lru_cache(maxsize=256)
def first_token_s(tiles: float, text: float, launch_s: float, modular: bool, fused: bool) -> float:
    """Seconds to the first token of a model with a vision encoder, or of one with visual experts.

    Nothing is captured in a graph: the host starts kernel after kernel and devices may wait for it.
    """
    device = load_hardware(GPU).device
    tokens = tiles * TILE_TOKENS + text
    parts = [(VISION[0], vision_layer(tiles))] if modular else []
    parts.append((LANGUAGE[0], language_layer(tokens, text, not modular, fused)))
    seconds = 0.0
    for layers, ops in parts:
        table = OpTable(tuple((op, layers) for op in ops), (), 1)
        busy = float((op_times(table, device).seconds * table.counts).sum())
        seconds += max(busy, launch_s * layers * sum(op.launches for op in ops))
    return seconds


def mono_saved(case: Case) -> float:
    """Part of the time to the first token that goes with the vision encoder, at the best number of tiles."""
    text, launch_s = case["text"], case["launch_us"] * 1e-6
    return max(
        1.0
        - first_token_s(tiles, text, launch_s, False, True) / first_token_s(tiles, text, launch_s, True, True)
        for tiles in (1, 2, 4, 7, 13)
    )


def fusion_saved(case: Case) -> float:
    """Part of the time to the first token that one kernel for both experts saves, one tile."""
    text, launch_s = case["text"], case["launch_us"] * 1e-6
    fused, apart = (first_token_s(1, text, launch_s, False, one) for one in (True, False))
    return 1.0 - fused / apart


def balanced_shares(seconds_per_token: tuple[float, ...]) -> tuple[float, ...]:
    """Shares of the tokens with which experts that run side by side end together: inverse to their latency.

    >>> balanced_shares((1.0, 3.0))
    (0.75, 0.25)
    """
    speeds = [1.0 / seconds for seconds in seconds_per_token]
    return tuple(speed / sum(speeds) for speed in speeds)


def balance_gain(case: Case) -> float:
    """Makespan with equal shares over that with balanced ones, of a multiplying and a shifting expert."""
    seconds = (1.0, 1.0 / case["shift_speed"])
    balanced = max(s * t for s, t in zip(balanced_shares(seconds), seconds, strict=True))
    return max(seconds) / 2 / balanced


TEXT = Assumption("text", 32, 8, 128, "tokens of the question; not printed in the text that is held")
LAUNCH = Assumption(
    "launch_us", LAUNCH_S * 1e6, LAUNCH_RANGE_S[0] * 1e6, LAUNCH_RANGE_S[1] * 1e6, "see moesim.engine.eager"
)

ROWS = (
    Row(
        "Mono-InternVL-1.5",
        "first-token",
        headline("Mono-InternVL-1.5"),
        mono_saved,
        "serving",
        "Gate(by modality) + one kernel for both experts",
        hardware=GPU,
        workload="InternLM2-1.8B with visual experts, or behind InternViT-300M; eager, best of 1 to 13",
        assumed=(TEXT, LAUNCH),
        headline=True,
        cause="missing specification",
        reason="GPU, framework of the encoder and image sizes are not printed in the text that is held; by "
        "kernels and FLOPs the encoder is about half of the time",
        claims=("Mono-InternVL-1.5/1",),
    ),
    Row(
        "Mono-InternVL-1.5",
        "fusion",
        Figure(
            "part of the first token's time that the fused kernel saves",
            "fraction",
            None,
            baseline="one expert after the other",
            source=MONO,
            locator="abstract: a fused CUDA kernel speeds up the MoE operations; qualitative",
            towards=1,
        ),
        fusion_saved,
        "serving",
        "one kernel for both experts",
        hardware=GPU,
        workload="one tile",
        assumed=(TEXT, LAUNCH),
        cause="missing specification",
        reason="a direction: 61 to 77 tok/s is reported for decoding with all changes together",
    ),
    Row(
        "ShiftAddViT",
        "latency",
        headline("ShiftAddViT"),
        None,
        "serving",
        "Gate(latency-aware)",
        headline=True,
        cause="missing specification",
        reason="the latency table is not in the text that is held: neither which model and resolution nor "
        "the kernels' own times",
        claims=("ShiftAddViT/1",),
    ),
    Row(
        "ShiftAddViT",
        "balance",
        Figure(
            "makespan with equal shares over that with shares by latency",
            "x",
            None,
            baseline="as many tokens for either expert",
            source="arXiv:2306.06446",
            locator="abstract: the faster an expert, the more tokens; qualitative",
            towards=1,
        ),
        balance_gain,
        "serving",
        "Gate(latency-aware)",
        workload="a multiplying and a shifting expert side by side",
        assumed=(
            Assumption("shift_speed", 2.0, 1.2, 4.0, "of the shifting expert over the multiplying one"),
        ),
        cause="missing specification",
        reason="a direction: the kernels' speeds are not in the text that is held",
    ),
    Row(
        "Edge-MoE",
        "energy-efficiency",
        headline("Edge-MoE"),
        None,
        "other devices",
        "FPGA: reordered attention, shared compute unit",
        hardware="ZCU102 at 300 MHz; A6000; Xeon 6226R",
        headline=True,
        cause="missing specification",
        reason="power and latency of the three machines (Table V) are not in the text that is held, and "
        "energy efficiency is nothing but their product",
        claims=("Edge-MoE/1",),
    ),
)
