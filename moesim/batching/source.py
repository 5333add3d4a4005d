"""Batches for predictions, drawn from interleaved steps instead of from the trace's own order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.batching.types import Steps
from moesim.engine.routing import TOKEN_BUDGET, Draw
from moesim.trace.types import DECODE, PREFILL, RoutingTrace, count_ids

IntArray = npt.NDArray[np.int64]


class StepSource:
    """A routing source whose batches have the composition of real steps.

    A decode batch is a step's decoding requests, one token each; a prefill batch is a run of prompt chunks. A
    batch larger than any step is made of several steps, a smaller one of part of a step.

    Parameters
    ----------
    steps, trace
        Steps, and the trace they were made from.

    Raises
    ------
    ConfigError
        If the steps were made from another trace.
    """

    def __init__(self, steps: Steps, trace: RoutingTrace) -> None:
        steps.check(trace)
        self.trace = trace
        self._pools = {phase: _Pool(steps, phase) for phase in (PREFILL, DECODE)}

    @property
    def layers(self) -> int:
        """MoE layers of the trace."""
        return len(self.trace.moe_layer_ids)

    @property
    def num_experts(self) -> int:
        """Routed experts per layer."""
        return self.trace.num_experts

    @property
    def top_k(self) -> int:
        """Experts per token."""
        return self.trace.top_k

    def draw(self, tokens: int, phase: int, rng: np.random.Generator) -> Draw:
        """Draw a batch of `tokens` tokens of a phase; if no step has that phase, of the other."""
        pool = self._pools[phase]
        if not len(pool.rows):
            pool = self._pools[DECODE if phase == PREFILL else PREFILL]
        # A part of a decode step is any of its requests, of a prompt chunk it is a run.
        rows = pool.draw(tokens, rng, anyhow=phase == DECODE)
        ids = self.trace.topk_ids[rows]
        counts = count_ids(ids, self.num_experts).astype(np.float64)
        return Draw(ids.astype(np.int64) if ids.size <= TOKEN_BUDGET else None, counts, tokens)


class _Pool:
    """The tokens of one phase, step by step; steps without any are left out."""

    def __init__(self, steps: Steps, phase: int) -> None:
        chosen = steps.phase == phase
        self.rows = steps.row[chosen]
        ends = np.r_[0, np.cumsum(chosen)][steps.step_ptr]
        self.ptr: IntArray = np.unique(ends)
        self.sizes: IntArray = np.diff(self.ptr)
        self.by_size = np.argsort(self.sizes, kind="stable")

    def draw(self, tokens: int, rng: np.random.Generator, *, anyhow: bool) -> npt.NDArray[np.int32]:
        first = int(np.searchsorted(self.sizes[self.by_size], tokens))
        if first < len(self.by_size):
            step = int(self.by_size[rng.integers(first, len(self.by_size))])
            return self._part(step, tokens, rng, anyhow)
        taken: list[npt.NDArray[np.int32]] = []
        left = tokens
        while left:
            for step in rng.permutation(len(self.sizes)).tolist():
                taken.append(self._part(step, min(left, int(self.sizes[step])), rng, anyhow))
                left -= len(taken[-1])
                if not left:
                    break
        return np.concatenate(taken)

    def _part(self, step: int, tokens: int, rng: np.random.Generator, anyhow: bool) -> npt.NDArray[np.int32]:
        start, size = int(self.ptr[step]), int(self.sizes[step])
        if anyhow and tokens < size:
            return np.asarray(self.rows[start + np.sort(rng.permutation(size)[:tokens])])
        begin = start + int(rng.integers(0, size - tokens + 1))
        return np.asarray(self.rows[begin : begin + tokens])
