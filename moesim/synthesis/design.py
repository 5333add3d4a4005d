"""A profile without a trace: from a shape and a few numbers that can be measured on real traces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.synthesis.calibrate import Aim, calibrate
from moesim.synthesis.check import measure
from moesim.synthesis.fitting import PHASE_SPREAD
from moesim.synthesis.moments import Moments
from moesim.synthesis.profile import PLACES, STEPS, Profile
from moesim.synthesis.requests import plan
from moesim.synthesis.solve import one_hot
from moesim.trace import LoadCounts

Array = npt.NDArray[Any]
_ARCHETYPES, _FACTORS, _KINDS = 64, 8, 64
_REQUEST_LENGTH = 400
#: Of the overlap with the token before that exceeds chance: what is left between distant tokens of a request,
#: and what short memory adds at lags 1 to 4. gpt-oss-20b: .56 and 1/.49/.34/.30 of the rest.
_FAR_SHARE, _LAG_SHAPE = 0.4, np.array([1.0, 0.5, 0.38, 0.3])
#: Share of kinds that prefer an unrelated class in the next layer.
_WANDER = 0.1
_MAX_INCLUSION = 0.9
_PILOT, _PILOT_LENGTH = 2_000_000, 48


@dataclass(frozen=True, slots=True)
class Shape:
    """What routes.

    Parameters
    ----------
    moe_layer_ids
        Decoder index of each MoE layer.
    num_experts, top_k
        Experts per layer and per token.
    groups, top_groups
        Groups of experts, and how many of them a token may use (1 and 1: no limit).
    model
        Name.
    """

    moe_layer_ids: tuple[int, ...]
    num_experts: int
    top_k: int
    groups: int = 1
    top_groups: int = 1
    model: str = ""


@dataclass(frozen=True, slots=True)
class Traits:
    """How it routes; None for what real models of that size do.

    Parameters
    ----------
    skew
        Standard deviation of the logarithm of the experts' loads: 0.6 to 0.8 for fine-grained experts, 0.2 to
        0.35 for models trained with a balancing loss on mixed traffic, up to 1 on a single task.
    persistence
        Share of experts that a token has in common with the token before (`consecutive_overlap` of
        `trace stats`), mean over layers; from what chance gives to 0.9.
    coupling
        Mutual information between an expert of a layer and one of the next, in bits
        (`next_layer_information_bits`), mean over layers.
    """

    skew: float = 0.6
    persistence: float | None = None
    coupling: float | None = None

    def faults(self, shape: Shape) -> list[Fault]:
        """What is out of range, by command-line option."""
        limit = float(np.log2(shape.num_experts)) / 2
        found = []
        if not 0 <= self.skew <= 3:
            found.append(Fault("is out of range", "--skew", self.skew, "0 to 3"))
        if self.persistence is not None and not 0 < self.persistence <= 0.9:
            found.append(Fault("is out of range", "--persistence", self.persistence, "chance to 0.9"))
        if self.coupling is not None and not 0 <= self.coupling <= limit:
            found.append(Fault("is out of range", "--coupling", self.coupling, f"0 to {limit:.2f} bits"))
        return found


def shape_faults(shape: Shape) -> list[Fault]:
    """What is out of range, by command-line option."""
    E, k, G = shape.num_experts, shape.top_k, shape.groups
    found = []
    if not 1 <= len(shape.moe_layer_ids) <= 1000:
        found.append(Fault("is out of range", "--layers", len(shape.moe_layer_ids), "1 to 1000"))
    if not 2 <= E <= 4096:
        found.append(Fault("is out of range", "--experts", E, "2 to 4096"))
    if not 1 <= k <= min(E - 1, 64):
        found.append(Fault("is out of range", "--top-k", k, f"1 to {min(max(E - 1, 1), 64)}"))
    if found:
        return found
    if G < 1 or E % max(G, 1) or not 1 <= shape.top_groups <= G or shape.top_groups * E < k * G:
        allowed = "groups that divide the experts; enough of them for top-k"
        found.append(Fault("cannot be", "groups", (G, shape.top_groups), allowed))
    return found


def lognormal_loads(shape: Shape, skew: float, seed: int) -> Array:
    """Shares of tokens that choose each expert, ``[layers, E]``, each row summing to top-k.

    Loads are lognormal; none exceeds 0.9.
    """
    rng = np.random.default_rng(seed)
    loads = np.exp(skew * rng.standard_normal((len(shape.moe_layer_ids), shape.num_experts)))
    return capped(loads, shape.top_k)


def capped(loads: Array, top_k: int) -> Array:
    """Scale rows of loads to sum to `top_k` with none beyond 0.9 (or what the sum needs).

    >>> capped(np.array([[9.0, 1.0, 1.0]]), 2).round(2).tolist()
    [[0.9, 0.55, 0.55]]
    """
    limit = max(_MAX_INCLUSION, (top_k / loads.shape[1] + 1) / 2)
    scaled = np.maximum(loads, 1e-9 * loads.max())
    scaled = scaled * top_k / scaled.sum(axis=1, keepdims=True)
    for _ in range(50):
        full = scaled >= limit
        spare = top_k - limit * full.sum(axis=1, keepdims=True)
        rest = np.where(full, 0.0, scaled)
        scaled = np.where(full, limit, rest * spare / rest.sum(axis=1, keepdims=True))
        if (scaled <= limit + 1e-12).all():
            break
    return np.asarray(scaled)


def depth_profile(layers: int) -> Array:
    """Persistence by depth, relative to its mean: almost none in the first layer, which follows the token's
    identity, most in the middle, less at the end (gpt-oss-20b, DeepSeek-V2-Lite, Mixtral alike).
    """  # noqa: D205
    depth = (np.arange(layers) + 0.5) / layers
    shape = 0.15 + np.sin(np.pi * depth**0.8) ** 0.7
    return np.asarray(shape / shape.mean())


def design(
    shape: Shape,
    traits: Traits | None = None,
    *,
    loads: Array | None = None,
    domains: Array | None = None,
    affinity: float = 0.5,
    rounds: int = 12,
    seed: int = 0,
) -> tuple[Profile, Moments]:
    """Design a profile.

    Loads, overlaps and mutual information are then calibrated by simulation to what was asked. What is drawn
    at random (which expert is hot, which experts go together) depends on `seed`.

    Parameters
    ----------
    shape
        What routes.
    traits
        How.
    loads
        Share of tokens that choose each expert in prefill and decode, ``[2, layers, E]``, instead of
        lognormal ones.
    domains
        Log2 of each domain's loads over the mean's, ``[domains, layers, E]``: requests are of one domain
        each. Without, requests have random tastes.
    affinity
        How much of the coupling is between neighbouring layers only; the rest comes from the kind of a
        token, and couples distant layers as well.
    rounds
        Rounds of calibration.
    seed
        Seed.

    Returns
    -------
    Profile, Moments
        The profile, and what it generated in the last round of calibration.

    Raises
    ------
    ConfigError
        Naming every number that is out of range, or a persistence below what chance gives.
    """
    traits = traits or Traits()
    faults = shape_faults(shape)
    if not faults:
        faults = traits.faults(shape)
    if faults:
        raise ConfigError(faults)
    L, E, k = len(shape.moe_layer_ids), shape.num_experts, shape.top_k
    load = lognormal_loads(shape, traits.skew, seed) if loads is None else capped(loads[1], k)
    chance = (load**2).sum(axis=1) / k
    persistence = traits.persistence
    if persistence is None:
        persistence = float(chance.mean() + 0.22 * (1 - chance.mean()))
    if persistence < chance.mean():
        allowed = f"{chance.mean():.3f}, which chance alone gives with these loads, to 0.9"
        raise ConfigError(Fault("is below chance", "--persistence", persistence, allowed))
    bits = traits.coupling if traits.coupling is not None else (0.6 if E >= 32 else 0.1)
    excess = np.minimum((persistence - chance.mean()) * depth_profile(L), 0.9 - chance)
    far = chance + _FAR_SHARE * excess
    aim = Aim(
        load=load,
        lag=far[:, None] + (1 - _FAR_SHARE) * excess[:, None] * _LAG_SHAPE,
        far=None if domains is not None else far,
        information=np.where(np.arange(L) > 0, bits, 0.0),
        phase=1,
        by_kinds=True,
    )
    draft = _draft(shape, load, domains, affinity, seed)
    tokens = int(np.clip(_PILOT // (L * k), 2000, 40_000))
    # Short requests, so that there are many tastes among few tokens.
    requests = max(tokens // _PILOT_LENGTH, 1)
    layouts = plan(draft, tokens, requests, "decode", seed)
    profile, found = calibrate(draft, aim, layouts, rounds=rounds, seed=seed, debias=True)
    profile = replace(
        profile,
        targets=_targets(shape, load, persistence, bits),
        assumed=_missed(persistence, bits, found),
    )
    base = profile.base.copy()
    if loads is None:
        noise = np.random.default_rng(seed + 1).standard_normal((L, E))
        base[0] = base[1] + np.float32(PHASE_SPREAD) * noise
        return replace(profile, base=base), found
    before = capped(loads[0], k)
    base[0] = base[1] + np.log2(before / load)
    profile = replace(profile, base=base)
    layouts = plan(profile, tokens, requests, "prefill", seed)
    return calibrate(profile, Aim(load=before, phase=0), layouts, rounds=rounds, seed=seed)[0], found


def _targets(shape: Shape, load: Array, persistence: float, bits: float) -> dict[str, float]:
    counts = LoadCounts(counts=load[None], moe_layer_ids=shape.moe_layer_ids, top_k=shape.top_k)
    found = measure(counts) | {"consecutive_overlap": persistence}
    if len(load) > 1 and bits > 0:
        found["next_layer_information_bits"] = bits
    # Few requests have tastes of their own, which shows in the loads of ranks more than 3 %.
    found.pop("rank_max_over_mean.8", None)
    return found


def _missed(persistence: float, bits: float, found: Moments) -> tuple[str, ...]:
    """What was asked for and not reached: the two work against each other, and with the loads."""
    reached = [("persistence", persistence, float(found.lag[:, 0].mean()), 0.1)]
    if len(found.information) > 1 and bits > 0:
        reached.append(("coupling", bits, float(found.information[1:].mean()), 0.2))
    return tuple(
        f"{name} is {got:.3f}, not {asked:.3f}: the design does not reach it"
        for name, asked, got, tolerance in reached
        if abs(got / asked - 1) > tolerance
    )


def _draft(shape: Shape, load: Array, domains: Array | None, affinity: float, seed: int) -> Profile:
    L, E = load.shape
    rng = np.random.default_rng(seed + 2)
    base = np.log2(-np.log1p(-np.minimum(load, 0.95)))
    if domains is None:
        scores = rng.standard_normal((_ARCHETYPES, _FACTORS))
        factors = rng.standard_normal((_FACTORS, L, E)) / np.sqrt(_FACTORS)
        scale = 1.0
    else:
        scores, factors, scale = one_hot(np.arange(len(domains))[:, None], len(domains)), domains, 1.0
    A = len(scores)
    classes = _classes(L, E, shape.top_k, rng)
    return Profile(
        model=shape.model,
        num_experts=E,
        top_k=shape.top_k,
        moe_layer_ids=shape.moe_layer_ids,
        base=np.stack([base, base]).astype(np.float32),
        scores=scores.astype(np.float32),
        factors=_steps(factors),
        share=np.full(A, 1 / A, np.float32),
        lengths=np.maximum(_REQUEST_LENGTH * np.exp(0.5 * rng.standard_normal(A)), 8).astype(np.int32),
        archetype_scale=np.full(L, scale, np.float32),
        coupling_scale=np.full(L, affinity, np.float32),
        kind_scale=np.full(L, 0.5, np.float32),
        kinds=_kinds(classes, rng),
        kind_of=_steps(rng.standard_normal((A, _KINDS))),
        kind_place=np.zeros((len(PLACES), _KINDS), np.int8),
        kind_memory=_steps(rng.standard_normal((_KINDS, _KINDS))),
        coupling=_affinity(classes, rng) if affinity else np.zeros((0, E, E), np.int8),
        memory=np.zeros((0, E, E), np.int8),
        recency=np.tile(np.array([1.0, 0.5, 0.3, 0.2], np.float32), (L, 1)),
        groups=shape.groups,
        top_groups=shape.top_groups,
        source="numbers given to moesim",
    )


def _steps(octaves: Array) -> Array:
    return np.asarray(np.rint(octaves * STEPS).clip(-127, 127), np.int8)


def _classes(layers: int, num_experts: int, top_k: int, rng: np.random.Generator) -> Array:
    """A class for each expert, ``[layers, E]``: about top-k experts of a layer go together."""
    return np.stack([rng.permutation(num_experts) // max(top_k, 2) for _ in range(layers)])


def _affinity(classes: Array, rng: np.random.Generator) -> Array:
    """Coupling ``[layers, E, E]``: an expert draws those of one class of the next layer."""
    before = np.roll(classes, 1, axis=0)
    table = (before[:, :, None] == classes[:, None, :]) + 0.25 * rng.standard_normal(
        (*classes.shape, classes.shape[1])
    )
    return _steps(2 * table)


def _kinds(classes: Array, rng: np.random.Generator) -> Array:
    """Log weights by kind ``[layers, C, E]``: a kind of token prefers one class of each layer.

    Mostly that which the class it prefers in the layer before is coupled to.
    """
    L, E = classes.shape
    favourite = np.tile(np.arange(_KINDS)[None] % (classes.max() + 1), (L, 1))
    for layer in range(1, L):
        moves = rng.random(_KINDS) < _WANDER
        elsewhere = rng.integers(0, classes.max() + 1, _KINDS)
        favourite[layer] = np.where(moves, elsewhere, favourite[layer - 1])
    table = 4 * (classes[:, None, :] == favourite[:, :, None]) + 0.5 * rng.standard_normal((L, _KINDS, E))
    return _steps(table)
