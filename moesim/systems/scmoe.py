"""ScMoE's models on its machines: seconds of their blocks by roofline, all-to-all from the stated share."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from moesim.cost import op_times
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.model.types import Dense, GroupedQuery, Layer
from moesim.ops import Batch, Precision, step_work
from moesim.ops.primitives import elementwise, gemm
from moesim.ops.table import Op, OpTable
from moesim.overlap import PairSeconds, exchange_of_share

#: How often the forward computation a training iteration is, and how often its exchanges.
BACKWARD = 2.0
#: Ops of a block's MLP; the second norm is one of two alike.
_MLP = ("gate_up_proj", "down_proj", "activation")


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one width.

    Parameters
    ----------
    hidden, heads, kv_heads, blocks
        Width, heads, heads of keys, and number of blocks.
    sequences, length
        On one device.
    moe
        Blocks with experts.
    """

    hidden: int
    heads: int
    blocks: int
    sequences: float
    length: int
    moe: int
    kv_heads: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """A model on a machine.

    Parameters
    ----------
    hardware
        Name of the machine.
    stages
        Of the model.
    share
        Part of a top-2 MoE's seconds that is communication, as published.
    capacity
        Rows of the experts over those used. Swin's factor of 1.25 is Tutel's, over an even share; the
        language models' 2.0 is taken as fairseq's ``C = 2 S / E`` for two experts per token: nothing spare.
    experts
        Per layer.
    matrices
        Of an expert and of an MLP.
    vocab
        Of the head; 0 for none.
    """

    hardware: str
    stages: tuple[Stage, ...]
    share: float
    capacity: float
    experts: int
    matrices: int = 2
    vocab: int = 0


def swin(images: float, hidden: int = 96, heads: int = 3) -> tuple[Stage, ...]:
    """SwinV2 on 192 x 192 pixels (small: 96 and 3; base: 128 and 4), experts in every other late block.

    Windows have 144 tokens, of which there are a quarter as many from stage to stage; in the last one the
    image is smaller than a window.
    """
    parts = ((1, 2, 16, 144, 0), (2, 2, 4, 144, 0), (4, 18, 1, 144, 9), (8, 2, 1, 36, 1))
    return tuple(
        Stage(times * hidden, times * heads, blocks, images * windows, length, moe)
        for times, blocks, windows, length, moe in parts
    )


SETTINGS = {
    "swinv2": Setting("a30-pcie-8", swin(1024 / 8), 0.60, 1.25, 8),
    "gpt2-medium": Setting("a800-sxm-8", (Stage(1024, 16, 24, 8, 2048, 12),), 0.15, 1.0, 16, vocab=50257),
    "gpt3-xl": Setting("a800-sxm-8", (Stage(2048, 32, 24, 8, 2048, 12),), 0.15, 1.0, 8, vocab=50257),
    "llama2": Setting(
        "a800-sxm-8", (Stage(2048, 16, 24, 8, 2048, 24, kv_heads=4),), 0.15, 1.0, 8, matrices=3, vocab=32000
    ),
}


@functools.lru_cache(maxsize=64)
def block_seconds(stage: Stage, setting: Setting, precision: str) -> tuple[float, float, float]:
    """Seconds of attention and MLP of one block, and of the head."""
    width = stage.hidden // stage.heads
    attention = GroupedQuery(stage.heads, stage.kv_heads or stage.heads, width, width)
    model = replace(
        load_model("mixtral-8x7b"),
        name=f"scmoe-{stage.hidden}",
        hidden=stage.hidden,
        vocab=max(setting.vocab, 2),
        layers=(Layer(attention, Dense(4 * stage.hidden, setting.matrices)),),
        max_context=stage.length,
    )
    batch = Batch.prefill(stage.sequences, stage.length)
    work = step_work(model, Parallelism(), batch, Precision.of(model, precision), fused=True).table
    times = op_times(work, load_hardware(setting.hardware).device).seconds.max(axis=-1)
    found: dict[str, float] = {}
    for (op, _), seconds in zip(work.ops, times, strict=True):
        found.setdefault(op.name, float(seconds))
    beside = found["norm"] + found["add"]
    mlp = beside + sum(found[name] for name in _MLP)
    own = beside + sum(found[name] for name in ("qkv_proj", "attention", "o_proj"))
    # A pass of training or inference reads all positions' logits.
    tokens = stage.sequences * stage.length
    head = _seconds([gemm("lm_head", tokens, stage.hidden, max(setting.vocab, 1), precision)], setting)
    return own, mlp, head if setting.vocab else 0.0


