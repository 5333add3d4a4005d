"""What a box can sustain: rates of its GPUs, its links, its CPU and its memories, from its hardware file."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.cost import peak_flops_per_s
from moesim.cost.roofline import at
from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware

#: Sizes at which the efficiency curves are read: what one layer of one micro-batch moves and computes.
LAYER_BYTES, LAYER_FLOPS = 1e9, 1e12
CACHE_BYTES = 1e8


@dataclass(frozen=True, slots=True)
class Machine:
    """Sustained rates of a box, all its GPUs together (tensor parallel); bytes/s and FLOP/s.

    Parameters
    ----------
    gpus
        How many.
    gpu_flops
        Large matrix products in 16 bits.
    gpu_weights
        Reading the weights of experts that few tokens use.
    gpu_cache
        Reading the cache in attention.
    overlap
        Exponent that joins the reading of expert weights and their products, as in the efficiency curves: 1
        where they take turns, infinity where they overlap.
    link_in, link_out
        To and from host memory: pinned copies.
    cpu_flops
        Large matrix products on the CPU.
    cpu_weights
        Reading weights on the CPU.
    cpu_cache
        Reading the cache in attention on the CPU.
    host_copy
        A copy from host memory to host memory: each byte is read and written.
    gpu_bytes, host_bytes
        Capacities.
    """

    gpus: int
    gpu_flops: float
    gpu_weights: float
    gpu_cache: float
    overlap: float
    link_in: float
    link_out: float
    cpu_flops: float
    cpu_weights: float
    cpu_cache: float
    host_copy: float
    gpu_bytes: float
    host_bytes: float

    @classmethod
    def of(cls, hardware: Hardware) -> Machine:
        """The rates of one node of a machine.

        Raises
        ------
        ConfigError
            If the description has no host or no link to it.

        Examples
        --------
        >>> from moesim.hardware import load_hardware
        >>> machine = Machine.of(load_hardware("t4"))
        >>> round(machine.link_in / 1e9), round(machine.gpu_flops / 1e12)
        (12, 24)
        """
        host, link = hardware.host, hardware.host_link
        if host is None or link is None:
            faults = [
                Fault("missing", f"node.{name}", None, "a machine with a host and a link to it")
                for name, part in (("host", host), ("host_link", link))
                if part is None
            ]
            raise ConfigError(faults)
        device, count = hardware.device, hardware.devices_per_node
        gpu, cpu = device.processor, host.processor
        gpu_bandwidth = gpu.bandwidth_bytes_per_s[device.memory.name]
        cpu_bandwidth = cpu.bandwidth_bytes_per_s["ram"]
        gemm = gpu.efficiency_of("gemm", "bf16")
        experts = gpu.efficiency_of("expert_gemm", "bf16")
        attention = gpu.efficiency_of("attention_decode", "bf16")
        cpu_gemm = cpu.efficiency_of("expert_gemm", "bf16")
        cpu_attention = cpu.efficiency_of("attention_decode", "bf16")
        pinned = count * link.bandwidth_bytes_per_s * link.efficiency
        return cls(
            gpus=count,
            gpu_flops=count * peak_flops_per_s(gpu, "bf16") * float(at(gemm.compute, LAYER_FLOPS)),
            gpu_weights=count * gpu_bandwidth * float(at(experts.memory, LAYER_BYTES)),
            gpu_cache=count * gpu_bandwidth * float(at(attention.memory, CACHE_BYTES)),
            overlap=experts.sharpness,
            link_in=pinned,
            link_out=pinned,
            cpu_flops=peak_flops_per_s(cpu, "bf16") * float(at(cpu_gemm.compute, LAYER_FLOPS)),
            cpu_weights=cpu_bandwidth * float(at(cpu_gemm.memory, LAYER_BYTES)),
            cpu_cache=cpu_bandwidth * float(at(cpu_attention.memory, CACHE_BYTES)),
            host_copy=cpu_bandwidth * float(at(cpu_gemm.memory, LAYER_BYTES)) / 2.0,
            gpu_bytes=count * device.memory.capacity_bytes,
            host_bytes=host.memory.capacity_bytes,
        )
