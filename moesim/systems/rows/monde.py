"""MoNDE: near-data experts against copying them to the GPU."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from moesim.cost import ExpertShape
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.model.types import Model
from moesim.near import Box, draw, layer_seconds
from moesim.systems.headlines import headline
from moesim.systems.parts import device_s, moe_layers, moe_of
from moesim.systems.row import Assumption, Case, Figure, Row

SOURCE = "arXiv:2405.18832 (note)"
MODELS = ("switch-large-128", "nllb-moe-54b")
TOKENS = 512
#: Layers drawn per model.
DRAWS = 12

SKEW = Assumption(
    "skew",
    1.0,
    0.6,
    2.0,
    "deviation of the logarithm of expert loads: 0.6 to 0.8 measured on DeepSeek-V3; encoder-decoders are "
    "trained without balance at inference",
)
LAUNCH = Assumption(
    "layer_s",
    0.5e-3,
    0.1e-3,
    1.0e-3,
    "what a layer takes beside its arithmetic: 30 kernels of 3 us inside graphs to 30 launches of 35 us",
)
LINK = Assumption("link", 0.88, 0.75, 1.0, "of the 32 GB/s that copies reach")


@functools.cache
def part(name: str, decoder: bool) -> Model:
    """The encoder or the decoder of an encoder-decoder as a model of its own, cross-attention left out."""
    model = load_model(name)
    return replace(model, layers=model.layers if decoder else model.encoder_layers, encoder_layers=())


def seconds(case: Case, name: str, decoder: bool, mode: str) -> float:
    """Seconds of a pass of the encoder, or of one token of the decoder."""
    hardware = load_hardware("a100-monde")
    model = part(name, decoder)
    moe = moe_of(model)
    shape = ExpertShape(model.hidden, moe.intermediate, moe.matrices, "bf16")
    box = Box.of(hardware, case["link"])
    rng = np.random.default_rng(case.seed)
    tokens = round(case["sequences"]) * (1 if decoder else TOKENS)
    layers = [
        layer_seconds(draw(moe.num_experts, tokens * moe.top_k, case["skew"], rng), shape, box, mode)
        for _ in range(DRAWS)
    ]
    batch = ("decode", float(tokens), 64.0) if decoder else ("prefill", float(tokens), 0.0)
    rest = device_s(model, hardware.device, batch) + model.num_layers * case["layer_s"]
    return rest + moe_layers(model) * float(np.mean(layers))


def gain(case: Case, name: str, decoder: bool, over: str = "move") -> float:
    """Throughput over that of copying every expert, or of experts on the host's processor."""
    return seconds(case, name, decoder, over) / seconds(case, name, decoder, "balanced")


def _mean(case: Case, decoder: bool) -> float:
    return sum(gain(case, name, decoder) for name in MODELS) / len(MODELS)


SEQUENCES = Assumption(
    "sequences", 1, 1, 16, "of 512 tokens each, together: what is held says 512 tokens and no batch"
)

MISSING = (
    "batch, skew and what a layer takes beside its arithmetic are in none of the notes, and move the answer "
    "by more than the gap"
)


def _row(
    name: str,
    value: float,
    locator: str,
    model: str | None,
    decoder: bool,
    headline_row: bool = False,
    over: str = "move",
) -> Row:
    metric = ("decoder" if decoder else "encoder") + " throughput"
    figure = Figure(
        metric,
        "x",
        value,
        baseline="GPU with parameter movement" if over == "move" else "experts on the CPU",
        grade="S/SIM",
        source=SOURCE,
        locator=locator,
    )
    return Row(
        "MoNDE",
        name,
        headline("MoNDE") if headline_row else figure,
        (lambda case: _mean(case, decoder))
        if model is None
        else (lambda case: gain(case, model, decoder, over)),
        "near-data",
        "Executor(split)",
        hardware="a100-monde",
        workload=f"{model or 'mean of ' + ' and '.join(MODELS)}, "
        + ("a token of each sequence" if decoder else f"sequences of {TOKENS} tokens"),
        assumed=(SKEW, LAUNCH, LINK, SEQUENCES),
        routing="drawn: lognormal loads",
        headline=headline_row,
        reason=MISSING,
        cause="missing specification",
        claims=("MoNDE/1",) if headline_row else (),
    )


ROWS = (
    _row("encoder", 4.9, "average", None, False, headline_row=True),
    _row("encoder-switch-large", 3.1, "Switch-Large-128", MODELS[0], False),
    _row("encoder-nllb", 6.7, "NLLB-MoE", MODELS[1], False),
    _row("decoder", 1.5, "average", None, True),
    _row("decoder-switch-large", 1.1, "Switch-Large-128", MODELS[0], True),
    _row("decoder-nllb", 1.9, "NLLB-MoE", MODELS[1], True),
    _row("encoder-nllb-cpu", 9.1, "NLLB-MoE over CPU experts", MODELS[1], False, over="cpu"),
    _row("decoder-nllb-cpu", 1.9, "NLLB-MoE over CPU experts", MODELS[1], True, over="cpu"),
)
