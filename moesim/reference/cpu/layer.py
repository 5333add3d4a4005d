"""One layer on one core: router, choice, experts one after another, weighted sum, each with its time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.reference.cpu import kernels
from moesim.reference.cpu.memory import Memory, Workspace
from moesim.reference.cpu.residents import Residents
from moesim.reference.exact import Float32, Float64, LayerInputs, values, weights_of
from moesim.reference.layer import Case, IntArray, Timing


@dataclass(frozen=True, slots=True, eq=False)
class CpuTiming(Timing):
    """Seconds of one run, of the thread's CPU time, and what took them.

    Parameters
    ----------
    wall_s
        Of the whole layer by the clock on the wall.
    expert_s
        Of each expert, ``[E]``: rows gathered, gate and up, SwiGLU, down; 0 without tokens.
    copy_s
        Of the copy of each expert that was in slow memory, ``[E]``; 0 elsewhere.
    loaded
        Which experts those were, ``[E]``. They run with warm weights.
    """

    wall_s: float
    expert_s: Float64
    copy_s: Float64
    loaded: npt.NDArray[np.bool_]


class CpuPrepared:
    """A case ready to run; made by `CpuRunner.prepare`.

    Tokens are warm when a run begins, as the layer before has just written them; weights are cold.

    Parameters
    ----------
    case
        What is run.
    given
        Tokens and router.
    memory
        Where the experts' weights are.
    space
        Buffers shared with other cases.
    residents
        Decides which experts are copied.
    ids
        Experts of each token, int32 ``[T, k]``; without them the router's choice.
    before
        Experts of tokens before these, which say what a cache holds; None to have them drawn.

    Attributes
    ----------
    ids, weights
        Experts of each token and their weights, ``[T, k]``.
    counts
        Tokens of each expert, int32 ``[E]``.
    plan
        Experts in the order in which they run, and which of them are copied.
    loads
        Copies in one run.
    """

    def __init__(
        self,
        case: Case,
        given: LayerInputs,
        memory: Memory,
        space: Workspace,
        residents: Residents,
        ids: IntArray | None = None,
        before: IntArray | None = None,
    ) -> None:
        shape = case.shape
        T, k, E, H, F = case.tokens, shape.top_k, shape.num_experts, shape.hidden, shape.width
        self.case = case
        self._given, self._memory, self._workspace = given, memory, space
        self._bf16 = case.dtype == "bf16"
        self._tokens, self._router = values(given.x), values(given.router)
        self._chosen, self._weight_of = np.zeros((T, k), np.int32), np.zeros((T, k), np.float32)
        self._offsets, self._order = np.zeros(E + 1, np.int32), np.zeros(T * k, np.int32)
        self._place, self._out = np.zeros((T, k), np.int32), np.full((T, H), 0.0, np.float32)
        if ids is None:
            self._choose(self._logits(self._tokens))
            self.ids, self.weights = self._chosen, self._weight_of
        else:
            self.ids = np.ascontiguousarray(ids, np.int32)
            self.weights = weights_of(given, self.ids, shape.renormalise)
        self.counts: IntArray = np.bincount(self.ids.ravel(), minlength=E).astype(np.int32)
        self.plan = residents(case, self.ids, before)
        self.loads = self.plan.loads
        if self.loads:
            memory.make_ready()
        self._words = shape.params * (1 if self._bf16 else 2)
        self._starts = np.zeros(len(self.plan.runs), np.int64)
        self._homes = self._starts
        self._sizes = kernels.padded(int(self.counts.max(initial=0))), H, F, 2 * H * F if self._bf16 else 0

    def run(self) -> CpuTiming:
        """Run the layer once, with cold weights."""
        plan, memory, experts = self.plan, self._memory, self.case.shape.num_experts
        self._homes = memory.homes(plan.runs, self._words)
        self._starts[:] = self._homes
        self._starts[plan.loaded] = memory.slots(self.loads, self._words)
        take = self._workspace.take
        n, H, F, wide = self._sizes
        space = (
            take("rows", n, H),
            take("both", n, 2 * F),
            take("inner", n, F),
            take("y", n, H),
            take("wide", wide),
        )
        pairs, x = take("pairs", self.ids.size, H), take("x", *self._tokens.shape)
        spent, copied = np.zeros(experts, np.int64), np.zeros(experts, np.int64)
        loaded = np.zeros(experts, bool)
        loaded[plan.runs[plan.loaded]] = True
        clock = time.thread_time_ns
        np.copyto(x, self._tokens)

        wall = time.perf_counter()
        begun = clock()
        logits = self._logits(x)
        routed = clock()
        self._choose(logits)
        kernels.sort_pairs(self.ids, self._offsets, self._order, self._place)
        sorted_at = clock()
        kernels.run_experts(
            x,
            self._order,
            self._offsets,
            plan.runs,
            self._homes,
            self._starts,
            memory.words,
            memory.handle,
            self._bf16,
            space,
            pairs,
            spent,
            copied,
        )
        ran = clock()
        kernels.weighted_sum(pairs, self._place, self.weights, self._bf16, self._out)
        done = clock()
        wall = time.perf_counter() - wall
        copy = int(copied.sum())
        if copied.min() < 0:
            raise ConfigError(Fault("the file of experts cannot be read", "backing"))
        parts = {
            "router": routed - begun,
            "top_k": sorted_at - routed,
            "copy": copy,
            "experts": ran - sorted_at - copy,
            "weighted_sum": done - ran,
        }
        return CpuTiming(
            (done - begun) * 1e-9,
            {name: ns * 1e-9 for name, ns in parts.items()},
            wall,
            spent / 1e9,
            copied / 1e9,
            loaded,
        )

    def output(self) -> Float32:
        """What the last run computed, ``[T, H]``."""
        return self._out

    def inputs(self) -> LayerInputs:
        """Inputs of the last run, with the weights of the experts that ran; zeros for those that did not."""
        shape, given = self.case.shape, self._given
        E, H, F = shape.num_experts, shape.hidden, shape.width
        kind = given.x.dtype
        gate_up, down = np.zeros((E, 2 * F, H), kind), np.zeros((E, H, F), kind)
        for e, start in zip(self.plan.runs, self._homes, strict=True):
            block = self._memory.words[start : start + self._words].view(kind)
            gate_up[e], down[e] = block[: 2 * F * H].reshape(2 * F, H), block[2 * F * H :].reshape(H, F)
        return LayerInputs(given.x, given.router, gate_up, down)

    def close(self) -> None:
        """Give memory back that is this case's own."""

    def _logits(self, x: Float32) -> Float32:
        logits = self._workspace.take("logits", len(x), self.case.shape.num_experts)
        if self._bf16:
            kernels.widen(self._given.router.reshape(-1).view(np.uint16), self._router.reshape(-1))
        np.matmul(x, self._router.T, out=logits)
        return logits

    def _choose(self, logits: Float32) -> None:
        kernels.top_k(logits, self.case.shape.renormalise, self._chosen, self._weight_of)
