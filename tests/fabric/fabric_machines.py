"""Small machines of every topology, as YAML text, for the tests of this folder."""

from __future__ import annotations

from moesim.hardware import load_hardware

HEAD = """schema_version: 1
name: toy
title: A toy
kind: gpu
sources: {t: a test}
source: t
devices:
  d:
    title: D
    processors: {p: {cores: 10, peak: {bf16: 100 TFLOP/s}}}
    memories: {m: {capacity: 10 GB, bandwidth: 1 TB/s}}
node:
  devices: %d
  scale_up: %s
%s"""


def link(topology, bandwidth=1e11, latency=1e-6, efficiency=0.8, **more):
    parts = {"name": topology.replace("_", "-"), "topology": topology, "bandwidth": f"{bandwidth} B/s"}
    parts |= {"latency": f"{latency} s", "efficiency": efficiency, **more}
    return "{" + ", ".join(f"{key}: {value}" for key, value in parts.items()) + "}"


def machine(folder, devices, up, network=None, nodes=1, fabric=""):
    rest = f"cluster:\n  default_nodes: {nodes}\n  network: {network}\n" if network else ""
    path = folder / "toy.yaml"
    path.write_text(HEAD % (devices, up, rest + fabric))
    return load_hardware(str(path), nodes)


def fabric_text(switches, wires, topology="any"):
    lines = [f"fabric:\n  topology: {topology}\n  switches: [{', '.join(switches)}]\n  links:"]
    for a, b, bandwidth, latency in wires:
        lines.append(f'    - {{ends: ["{a}", "{b}"], bandwidth: {bandwidth} B/s, latency: {latency} s}}')
    return "\n".join(lines) + "\n"
