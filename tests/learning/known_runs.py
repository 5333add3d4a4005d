"""Runs whose truth is known: physics of round numbers, effects that were put in, no real measurement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.correction import Identity
from moesim.layout import Parallelism
from moesim.learning.held_out import Table
from moesim.learning.traits_fit import Probes
from moesim.validate.physics import PREDICTED, Physics
from moesim.validate.rows import ServingRow

ROW = ServingRow(
    line=1,
    id="r",
    source="lab",
    backend="vllm",
    version="1",
    model_path="org/one",
    model="gpt-oss-120b",
    system="h100_sxm",
    hardware="h100-sxm-8",
    nodes=None,
    precision="fp8",
    dtype="fp8",
    mode="agg",
    isl=1024.0,
    osl=512.0,
    concurrency=16.0,
    layout=Parallelism(tp=8),
    prefill=None,
    decode=None,
    measured="2026-02-01",
    config_id="7",
    campaign="lab 2026-02-01",
    repairs=(),
    doubtful="",
    ttft_ms=100.0,
    tpot_ms=10.0,
)
MODELS = ("gpt-oss-120b", "minimax-m2.5", "qwen3-235b-a22b", "kimi-k2.5")
SYSTEMS = ("h100-sxm-8", "h200-sxm-8", "b200-sxm-8")
LOADS = (4.0, 16.0, 64.0, 256.0)


def table(
    seed: int = 0,
    *,
    own: float = 0.15,
    noise: float = 0.02,
    models: tuple[str, ...] = MODELS,
    layouts: int = 2,
) -> Table:
    """Every model, system and layout at four loads; an effect of each layout, and noise."""
    rng = np.random.default_rng(seed)
    rows: list[ServingRow] = []
    beyond: list[float] = []
    for model in models:
        for hardware in SYSTEMS:
            for tp in (8, 4, 2, 1)[:layouts]:
                effect = rng.normal(0.0, own)
                for load in LOADS:
                    row = replace(
                        ROW, model=model, hardware=hardware, layout=Parallelism(tp=tp), concurrency=load
                    )
                    rows.append(replace(row, id=f"r{len(rows)}"))
                    beyond.append(effect + rng.normal(0.0, noise))
    n = len(rows)
    load = np.array([row.concurrency for row in rows])
    physics = physics_of_loads(load)
    tpot = physics.tpot_s * np.exp(beyond)
    ttft = (physics.ttft_fixed_s + physics.ttft_steps * tpot) * np.exp(rng.normal(0.0, noise, n))
    return measured(rows, physics, tpot, ttft)


def physics_of_loads(load: np.ndarray) -> Physics:
    """Round numbers that rise with the load."""
    n = len(load)
    tpot = 0.005 + 1e-4 * load
    return Physics(
        tpot,
        0.05 + 1e-3 * load,
        np.ones(n),
        tpot / 2.0,
        np.full(n, 0.01),
        load,
        [PREDICTED] * n,
        [""] * n,
        ["fp8"] * n,
    )


def measured(rows: list[ServingRow], physics: Physics, tpot: np.ndarray, ttft: np.ndarray) -> Table:
    """Rows that say what they measured."""
    rows = [
        replace(row, tpot_ms=1e3 * float(a), ttft_ms=1e3 * float(b))
        for row, a, b in zip(rows, tpot, ttft, strict=True)
    ]
    identities = [
        Identity(
            r.model, r.hardware, r.backend, "fp8", r.layout, source="lab", campaign=r.campaign, month=13.0
        )
        for r in rows
    ]
    values = [
        i.values(*(np.array([v]) for v in (r.isl, r.osl, r.concurrency)))
        for i, r in zip(identities, rows, strict=True)
    ]
    return Table(tuple(rows), tuple(i.labels() for i in identities), np.vstack(values), physics, tpot, ttft)


def probes(found: Table) -> Probes:
    """The same rows, with queues and requests that constants of engines act on."""
    load = np.array([row.concurrency for row in found.rows])
    return Probes(found.rows, found.physics, {"request_s": np.ones(len(load)), "start_up": 0.002 * load})
