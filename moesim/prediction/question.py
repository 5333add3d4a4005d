"""What is asked: traffic, engine settings, and whether they make sense together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.engine.deployment import BACKENDS, OVERLAPS
from moesim.engine.load import Load
from moesim.engine.memory import UTILISATION
from moesim.engine.routing import ASSUMED
from moesim.engine.speculation import Speculation
from moesim.errors import ConfigError, Fault, TraceError
from moesim.hardware.types import Hardware
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.layout.sharing import dispatch_faults
from moesim.model.types import Model
from moesim.trace.types import LoadCounts, RoutingTrace

#: Beyond this a number is a slip, not a question.
_MOST = 1e12
_MOST_DRAFTS = 16


@dataclass(frozen=True, slots=True)
class Workload:
    """Traffic: so many requests at once, or so many per second.

    Parameters
    ----------
    input_len, output_len
        Tokens per request, on average.
    concurrency
        Requests in the system of the whole deployment, each followed by the next: a closed loop.
    request_rate
        Requests per second, whether or not earlier ones are answered: an open loop.
    """

    input_len: float
    output_len: float
    concurrency: float | None = None
    request_rate: float | None = None

    def faults(self) -> list[Fault]:
        """What is wrong with the numbers."""
        found = [
            Fault("must be at least 1, and finite", f"--{name.replace('_', '-')}", value, "1 to 1e12")
            for name in ("input_len", "output_len", "concurrency")
            if (value := getattr(self, name)) is not None and not 1 <= value <= _MOST
        ]
        if self.request_rate is not None and not 0 < self.request_rate <= _MOST:
            found.append(
                Fault("must be above 0, and finite", "--request-rate", self.request_rate, "0 to 1e12")
            )
        if (self.concurrency is None) == (self.request_rate is None):
            found.append(Fault("either says how much traffic there is", "--concurrency or --request-rate"))
        return found


@dataclass(frozen=True, slots=True)
class Engine:
    """Settings of the serving engine.

    Parameters
    ----------
    dtype, kv_cache_dtype
        Data types of weights and cache; ``auto`` is the checkpoint's, and 16 bits.
    overlap
        ``none``, ``two-batch`` or ``streams``; see `moesim.engine.deployment.Deployment`.
    chunk_tokens
        Tokens a data-parallel rank prefills in one step (``--max-num-batched-tokens``).
    max_sequences
        Sequences a data-parallel rank decodes at most (``--max-num-seqs``).
    memory_utilisation
        Fraction of device memory the engine may use (``--gpu-memory-utilization``).
    scheduler_recv_interval
        Decode steps after which the engine looks for new requests (``--scheduler-recv-interval`` of SGLang),
        half of which they wait on average.
    backend
        The engine whose measured kernels and constants are used: ``vllm``, ``sglang`` or ``trtllm``.
    speculative_tokens
        Tokens that are drafted per sequence and step by the model's prediction head (MTP), or one like a
        layer of it (EAGLE); 0 for none. None is unknown: the answer is without, and where the model has a
        head the interval holds both.
    acceptance_rate
        Probability that a draft is accepted once those before it were. None is a usual one, and the interval
        then reaches from no draft accepted to all.
    enforce_eager
        Whether steps run without CUDA graphs; see `moesim.engine.eager`.
    routing
        How unequally experts are assumed to be loaded where there is no trace: ``typical`` of recorded
        traffic, or ``uniform``; see `moesim.engine.routing`.
    dispatch
        How the engine chooses among replicas of an expert, one of `moesim.layout.DISPATCH`. Without data
        parallelism all ranks see all tokens, and share them evenly whatever is said here.
    """

    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    overlap: str = "none"
    chunk_tokens: float = 8192
    max_sequences: float = 1024
    memory_utilisation: float = UTILISATION
    scheduler_recv_interval: float = 1.0
    backend: str = "vllm"
    speculative_tokens: int | None = None
    acceptance_rate: float | None = None
    enforce_eager: bool = False
    routing: str = "typical"
    dispatch: str = "even"

    @property
    def speculation(self) -> Speculation:
        """The drafts of a step."""
        tokens = self.speculative_tokens or 0
        return (
            Speculation(tokens) if self.acceptance_rate is None else Speculation(tokens, self.acceptance_rate)
        )

    def faults(self) -> list[Fault]:
        """What is wrong with the settings."""
        found = []
        if self.overlap not in OVERLAPS:
            found.append(Fault("unknown overlap", "--overlap", self.overlap, ", ".join(OVERLAPS)))
        if self.backend not in BACKENDS:
            found.append(Fault("unknown backend", "--backend", self.backend, ", ".join(BACKENDS)))
        if self.routing not in ASSUMED:
            found.append(Fault("unknown routing", "--routing", self.routing, ", ".join(ASSUMED)))
        found += dispatch_faults(self.dispatch, "--dispatch")
        for option, value in (
            ("--max-num-batched-tokens", self.chunk_tokens),
            ("--max-num-seqs", self.max_sequences),
            ("--scheduler-recv-interval", self.scheduler_recv_interval),
        ):
            if not 1 <= value <= _MOST:
                found.append(Fault("must be at least 1, and finite", option, value, "1 to 1e12"))
        if not 0 < self.memory_utilisation <= 1:
            found.append(
                Fault("is a fraction", "--gpu-memory-utilization", self.memory_utilisation, "0 to 1")
            )
        if self.speculative_tokens is not None and not 0 <= self.speculative_tokens <= _MOST_DRAFTS:
            found.append(
                Fault(
                    "is a number of tokens",
                    "--speculative-tokens",
                    self.speculative_tokens,
                    f"0 to {_MOST_DRAFTS}",
                )
            )
        if self.acceptance_rate is not None and not 0 <= self.acceptance_rate <= 1:
            found.append(Fault("is a fraction", "--acceptance-rate", self.acceptance_rate, "0 to 1"))
        return found


def check(
    model: Model,
    hardware: Hardware,
    layout: Parallelism | Disaggregated,
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
    ep = layout.decode.layout.ep if isinstance(layout, Disaggregated) else layout.ep
    if plan is not None and plan.ranks != ep:
        found.append(Fault(f"the placement is for {plan.ranks} ranks", "--ep", ep, str(plan.ranks)))
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
    """The traffic as arrays; either all workloads have a rate, or none."""
    columns = np.array(
        [(w.input_len, w.output_len, w.concurrency or 1.0, w.request_rate or 0.0) for w in workloads],
        dtype=np.float64,
    ).T
    return Load(
        columns[0],
        columns[1],
        columns[2],
        engine.chunk_tokens,
        engine.max_sequences,
        columns[3] if columns[3].any() else None,
        # Half of a step is waited for in any case.
        (engine.scheduler_recv_interval - 1.0) / 2.0,
    )
