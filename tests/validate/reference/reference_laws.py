"""A machine that was calibrated, and devices that follow a law that is known."""

from __future__ import annotations

import numpy as np

from moesim.reference.layer import Case, LayerShape, Timing

MACHINE = """\
schema_version: 1
name: box
title: A box with a CPU
kind: cpu
sources: {run: "made for tests"}
source: run
status: measured
devices:
  cpu:
    title: A CPU
    processors:
      core:
        cores: 1
        peak: {fp32: 100 GFLOP/s, bf16: 100 GFLOP/s}
        kernels:
          measured:
            verdict: measured
            floor: {median: 0.02, p95: 0.05}
            copies: {residual: 0.03}
            machine: {cpu: An abacus}
          fits:
@FITS@
    memories:
      ram: {capacity: 16 GB, bandwidth: 10 GB/s}
node:
  devices: 1
  host:
    title: itself
    sockets: 1
    processor: {cores: 1, peak: {fp32: 100 GFLOP/s}}
    memory: {capacity: 16 GB, bandwidth: 10 GB/s}
  host_link: {name: copies, efficiency: 1, topology: tree, bandwidth: 8 GB/s, latency: 5 us}
  scale_up: {name: memory, bandwidth: 5 GB/s, latency: 1 us, efficiency: 1, domain: 1, topology: tree}
"""
FIT = (
    "            - {kernel: KERNEL, dtype: DTYPE, backend: reference, version: '1', floor_us: FLOOR, "
    "sharpness: 2, axes: [{low: 0, step: 1, knots: 2}, {low: 8, step: 1, knots: 1}, "
    "{low: 8, step: 1, knots: 1}], steps: [40, 80], log_error: [-0.1, 0, 0.1]}"
)
KERNELS = (
    ("expert", "fp32", "3"),
    ("expert", "bf16", "3"),
    ("gemm", "fp32", "2"),
    ("gemm", "bf16", "2"),
    ("top_k", "fp32", "4"),
    ("top_k", "bf16", "4"),
    ("weighted_sum", "fp32", "0"),
    ("weighted_sum", "bf16", "0"),
)


class Law:
    """A device whose runs take what `seconds` says of a case and the number of the run."""

    device = "a law"

    def __init__(self, played, seconds, stray_loads=0):
        self.played, self.seconds, self.stray_loads = played, seconds, stray_loads
        self.open, self.runs = 0, 0

    def prepare(self, case, ids=None):
        self.open += 1
        return Ready(self, case, ids)


class Ready:
    def __init__(self, law, case, ids):
        self.law, self.case, self.ids = law, case, ids
        self.counts = np.bincount(ids.ravel(), minlength=case.shape.num_experts).astype(np.int32)
        self.loads = law.played[case].loads + law.stray_loads

    def run(self):
        self.law.runs += 1
        seconds = self.law.seconds(self.law.played[self.case], self.law.runs)
        return Timing(seconds, {"experts": seconds})

    def output(self):
        raise NotImplementedError

    def close(self):
        self.law.open -= 1


SHAPES = (
    LayerShape("few", 8, 2, 256, 512),
    LayerShape("many", 64, 6, 128, 64, renormalise=False),
)
HELD = tuple(
    Case(shape, tokens, routing, offloaded, dtype)
    for shape in SHAPES
    for tokens, routing, offloaded, dtype in (
        (1, "uniform", 0.0, "fp32"),
        (40, "zipf:1.5", 0.0, "bf16"),
        (300, "uniform", 0.0, "fp32"),
        (12, "zipf:0.8", 0.5, "fp32"),
        (90, "ragged", 0.75, "fp32"),
    )
)
ANCHORS = tuple(Case(LayerShape("anchor", 16, 2, 192, 96), tokens) for tokens in (8, 64, 256))


def machine_text():
    fits = [
        FIT.replace("KERNEL", kernel).replace("DTYPE", dtype).replace("FLOOR", floor)
        for kernel, dtype, floor in KERNELS
    ]
    return MACHINE.replace("@FITS@", "\n".join(fits))
