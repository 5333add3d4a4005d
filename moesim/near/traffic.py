"""Continuous batching of requests that are always as many: which stages there are, and what they amount to.

A request that ends makes room for the next, whose prompt is read in the next stage (arXiv:2409.01141, section
VI). With ``r = requests / output_len`` prompts per stage, the prompts of a stage are nearly Poisson.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.routing import RoutingSource
from moesim.near.duplex import Stages, System, stages

Array = npt.NDArray[np.float64]
#: Numbers of prompts per stage that are told apart; more are counted as the last.
MOST = 4


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests that are always as many: each decodes `output_len` tokens after a prompt of `input_len`."""

    requests: int
    input_len: int
    output_len: int

    @property
    def prompts(self) -> float:
        """Prompts that come in per stage, on average."""
        return self.requests / self.output_len

    @property
    def context(self) -> float:
        """Tokens that a decoding request looks back on, on average."""
        return self.input_len + self.output_len / 2

    @property
    def shares(self) -> Array:
        """Share of the stages with 0, 1, 2, ... prompts: Poisson, ``[MOST]``.

        >>> Traffic(128, 256, 256).shares.round(3).tolist()
        [0.607, 0.303, 0.076, 0.014]
        """
        rate = self.prompts
        each = [math.exp(-rate) * rate**n / math.factorial(n) for n in range(MOST - 1)]
        return np.array([*each, 1.0 - sum(each)])


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """Stages of traffic, by their prompts.

    Parameters
    ----------
    traffic
        The requests.
    stages
        With 0, 1, ... prompts.
    """

    traffic: Traffic
    stages: Stages

    @classmethod
    def of(cls, system: System, traffic: Traffic, source: RoutingSource, seed: int = 0) -> Mix:
        """Time the stages of traffic on a system."""
        prompts = np.arange(MOST, dtype=np.float64)
        decoding = np.maximum(traffic.requests - prompts, 0.0)
        wide = np.ones(MOST)
        found = stages(
            system, decoding, traffic.context * wide, prompts, traffic.input_len * wide, source, seed
        )
        return cls(traffic, found)

    def mean(self, name: str = "seconds") -> float:
        """Mean over stages of one of the values of `Stages`."""
        return float((self.traffic.shares * getattr(self.stages, name)).sum())

    def quantile(self, q: float, first: bool = False) -> float:
        """Time between tokens that a share `q` of the tokens do not exceed.

        Parameters
        ----------
        first
            Of first tokens instead: of the stages with prompts, each as often as it has prompts.
        """
        count = np.arange(MOST, dtype=np.float64)
        decoding = self.traffic.requests - count
        weight = self.traffic.shares * (count if first else decoding)
        order = np.argsort(self.stages.seconds)
        reached = np.cumsum(weight[order]) / weight.sum()
        return float(self.stages.seconds[order][int(np.searchsorted(reached, q))])

    @property
    def end_to_end_s(self) -> float:
        """Seconds of a request, from the stage that reads its prompt to its last token."""
        return self.traffic.output_len * self.mean()

    @property
    def requests_per_s(self) -> float:
        """Requests served per second: what arrives faster waits longer and longer (Little's law)."""
        return self.traffic.requests / self.end_to_end_s
