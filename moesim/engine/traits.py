"""What a serving engine adds to its kernels: a few constants with a meaning, fitted to measured runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from moesim.hardware.types import Link

#: Collectives over a host bridge inside a step, over the same alone: what fits to public runs of vLLM, SGLang
#: and TensorRT-LLM gave when nothing held them: 2.3 +- 0.1, 2.2 +- 0.3 and 1.9 +- 0.1 on H100 to B300.
#: The fits precede this package and are no part of it. Engines' own kernels hide some of that where they have any.
OVER_BRIDGE: Mapping[str, float] = MappingProxyType({"vllm": 2.3, "sglang": 2.2, "trtllm": 1.9})


@dataclass(frozen=True, slots=True)
class Traits:
    """Constants of one serving engine. The defaults add nothing.

    Parameters
    ----------
    host_s
        Seconds of every step in which devices wait for the host: scheduling, sampling, launching.
    communication
        Seconds of collectives inside a step over those of the same collectives alone: in a step, ranks arrive
        at different times.
    request_s
        Seconds a request spends outside of steps: parsing, tokenising, the way back.
    first_steps
        Decode steps that pass between a request's prefill and its first token at the client.
    start_up
        Share of the queue of a benchmark that starts all its requests at once, that is in its mean time to
        first token; ``1 / 10`` for a run of ten waves.
    over_bridge
        As `communication`, where devices meet in a host bridge (PCIe), which NCCL is used over.
    """

    host_s: float = 0.0
    communication: float = 1.0
    request_s: float = 0.0
    first_steps: float = 0.0
    start_up: float = 0.1
    over_bridge: float = 1.0

    def on(self, link: Link) -> Traits:
        """The constants on a machine: `communication` is that of its links."""
        return replace(self, communication=self.over_bridge) if link.topology == "tree" else self
