"""MoE^2 (arXiv 2501.09410): models on edge servers as experts, within limits of energy and delay.

Its text prints no figure that is held here, so that the row is a what-if: four servers of the two kinds it
names, each with a model that its memory holds. Delay is that of the engine, energy the power limit for as
long. Every model is better than the others at prompts of its own kind. What is computed is the quality of the
best set within the limits over that of the best single server within them.
"""

from __future__ import annotations

import functools

import numpy as np

from moesim.engine.deployment import Deployment
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops import Batch, Precision
from moesim.supernode import Servers, choose
from moesim.systems.headlines import headline
from moesim.systems.row import Assumption, Case, Row

#: Machine and model of each server.
HOSTS = (
    ("rtx-4090-workstation", "qwen2.5-7b"),
    ("rtx-4090-workstation", "llama-3.1-8b"),
    ("jetson-agx-orin-32gb", "mistral-7b"),
    ("jetson-agx-orin-32gb", "qwen3-4b"),
)
#: Tokens of a prompt and of an answer, and seconds that an answer may take.
TOKENS, DELAY_S = (512, 128), 15.0


@functools.cache
def answers() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds and joules of an answer on each server."""
    delays, energies = [], []
    for machine, name in HOSTS:
        model, hardware = load_model(name), load_hardware(machine)
        deployment = Deployment(model, hardware, Parallelism(), Precision.of(model, "bf16"))
        prompt, answer = TOKENS
        first = deployment.step(Batch.prefill(1.0, prompt)).seconds[0]
        token = deployment.step(Batch.decode(1.0, prompt + answer / 2.0)).seconds[0]
        delays.append(float(first + (answer - 1) * token))
        energies.append(delays[-1] * (hardware.device.tdp_w or 0.0))
    return tuple(delays), tuple(energies)


def servers(speciality: float) -> Servers:
    """The servers; every model answers prompts of its own kind better by `speciality`, the last by less."""
    delays, energies = answers()
    count = len(HOSTS)
    base = np.linspace(0.65, 0.55, count)
    quality = np.tile(base, (count, 1)) + speciality * np.eye(count)
    return Servers(quality, np.array(energies), np.array(delays), asked=1)


def gain(case: Case) -> float:
    """Quality of the best set over that of the best server, both within the same limits."""
    found = servers(case["speciality"])
    limit = case["energy_j"]
    chosen = choose(found, limit, DELAY_S)
    single = max(found.value((i,)) for i in range(len(HOSTS)) if found.keeps((i,), limit, DELAY_S))
    return found.value(chosen, case["gate"]) / single


ROWS = (
    Row(
        "MoE^2",
        "quality",
        headline("MoE^2"),
        gain,
        "planning",
        "Gate(one of a set) + Placement(set within energy and delay)",
        hardware="2 x rtx-4090-workstation, 2 x jetson-agx-orin-32gb",
        workload="512 + 128 tokens; four models of 4 to 8 billion parameters",
        assumed=(
            Assumption(
                "speciality", 0.15, 0.05, 0.3, "of a model at its own kind of prompt, beside 0.55 to 0.65"
            ),
            Assumption("gate", 0.8, 0.5, 1.0, "share of prompts whose best server the gate finds"),
            Assumption("energy_j", 2000.0, 500.0, 5000.0, "of an answer"),
        ),
        headline=True,
        claims=("MoE^2/1",),
        cause="missing specification",
        reason="a direction alone is claimed; a gate that finds the best server less than half of the time "
        "gains nothing",
    ),
)
