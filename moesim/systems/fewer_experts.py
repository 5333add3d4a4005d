"""Faster MoE LLM Inference (arXiv:2505.03531): serving with fewer experts, on SGLang v0.4.4.

A model keeps its layers and loses experts, active ones or all; the engine serves it in a closed loop. Three
facts of that engine are not in today's kernels, and one more with fp8 weights:

* steps of more sequences than its largest CUDA graph are started kernel by kernel;
* its absorbed latent attention copies queries and keys together and rotates them with plain element-wise
  kernels (`SMALL_KERNELS`);
* on Ampere it decodes with a Triton kernel, for which TensorRT-LLM's does not stand in: the efficiency of the
  family does;
* on Hopper its fp8 products and its latent attention are Triton's of that time (`moesim.systems.triton_fp8`),
  and the compressed query and the latent are two products (one since pull request 5619, April 2025).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.engine.deployment import Deployment
from moesim.engine.eager import LAUNCH_S, launches
from moesim.engine.load import Load
from moesim.engine.memory import UTILISATION
from moesim.engine.steady import steady
from moesim.engine.traits import Traits
from moesim.hardware.types import Hardware
from moesim.layout import Parallelism
from moesim.metrics import e2el_s, request_throughput, total_token_throughput
from moesim.model.types import Model, MoE
from moesim.ops import Precision
from moesim.systems.parts import KERNEL_S
from moesim.systems.triton_fp8 import OLD, with_old_kernels

Array = npt.NDArray[np.float64]
#: Small kernels of a layer that the table of ops does not have. Copies: the two parts of queries and of keys,
#: and the latent made contiguous (5). Rotation in plain PyTorch: look-up, two repetitions, and multiply,
#: negate, stack, multiply, add for queries and keys (13, of which the table has 1). Norm of the latent,
#: second stage of split decoding, scaling of the routed and addition of the shared output (4). As in SGLang's
#: ``forward_absorb`` and ``DeepseekScalingRotaryEmbedding``.
SMALL_KERNELS = 5 + 12 + 4
#: And with block-scaled fp8 weights and grouped routing: activations quantised before each of six products
#: and twice among the experts (8), group-limited choice of experts in plain PyTorch (12), norm of the
#: compressed query, router in another type (2), and both absorbed products quantised per tensor by trivial
#: kernels (15: what one kernel in their place saved, 1.0 ms in 27 layers, over `KERNEL_S`; pull request 5370
#: of April 2025).
FP8_KERNELS = 8 + 12 + 2 + 15
#: Sequences of the largest graph: 160, or 256 with more than 80 GB free (defaults of sgl-project's engines).
GRAPH_SEQUENCES = (160.0, 256.0)
ROOMY_BYTES = 80e9


@functools.cache
def narrowed(model: Model, top_k: int, num_experts: int | None = None) -> Model:
    """The model with another number of active experts, or of experts."""
    layers = []
    for layer in model.layers:
        if isinstance(layer.ffn, MoE):
            ffn = replace(layer.ffn, top_k=top_k, num_experts=num_experts or layer.ffn.num_experts)
            layers.append(replace(layer, ffn=ffn))
        else:
            layers.append(layer)
    return replace(model, layers=tuple(layers))


def own_kernels(hardware: Hardware, backend: str) -> Hardware:
    """The machine without kernels of latent attention that only other engines were measured with."""
    processor = hardware.device.processor
    known = {
        key: surface
        for key, surface in processor.kernels.items()
        if not key[0].startswith("mla_") or key[2] == backend
    }
    device = hardware.device
    processors = (replace(processor, kernels=known), *device.processors[1:])
    return replace(hardware, device=replace(device, processors=processors))


@dataclass(frozen=True, slots=True)
class OldEngine:
    """What decides beside the kernels.

    Parameters
    ----------
    small_kernels
        Of a layer, beyond the table of ops; those of fp8 weights come on top.
    launch_s
        Host seconds of a kernel that is in no graph.
    graph_sequences
        Sequences of the largest graph; None is the engine's default for the memory that is free.
    """

    small_kernels: float = SMALL_KERNELS
    launch_s: float = LAUNCH_S
    graph_sequences: float | None = None


def throughput(
    model: Model,
    hardware: Hardware,
    layout: Parallelism,
    concurrency: Array,
    input_len: Array | float = 1024.0,
    output_len: Array | float = 1024.0,
    engine: OldEngine | None = None,
    seed: int = 0,
) -> Array:
    """Tokens in and out per second of closed loops.

    Parameters
    ----------
    model, hardware, layout
        What is served, on what, how.
    concurrency
        Requests at once, ``[batches]``.
    input_len, output_len
        Tokens of a request, one number or ``[batches]``.
    engine
        `OldEngine`.
    seed
        Of the routing draws.
    """
    engine = OldEngine() if engine is None else engine
    own = own_kernels(hardware, "sglang")
    precision = Precision.of(model)
    apart_s = 0.0
    if precision.block_scaled:
        own = with_old_kernels(own)
        apart_s = model.num_layers * OLD.latency_s(model.hidden)
    small = engine.small_kernels + (FP8_KERNELS if precision.block_scaled else 0)
    small *= model.num_layers
    traits = Traits(host_s=small * KERNEL_S + apart_s)
    captured = Deployment(model, own, layout, precision, seed=seed, backend="sglang", traits=traits)
    sizes = np.asarray(concurrency, dtype=np.float64)
    load = Load(
        np.broadcast_to(np.asarray(input_len, dtype=np.float64), sizes.shape),
        np.broadcast_to(np.asarray(output_len, dtype=np.float64), sizes.shape),
        sizes,
    )
    memory = captured.memory(load.chunk_tokens, UTILISATION)
    graphed = steady(captured, load, memory)
    # The small kernels are started by the host like all others.
    counted = launches(graphed.decode.step.work)
    started = engine.launch_s * (1.0 + small / counted)
    eager = steady(captured.but(launch_s=started), load, memory)
    most = engine.graph_sequences
    if most is None:
        most = GRAPH_SEQUENCES[memory.capacity_bytes - memory.weights_bytes > ROOMY_BYTES]
    answers = []
    for state in (graphed, eager):
        whole = e2el_s(state.ttft_s, state.tpot_s, load.output_len)
        answers.append(
            total_token_throughput(
                request_throughput(load.concurrency, whole), load.input_len, load.output_len
            )
        )
    return np.where(graphed.running / layout.dp <= most, answers[0], answers[1])
