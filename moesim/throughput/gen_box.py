"""The rates of a box at what MoE-Gen asks of it: products, copies over the link, attention on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.cost.roofline import at, peak_flops_per_s
from moesim.errors import ConfigError, Fault
from moesim.hardware.curves import Efficiency
from moesim.hardware.types import Hardware

Array = npt.NDArray[np.float64]

#: Bytes of GPU memory that the driver's context, the allocator's slack and libraries take. No source; the
#: usual order of magnitude, and too little to change a policy.
CONTEXT_BYTES = 1e9


@dataclass(frozen=True, slots=True)
class StreamBox:
    """One GPU, its link to the host and the host.

    Parameters
    ----------
    name
        Of the hardware.
    gpu_bytes, gpu_bytes_per_s
        Memory of the GPU and its bare bandwidth.
    gpu_flops_per_s
        Bare peak of 16-bit products.
    gemm, flash, passes
        Efficiency of products, of fused attention over prompts, and of elementwise passes over memory.
    link_bytes_per_s
        What copies from the host reach; the other direction is as fast and its own.
    host_bytes, host_bytes_per_s
        Memory of the host and what its CPU reaches of its bandwidth.
    cpu_flops_per_s
        What the CPU reaches in 32 bits.
    cpu_pace_bytes_per_s
        Cached bytes that the CPU's attention goes through in a second when four query heads share one; None
        for what bandwidth and arithmetic allow.
    """

    name: str
    gpu_bytes: float
    gpu_bytes_per_s: float
    gpu_flops_per_s: float
    gemm: Efficiency
    flash: Efficiency
    passes: Efficiency
    link_bytes_per_s: float
    host_bytes: float
    host_bytes_per_s: float
    cpu_flops_per_s: float
    cpu_pace_bytes_per_s: float | None = None

    @classmethod
    def of(cls, hardware: Hardware) -> StreamBox:
        """The box of a hardware file.

        Raises
        ------
        ConfigError
            If it has no host, or no link to it.
        """
        host, link = hardware.host, hardware.host_link
        if host is None or link is None:
            raise ConfigError(
                Fault("has no host memory to stream from", "hardware", hardware.name, "host, host_link")
            )
        gpu, memory = hardware.device.processor, hardware.device.memory
        cpu = host.processor
        spent = cpu.efficiency_of("attention_decode", "fp32")
        return cls(
            name=hardware.name,
            gpu_bytes=memory.capacity_bytes,
            gpu_bytes_per_s=gpu.bandwidth_bytes_per_s[memory.name],
            gpu_flops_per_s=peak_flops_per_s(gpu, "bf16"),
            gemm=gpu.efficiency_of("gemm", "bf16"),
            flash=gpu.efficiency_of("attention_prefill", "bf16"),
            passes=gpu.efficiency_of("elementwise", "bf16"),
            link_bytes_per_s=link.bandwidth_bytes_per_s * link.efficiency,
            host_bytes=host.memory.capacity_bytes,
            host_bytes_per_s=host.memory.bandwidth_bytes_per_s * spent.memory[0][1],
            cpu_flops_per_s=max(cpu.peak_flops_per_s.values()) * spent.compute[0][1],
        )

    def but(
        self,
        *,
        link_bytes_per_s: float | None = None,
        cpu_pace_bytes_per_s: float | None = None,
        host_bytes: float | None = None,
    ) -> StreamBox:
        """The same box with what was measured on it."""
        return replace(
            self,
            link_bytes_per_s=link_bytes_per_s or self.link_bytes_per_s,
            cpu_pace_bytes_per_s=cpu_pace_bytes_per_s or self.cpu_pace_bytes_per_s,
            host_bytes=host_bytes or self.host_bytes,
        )

    def gemm_s(self, flops: Array | float, data_bytes: Array | float, launches: Array | float = 1.0) -> Array:
        """Seconds of `launches` equal products of together these operations, and of elementwise bytes beside.

        Products are at their measured efficiency for the size of one; the bytes of the passes around them are
        at the bandwidth that passes reach, and come on top, since PyTorch runs them one after another.
        """
        launches = np.maximum(launches, 1.0)
        work = np.asarray(flops, dtype=np.float64)
        compute = work / (self.gpu_flops_per_s * at(self.gemm.compute, work / launches))
        moved = np.asarray(data_bytes, dtype=np.float64) / (self.gpu_bytes_per_s * self.passes.memory[0][1])
        return np.asarray(compute + moved + launches * self.gemm.floor_s)

    def weights_s(self, weight_bytes: Array | float) -> Array:
        """Seconds to read weights from the GPU's memory, a floor of every product."""
        data = np.asarray(weight_bytes, dtype=np.float64)
        return np.asarray(data / (self.gpu_bytes_per_s * at(self.gemm.memory, np.maximum(data, 1.0))))

    def flash_s(self, flops: Array | float) -> Array:
        """Seconds of fused attention over prompts."""
        work = np.asarray(flops, dtype=np.float64)
        return np.asarray(work / (self.gpu_flops_per_s * at(self.flash.compute, work)))

    def cpu_attention_bytes_per_s(self, group: int) -> float:
        """Cached bytes that the CPU goes through in a second when `group` query heads share each.

        Every query head multiplies and adds once per cached element of two bytes: `group` operations a byte.
        A kernel whose pace is known for four heads is taken to be bound by that arithmetic.
        """
        if self.cpu_pace_bytes_per_s is not None:
            return self.cpu_pace_bytes_per_s * min(4.0 / group, 1.0)
        return min(self.host_bytes_per_s, self.cpu_flops_per_s / group)
