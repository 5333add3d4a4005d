"""What is run: one MoE layer, on so many tokens, routed in some way, some experts in slow memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Sizes of one MoE layer with gated experts (SwiGLU).

    Parameters
    ----------
    name
        For reports.
    num_experts, top_k
        Routed experts, and how many of them a token goes to.
    hidden, width
        Width of the residual stream, and of an expert.
    renormalise
        Whether the weights of the chosen experts are made to sum to one.
    """

    name: str
    num_experts: int
    top_k: int
    hidden: int
    width: int
    renormalise: bool = True

    @property
    def params(self) -> int:
        """Of one expert: gate, up and down."""
        return 3 * self.hidden * self.width

    def flops(self, tokens: int) -> float:
        """Of the experts' products for so many tokens."""
        return 2.0 * tokens * self.top_k * self.params


@dataclass(frozen=True, slots=True)
class Case:
    """One run to make.

    Parameters
    ----------
    shape
        The layer.
    tokens
        In the batch.
    routing
        ``uniform``, ``zipf:S`` (popularity falls as rank to the power of -S), ``one-hot`` (all tokens to the
        same experts), or ``trace:NAME`` (rows of a recorded trace).
    offloaded
        Fraction of the experts that has no place in fast memory.
    dtype
        ``fp32`` or ``bf16``.
    seed
        Of tokens, weights and routing.
    """

    shape: LayerShape
    tokens: int
    routing: str = "uniform"
    offloaded: float = 0.0
    dtype: str = "fp32"
    seed: int = 0

    @property
    def name(self) -> str:
        """As reports show it."""
        kept = f" {self.offloaded:.0%} offloaded" if self.offloaded else ""
        return f"{self.shape.name} {self.tokens} {self.routing}{kept} {self.dtype}"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one run of a layer.

    Parameters
    ----------
    seconds
        Of the whole layer, with the protocol's clock.
    parts
        Seconds by part, where they were timed on their own: ``router``, ``top_k``, ``experts``, ``copy``,
        ``weighted_sum``.
    """

    seconds: float
    parts: Mapping[str, float]


class Prepared(Protocol):
    """A case with its memory filled, ready to be run many times.

    Attributes
    ----------
    counts
        Tokens of each expert, int ``[experts]``.
    loads
        Experts copied from slow memory in one run; 0 without offloading.
    """

    counts: IntArray
    loads: int

    def run(self) -> Timing:
        """Run the layer once, cold."""
        ...

    def output(self) -> npt.NDArray[np.float32]:
        """What the last run computed, ``[tokens, hidden]``."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class Runner(Protocol):
    """A device that runs cases."""

    device: str

    def prepare(self, case: Case, ids: IntArray | None = None) -> Prepared:
        """Fill memory for a case.

        Parameters
        ----------
        case
            What to run.
        ids
            Experts of each token, int32 ``[tokens, top_k]``, instead of those the router would choose: the
            router still runs, and its choice is set aside.
        """
        ...
