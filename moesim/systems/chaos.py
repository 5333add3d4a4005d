"""Orders in Chaos (arXiv:2510.05497): MoE layers of a decoding batch on a wafer of GPU dies.

Batches of 4096 to 16384 tokens, five ways to share them out (`moesim.wafer`). The paper replays traces of
four models that are not held here. Loads of DeepSeek-V3 come from its profile, which measured loads made;
those of the other models are drawn from a log-normal distribution. All tokens of a batch belong to other
requests, so that a step's counts are a draw from the loads.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from moesim.cost import ExpertShape
from moesim.errors import ConfigError, Fault
from moesim.hardware import load_hardware
from moesim.hardware.types import Hardware
from moesim.model import load_model
from moesim.synthesis import generate, load_profile
from moesim.synthesis.profile import Profile
from moesim.systems.parts import moe_of
from moesim.systems.traces import halves
from moesim.trace.types import RoutingTrace
from moesim.wafer import Forecast, Outcome, Wafer, copy_slots, learn, replay

MODELS = ("deepseek-v3", "kimi-k2", "llama-4-maverick", "qwen3-235b-a22b")
WAFERS = ("dojo-wafer", "sow-wafer")
BATCHES = (4096, 8192, 16384)
#: Layers that a row replays, evenly spaced; and tokens that a profile's loads are counted on.
LAYERS, TOKENS = 4, 8192
#: Standard deviation of the logarithm of loads where none were measured; DeepSeek-V3's is 0.60 to 0.67.
SIGMA = 0.6
#: Part of a die's memory that is kept for copies and the system (Sec. V-A).
RESERVE = 0.1
#: Data type of the weights: what the paper's table names, but for a model that fits no wafer in it.
DTYPES = {"kimi-k2": "fp8"}


@functools.cache
def machine(name: str) -> Wafer:
    """A wafer with the efficiency of expert GEMMs on an H100, to which the paper's simulator was fitted."""
    die = load_hardware("h100-sxm-8").device.processor
    hardware: Hardware = load_hardware(name)
    return Wafer.of(hardware, "bf16", die.efficiency_of("expert_gemm", "bf16"))


@functools.cache
def expert(model: str) -> tuple[ExpertShape, int, int, int]:
    """One expert, experts per layer and per token, and MoE layers."""
    found = load_model(model)
    moe = moe_of(found)
    shape = ExpertShape(found.hidden, moe.intermediate, moe.matrices, DTYPES.get(model, "bf16"))
    return shape, moe.num_experts, moe.top_k, len(found.moe_layer_ids)


def some_layers(profile: Profile, places: list[int]) -> Profile:
    """Only these layers of a profile without coupling, whose layers are drawn apart.

    Raises
    ------
    ConfigError
        For a profile with coupling.
    """
    if len(profile.coupling):
        raise ConfigError(Fault("has coupled layers", "profile", profile.model))
    by_layer = ("archetype_scale", "coupling_scale", "kind_scale", "kinds", "recency")
    kept = {name: getattr(profile, name)[places] for name in by_layer}
    if len(profile.memory):
        kept["memory"] = profile.memory[places]
    ids = tuple(profile.moe_layer_ids[i] for i in places)
    return replace(
        profile, moe_layer_ids=ids, base=profile.base[:, places], factors=profile.factors[:, places], **kept
    )


@functools.lru_cache(maxsize=8)
def _measured(seed: int) -> tuple[np.ndarray, Forecast]:
    """Loads of DeepSeek-V3 and what other requests forecast, from its profile."""
    profile = load_profile("deepseek-v3")
    places = [round(i) for i in np.linspace(0, profile.num_layers - 1, LAYERS)]
    short = some_layers(profile, places)
    taught, run = (generate(short, TOKENS, TOKENS // 4, "decode", seed + part) for part in (1_000_003, 0))
    return run.load_counts().totals, learn(taught, run)


def _designed(experts: int, persist: float, seed: int) -> tuple[np.ndarray, Forecast]:
    """Log-normal loads, and a forecast that knows them and how often a token repeats an expert."""
    rng = np.random.default_rng(seed)
    load = np.exp(SIGMA * rng.standard_normal((LAYERS, experts)))
    share = load / load.sum(axis=1, keepdims=True)
    follow = (1.0 - persist) * share[:, None, :] + persist * np.eye(experts)
    return load, Forecast(follow, share)


def fits(trace: RoutingTrace, model: str) -> bool:
    """Whether a trace routes as a model does."""
    return (trace.num_experts, trace.top_k) == expert(model)[1:3]


def _loads(model: str, trace: RoutingTrace | None, persist: float, seed: int) -> tuple[np.ndarray, Forecast]:
    experts = expert(model)[1]
    if trace is not None:
        taught, rest = halves(trace, seed)
        return rest.load_counts().totals, learn(taught, rest)
    return _measured(seed) if model == "deepseek-v3" else _designed(experts, persist, seed)


@functools.lru_cache(maxsize=4096)
def outcome(
    model: str,
    wafer: str,
    batch: int,
    policy: str,
    skew: float,
    spare: float = 0.0,
    persist: float = 0.2,
    candidates: int = 8,
    own_turns: bool = True,
    seed: int = 0,
    trace: RoutingTrace | None = None,
) -> Outcome:
    """One step of one batch, after one that fills the copies.

    Parameters
    ----------
    model, wafer, batch, policy
        One of each.
    skew
        Exponent of the loads: 0 makes them equal, 1 leaves them.
    spare
        Part of what experts leave of a die's memory that copies take, beyond the reserve.
    persist
        How often a token repeats an expert beyond chance, where no profile says.
    candidates
        Likeliest next experts of each.
    own_turns
        Whether the baseline's dies wait for what they read from their own memory too.
    """
    shape, experts, top_k, layers = expert(model)
    machine_ = machine(wafer)
    load, forecast = _loads(model, trace, persist, seed)
    tilted = load**skew
    chance = tilted / tilted.sum(axis=1, keepdims=True)
    rng = np.random.default_rng(seed + 1)
    # All policies are judged on the same step; copies need one before it.
    steps = 2 if policy.endswith("pred") else 1
    # A token has an expert once at most.
    chance = np.minimum(chance, 1.0 / top_k)
    chance /= chance.sum(axis=1, keepdims=True)
    counts = np.array([[rng.multinomial(batch * top_k, p) for p in chance] for _ in range(2)])
    # The baseline's dies keep their part of an expert, allocation's the whole.
    part = 1.0 / machine_.dies if policy == "pred" else 1.0
    left = 1.0 - layers * experts * shape.weight_bytes / (machine_.dies * machine_.memory_bytes)
    share = RESERVE + spare * max(left - RESERVE, 0.0)
    slots = copy_slots(machine_, shape, layers, experts, share, part) if policy.endswith("pred") else 0
    return replay(
        machine_,
        shape,
        counts[-steps:],
        top_k,
        policy,
        forecast=forecast,
        candidates=candidates,
        slots=slots,
        own_turns=own_turns,
        warm=steps - 1,
    )