def _seconds(ops: list[Op], setting: Setting) -> float:
    table = OpTable(tuple((op, 1) for op in ops), (), 1)
    return float(op_times(table, load_hardware(setting.hardware).device).seconds.sum())


def _expert(stage: Stage, setting: Setting, precision: str) -> float:
    """One routed expert per token with its spare rows: Tutel runs dense products, not grouped kernels."""
    rows = setting.capacity * stage.sequences * stage.length
    width = 4 * stage.hidden
    local = max(1, setting.experts // 8)
    each = [
        gemm("up", rows / local, stage.hidden, (setting.matrices - 1) * width, precision),
        elementwise("activation", rows / local * width, flops_each=8.0, tensors=float(setting.matrices)),
        gemm("down", rows / local, width, stage.hidden, precision),
    ]
    return local * _seconds(each, setting)


@functools.lru_cache(maxsize=64)
def pairs(
    name: str, precision: str = "fp16", capacity: float | None = None
) -> tuple[tuple[Stage, PairSeconds], ...]:
    """Seconds of the parts of a pair of blocks, per stage of a model; `capacity` other than the setting's."""
    setting = SETTINGS[name]
    setting = setting if capacity is None else replace(setting, capacity=capacity)
    return tuple((stage, _pair(stage, setting, precision)) for stage in setting.stages)


def _pair(stage: Stage, setting: Setting, precision: str) -> PairSeconds:
    own, mlp, _ = block_seconds(stage, setting, precision)
    tokens = stage.sequences * stage.length
    # Tokens go into rows of experts and come back; rows that stay empty are written too.
    touched = 1.0 + setting.capacity
    moved = [
        elementwise(name, tokens * stage.hidden, flops_each=0.0, tensors=touched)
        for name in ("encode", "decode")
    ]
    around = _seconds([gemm("gate", tokens, stage.hidden, setting.experts), *moved], setting)
    expert = _expert(stage, setting, precision)
    sent = exchange_of_share(setting.share, expert, around)
    return PairSeconds(own, mlp, expert, around, sent, dense=stage.moe < stage.blocks)


def recovered(name: str, migration: float, tokens: int) -> float:
    """Part of an expert's migration to one A30 that a shortcut of position 2 hides.

    The experts that a token needs are known one block early: what is computed meanwhile hides their copy.

    Parameters
    ----------
    name
        Of `SETTINGS`, one routed expert beside a shared one.
    migration
        Seconds of the copy over those of a pair of blocks whose experts are all there.
    tokens
        Of the only sequence.

    Examples
    --------
    >>> recovered("gpt2-medium", 0.1, 128)
    1.0
    """
    setting = replace(SETTINGS[name], hardware="a30-pcie-8", experts=8)
    pair = _pair(replace(setting.stages[0], sequences=1.0, length=tokens), setting, "fp16")
    resident = replace(pair, exchange=0.0).seconds("shared")
    # One copy, before the expert: nothing travels back.
    return min(1.0, (pair.attention + 2.0 * pair.mlp) / (migration * resident))


def iteration_seconds(
    name: str, variant: str, training: bool, precision: str = "fp16", capacity: float | None = None
) -> float:
    """Seconds of a pass over the model, or of a forward and a backward pass.

    A stage whose blocks all have experts has no block before that it could skip but its own. ScMoE is used
    where there is more than one MoE block to a stage; elsewhere its shared expert is, as in the paper's
    stage 4.
    """
    setting, total = SETTINGS[name], 0.0
    for stage, pair in pairs(name, precision, capacity):
        own, mlp, head = block_seconds(stage, setting, precision)
        used = "shared" if variant.startswith("pos") and stage.moe == 1 else variant
        for compute in (1.0, BACKWARD) if training else (1.0,):
            part = pair.scaled(compute)
            rest = stage.blocks - (2 if pair.dense else 1) * stage.moe
            total += compute * (rest * (own + mlp) + head)
            # Of blocks that all have experts, `seconds` counts the attention of two: the second has them too.
            each = part.seconds(used) if pair.dense else part.seconds(used) - part.attention
            total += stage.moe * each
    return total


def speedup(
    name: str, variant: str, training: bool, precision: str = "fp16", capacity: float | None = None
) -> float:
    """Gain over the standard top-2 model."""
    baseline = iteration_seconds(name, "top-2", training, precision, capacity)
    return baseline / iteration_seconds(name, variant, training, precision, capacity)
