"""The simulator against the steady-state model, where both apply.

The steady-state model reads prompts in full steps of their own, on all lanes at once; requests start at any
time. A simulated engine reads them beside decoding sequences, whose weights it loads anyway, on one lane as
the others wait; and in a closed loop requests start when a step ends. They apply both where one lane decodes
and prompts cost little of its time: there they agree. Elsewhere a third account, of single steps of the
engine's model, says which one is right.
"""

from __future__ import annotations

import numpy as np
import pytest

from moesim.correction import calibration_of
from moesim.engine.traits import Traits
from moesim.hardware import load_hardware
from moesim.layout.parallelism import Parallelism
from moesim.model import load_model
from moesim.ops import Batch
from moesim.prediction import Engine, Workload, predict
from moesim.prediction.kept import deployment_of
from moesim.requests import request_trace
from moesim.serving.simulate import simulate

SPREAD = 0.5
#: Model, layout, clients, prompt, mean output.
CALM = {
    "dense-1": ("llama-3.1-8b", Parallelism(), 1, 512, 128),
    "dense-4": ("llama-3.1-8b", Parallelism(), 4, 512, 256),
    "dense-64": ("llama-3.1-8b", Parallelism(), 64, 128, 512),
    "dense-128": ("llama-3.1-8b", Parallelism(), 128, 256, 1000),
    "dense-tp4": ("llama-2-70b", Parallelism(tp=4), 32, 200, 1000),
    "moe-tp8": ("mixtral-8x7b", Parallelism(tp=8), 32, 128, 600),
}
BUSY = {
    "dense-16": ("llama-3.1-8b", Parallelism(), 16, 512, 256),
    "dense-32": ("llama-3.1-8b", Parallelism(), 32, 2048, 256),
    "moe-64": ("gpt-oss-120b", Parallelism(tp=2, ep=2), 64, 512, 512),
}


def served(name, layout, clients, prompt, output):
    """Mean TTFT, TPOT and E2EL once the clients have lost step with each other."""
    n = 14 * clients if clients > 1 else 40
    rng = np.random.default_rng(1)
    outputs = rng.integers(round(output * (1 - SPREAD)), round(output * (1 + SPREAD)) + 1, n)
    trace = request_trace(np.zeros(n), np.full(n, prompt), outputs, concurrency=clients)
    hardware = load_hardware("h100-sxm-8")
    outcome = simulate(load_model(name), hardware, layout, trace, traits=Traits())
    kept = slice(4 * clients, n - 2 * clients)
    ttft, e2el, later = outcome.ttft_s[kept], outcome.e2el_s[kept], outputs[kept] - 1
    return ttft.mean(), (e2el - ttft).sum() / later.sum()


@pytest.mark.parametrize("case", CALM)
def test_calm_loops_agree_with_the_steady_state(case):
    name, layout, clients, prompt, output = CALM[case]
    ttft, tpot = served(*CALM[case])
    load = Workload(prompt, output, concurrency=clients)
    found = predict(
        load_model(name), load_hardware("h100-sxm-8"), layout, load, calibration=calibration_of("none")
    )
    # Prompts cost less than a tenth of the time.
    assert (clients - 1) / output * found.prefill_s < 0.1 * found.tpot_s
    assert tpot == pytest.approx(found.tpot_s, rel=0.03)
    # The whole, of which the wait for the first token is little.
    assert ttft + (output - 1) * tpot == pytest.approx(found.e2el_s, rel=0.03)
    if clients == 1:
        assert ttft == pytest.approx(found.ttft_s, rel=0.01)


@pytest.mark.parametrize("case", CALM | BUSY)
def test_single_steps_explain_what_the_simulator_says(case):
    """While a request decodes, the others start once each, in a step that grows by the prompt."""
    name, layout, clients, prompt, output = (CALM | BUSY)[case]
    ttft, tpot = served(*(CALM | BUSY)[case])
    one = deployment_of(load_model(name), load_hardware("h100-sxm-8"), layout, Engine(), None, None, 0)
    # A request that is met while it runs is a long one: its mean is weighted by its length.
    context = prompt + output / 2.0 * (1.0 + SPREAD**2 / 3.0)
    alone = one.step(Batch.decode(float(clients), context)).seconds[0]
    both = one.step(Batch.of(clients - 1.0, context, prompts=1.0, chunk=float(prompt))).seconds[0]
    assert tpot == pytest.approx(alone + (clients - 1) / output * (both - alone), rel=0.02)
    # A request is sent when a step ends and read in the next one, now and then beside another's prompt.
    assert both * 0.97 <= ttft <= both * 1.25


@pytest.mark.parametrize("case", BUSY)
def test_busy_loops_are_where_the_steady_state_is_off(case):
    """Prompts that share steps cost less than steps of their own, exchanges of many tokens more."""
    name, layout, clients, prompt, output = BUSY[case]
    _, tpot = served(*BUSY[case])
    load = Workload(prompt, output, concurrency=clients)
    found = predict(
        load_model(name), load_hardware("h100-sxm-8"), layout, load, calibration=calibration_of("none")
    )
    assert abs(tpot / found.tpot_s - 1.0) > 0.03
