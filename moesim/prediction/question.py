"""What is asked: traffic, engine settings, and whether they make sense together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.engine.deployment import BACKENDS, OVERLAPS
from moesim.engine.memory import UTILISATION
from moesim.engine.steady import Load
from moesim.errors import ConfigError, Fault, TraceError
from moesim.hardware.types import Hardware
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model
from moesim.trace.types import LoadCounts, RoutingTrace

#: Beyond this a number is a slip, not a question.
_MOST = 1e12


@dataclass(frozen=True, slots=True)
class Workload:
    """Traffic in a closed loop.

    Parameters
    ----------
    input_len, output_len
        Tokens per request.
    concurrency
        Requests in the system of the whole deployment.
    """

    input_len: float
    output_len: float
    concurrency: float

    def faults(self) -> list[Fault]:
        """What is wrong with the numbers."""
        return [
            Fault("must be at least 1, and finite", f"--{name.replace('_', '-')}", value, "1 to 1e12")
            for name in ("input_len", "output_len", "concurrency")
            if not 1 <= (value := getattr(self, name)) <= _MOST
        ]


@dataclass(frozen=True, slots=True)
class Engine:
    """Settings of the serving engine.

    Parameters
    ----------
    dtype, kv_cache_dtype
        Data types of weights and cache; ``auto`` is the checkpoint's, and 16 bits.
    overlap
        ``none`` or ``two-batch``.
    chunk_tokens
        Tokens a data-parallel rank prefills in one step (``--max-num-batched-tokens``).
    max_sequences
        Sequences a data-parallel rank decodes at most (``--max-num-seqs``).
    memory_utilisation
        Fraction of device memory the engine may use (``--gpu-memory-utilization``).
    stream_interval
        Tokens an engine collects before it sends them, the first included (``--stream-interval`` of SGLang,
        ``stream_interval`` of TensorRT-LLM): the client sees the first token as many steps later. None is
        what was found for the backend.
    backend
        The engine whose measured kernels are used: ``vllm``, ``sglang`` or ``trtllm``.
    """

    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    overlap: str = "none"
    chunk_tokens: float = 8192
    max_sequences: float = 1024
    memory_utilisation: float = UTILISATION
    stream_interval: float | None = None
    backend: str = "vllm"

    def faults(self) -> list[Fault]:
        """What is wrong with the settings."""
        found = []
        if self.overlap not in OVERLAPS:
            found.append(Fault("unknown overlap", "--overlap", self.overlap, ", ".join(OVERLAPS)))
        if self.backend not in BACKENDS:
            found.append(Fault("unknown backend", "--backend", self.backend, ", ".join(BACKENDS)))
        for option, value in (
            ("--max-num-batched-tokens", self.chunk_tokens),
            ("--max-num-seqs", self.max_sequences),
            ("--stream-interval", self.stream_interval),
        ):
            if value is not None and not 1 <= value <= _MOST:
                found.append(Fault("must be at least 1, and finite", option, value, "1 to 1e12"))
        if not 0 < self.memory_utilisation <= 1:
            found.append(
                Fault("is a fraction", "--gpu-memory-utilization", self.memory_utilisation, "0 to 1")
            )
        return found


def check(
    model: Model,
    hardware: Hardware,
    layout: Parallelism,
    workloads: Sequence[Workload],
    trace: RoutingTrace | LoadCounts | None,
    plan: ExpertMap | None,
    engine: Engine,
) -> None:
    """Raise with every fault of a question before it is answered."""
    redundant = plan.redundant if plan is not None else 0
    found = layout.faults(model, hardware, redundant) + engine.faults()
    for workload in workloads:
        found += workload.faults()
    if plan is not None and plan.ranks != layout.ep:
        found.append(Fault(f"the placement is for {plan.ranks} ranks", "--ep", layout.ep, str(plan.ranks)))
    if found:
        raise ConfigError(found)
    if trace is not None:
        check_routing(trace, model)


def check_routing(trace: RoutingTrace | LoadCounts, model: Model) -> None:
    """Raise `TraceError` naming everything in which a trace is not the model's."""
    wanted = {"MoE layers": len(model.moe_layer_ids), "experts": model.num_experts, "top-k": model.top_k}
    has = {"MoE layers": len(trace.moe_layer_ids), "experts": trace.num_experts, "top-k": trace.top_k}
    found = [
        Fault(f"the trace has {has[name]} {name}, {model.name} has {wanted[name]}")
        for name in wanted
        if has[name] is not None and has[name] != wanted[name]
    ]
    if found:
        raise TraceError(found, trace.source or "trace")


def load_of(workloads: Sequence[Workload], engine: Engine) -> Load:
    """The traffic as arrays."""
    columns = np.array([(w.input_len, w.output_len, w.concurrency) for w in workloads], dtype=np.float64).T
    return Load(
        columns[0],
        columns[1],
        columns[2],
        engine.chunk_tokens,
        engine.max_sequences,
        engine.stream_interval,
    )
