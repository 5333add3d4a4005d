"""Bits per expert for good: the assignment of least loss within a budget, solved exactly layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.policy.precision import Levels
from moesim.policy.steps import Steps
from moesim.trace.types import RoutingTrace

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def allot_bits(loss: Floats, bits: Ints, budget: int, required: npt.NDArray[np.bool_]) -> Ints:
    """The assignment of least loss: one width per expert, their sum at most `budget`.

    Dynamic programme over experts, bits spent, and which required widths have been given: exact, where the
    released code of MC-MoE hands the same problem to an integer programme.

    Parameters
    ----------
    loss
        Of each expert at each width, ``[experts, widths]``.
    bits
        Whole bits of each width, ``[widths]``.
    budget
        Bits of all experts together.
    required
        Widths that at least one expert must have, ``[widths]``.

    Returns
    -------
    ndarray
        Index of the width of each expert, int64 ``[experts]``.

    Raises
    ------
    InfeasibleError
        When no assignment meets budget and requirements.

    Examples
    --------
    Two experts, widths of 1 and 3 bits, 4 bits in all: the one that loses more gets 3.

    >>> loss = np.array([[1.0, 0.1], [5.0, 0.1]])
    >>> allot_bits(loss, np.array([1, 3]), 4, np.array([False, False])).tolist()
    [0, 1]
    """
    budget = min(max(budget, 0), len(loss) * int(bits.max()))  # more is never spent
    flags = np.where(required, 1 << (np.cumsum(required) - 1), 0)
    chosen = _allot(np.ascontiguousarray(loss, np.float64), bits, budget, flags, int(flags.sum()))
    if len(loss) and chosen[0] < 0:
        least = int(np.sort(bits)[0]) * len(loss)
        raise InfeasibleError(
            f"{len(loss)} experts do not fit into {budget} bits; {least} at the fewest each, and more for "
            "widths that one of them must have",
            resource="bits of a layer's experts",
            needed=least,
            available=budget,
        )
    return chosen


@compiled
def _allot(loss: Floats, bits: Ints, budget: int, flags: Ints, full: int) -> Ints:
    experts, widths = loss.shape
    best = np.full((experts + 1, budget + 1, full + 1), np.inf)
    came = np.full((experts, budget + 1, full + 1), -1, np.int8)
    back = np.zeros((experts, budget + 1, full + 1), np.int8)
    best[0, 0, 0] = 0.0
    for e in range(experts):
        for spent in range(budget + 1):
            for given in range(full + 1):
                if best[e, spent, given] == np.inf:
                    continue
                for w in range(widths):
                    total, now = spent + bits[w], given | flags[w]
                    if total > budget:
                        continue
                    value = best[e, spent, given] + loss[e, w]
                    if value < best[e + 1, total, now]:
                        best[e + 1, total, now] = value
                        came[e, total, now], back[e, total, now] = w, given
    chosen = np.full(experts, -1, np.int64)
    last = best[experts, :, full]
    spent, given = int(np.argmin(last)), full
    if experts == 0 or last[spent] == np.inf:
        return chosen
    for e in range(experts - 1, -1, -1):
        w = came[e, spent, given]
        chosen[e] = w
        given = back[e, spent, given]
        spent -= bits[w]
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class StaticBits:
    """Each expert in its own width: MC-MoE's integer programme, or EdgeMoE's by importance.

    Loss of expert e at b bits is a_e^alpha w_e^beta eps(b)^gamma: a_e its part of a layer's tokens, w_e its
    part of a layer's router weight, both from the training trace (no weights: w_e = a_e), eps(b) its error at
    b bits. The systems measure eps on the model's weights; a trace does not hold it, and by default it is
    2^-b, a uniform quantiser's step, the same for all experts.

    MC-MoE (Huang et al. 2024, arXiv 2410.06270; ``precision_solver.py``): widths 1, 2, 3, at least one expert
    at 3 and one at 2, beta = 1.5; the paper raises eps to gamma = 2, the released code parses gamma and uses
    alpha = 1 in its place. EdgeMoE (Yi et al. 2023, arXiv 2308.14352) gives fewer bits to experts whose
    quantisation costs least accuracy, a measurement that the same loss stands for here.

    Parameters
    ----------
    mean_bits
        Budget over the experts of a layer.
    bits
        Whole widths, fewest first.
    alpha, beta, gamma
        Exponents.
    required
        Widths that one expert of each layer must have.
    overhead
        Bits per weight on top of each width, for scales and zero points.
    errors
        eps of each width, or None.
    static
        Level of each expert, 0 the most bits, int8 ``[layers, experts]``, from `fit`.
    """

    mean_bits: float = 2.5
    bits: tuple[int, ...] = (1, 2, 3)
    alpha: float = 1.0
    beta: float = 1.5
    gamma: float = 2.0
    required: tuple[int, ...] = (2, 3)
    overhead: float = 0.0
    errors: tuple[float, ...] | None = None
    static: npt.NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        faults = []
        if not self.bits or list(self.bits) != sorted(set(self.bits)) or self.bits[0] < 1:
            faults.append(Fault("must rise", "bits", self.bits, "whole, 1 or more"))
        if not 0 < self.mean_bits < math.inf:
            faults.append(Fault("is no budget", "mean_bits", self.mean_bits, "above 0"))
        if not set(self.required) <= set(self.bits):
            faults.append(Fault("is not among the widths", "required", self.required, str(self.bits)))
        if self.errors is not None and len(self.errors) != len(self.bits):
            faults.append(Fault("has another length", "errors", len(self.errors), f"{len(self.bits)}"))
        if faults:
            raise ConfigError(faults)

    def fit(self, train: RoutingTrace) -> StaticBits:
        """Solve each layer on the training trace's load and weights."""
        layers, experts = train.topk_ids.shape[1], train.num_experts
        bits = np.array(self.bits, np.int64)
        errors = np.array(self.errors or 2.0 ** -bits.astype(np.float64))
        required = np.isin(bits, np.array(self.required, np.int64))
        budget = math.floor(self.mean_bits * experts + 1e-9)
        static = np.empty((layers, experts), np.int8)
        for layer in range(layers):
            ids = train.topk_ids[:, layer].ravel()
            active = np.bincount(ids, minlength=experts) / max(len(ids), 1)
            weight = active
            if train.topk_weights is not None:
                heavy = np.bincount(ids, train.topk_weights[:, layer].ravel().astype(np.float64), experts)
                weight = heavy / max(heavy.sum(), 1e-300)
            importance = active**self.alpha * weight**self.beta
            loss = importance[:, None] * errors[None, :] ** self.gamma
            chosen = allot_bits(loss, bits, budget, required)
            static[layer] = len(bits) - 1 - chosen
        return replace(self, static=static)

    def levels(self, steps: Steps) -> Levels:
        """The expert's own level, whoever asks."""
        if self.static is None:
            raise ConfigError(
                Fault("needs a trace to learn from, disjoint from what is replayed", "precision")
            )
        cell = np.repeat(np.arange(len(steps.starts) - 1), np.diff(steps.starts))
        wanted = self.static[cell % steps.layers, steps.experts]
        bits = np.array(self.bits[::-1], np.float64) + self.overhead
        return Levels(bits, wanted, static=self.static)
