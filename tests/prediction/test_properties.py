"""What must hold whatever the configuration: limits, conservation, the right direction of every change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moesim as ms
from moesim.correction import calibration_of
from moesim.engine.experts import PER_OCTAVE
from moesim.errors import InfeasibleError
from moesim.hardware.curves import Efficiency
from moesim.prediction.kept import deployment_of
from moesim.prediction.question import load_of
from moesim.prediction.sweep import sweep

# What no public measurement is of is asked about as well.
pytestmark = pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")

LAYOUTS = {
    "gpt-oss-20b": [
        (1, 1, 1, 1),
        (4, 1, 1, 4),
        (8, 1, 1, 1),
        (1, 1, 8, 8),
        (2, 1, 4, 8),
        (2, 2, 2, 4),
        (1, 1, 4, 1),
    ],
    "deepseek-v3": [(8, 1, 1, 8), (1, 1, 8, 8), (2, 1, 16, 32), (8, 2, 2, 16), (1, 1, 32, 32), (4, 1, 8, 16)],
    "qwen3-30b-a3b": [(1, 1, 1, 1), (4, 1, 2, 8), (1, 1, 16, 16), (2, 4, 1, 2)],
    "llama-3.1-8b": [(1, 1, 1, 1), (8, 1, 1, 1), (2, 2, 4, 1)],
}
MACHINES = {name: ms.load_hardware(name, nodes=4) for name in ("h200-sxm-8", "b200-sxm-8", "mi300x-8")}
MODELS = {name: ms.load_model(name) for name in LAYOUTS}
PHYSICS = calibration_of("none")
LATENCIES = ("ttft_s", "tpot_s", "e2el_s")
RATES = (
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    "output_throughput_per_device",
)


@st.composite
def questions(draw):
    name = draw(st.sampled_from(list(LAYOUTS)))
    tp, pp, dp, ep = draw(st.sampled_from(LAYOUTS[name]))
    workload = ms.Workload(
        draw(st.sampled_from([16, 500, 1024, 8192])),
        draw(st.sampled_from([1, 128, 1024])),
        draw(st.sampled_from([1, 5, 64, 700, 5000])),
    )
    engine = ms.Engine(
        dtype=draw(st.sampled_from(["auto", "bf16", "fp8"])),
        kv_cache_dtype=draw(st.sampled_from(["auto", "fp8"])),
        overlap=draw(st.sampled_from(["none", "two-batch"])),
    )
    machine = draw(st.sampled_from(list(MACHINES)))
    return MODELS[name], MACHINES[machine], ms.Parallelism(tp, pp, dp, ep), workload, engine


def ask(question, **changes):
    model, hardware, layout, workload, engine = question
    try:
        return ms.predict(
            model,
            changes.get("hardware", hardware),
            layout,
            workload,
            engine=engine,
            calibration=changes.get("calibration"),
        )
    except InfeasibleError:
        return None


@settings(max_examples=60, deadline=None)
@given(questions())
def test_nothing_beats_the_bound_and_everything_adds_up(question):
    answer = ask(question)
    if answer is None:
        return
    assert answer.ttft_s >= answer.bounds["ttft_s"] > 0
    assert answer.tpot_s >= answer.bounds["tpot_s"] > 0
    assert answer.output_throughput <= answer.bounds["output_throughput"] * (1 + 1e-9)
    assert sum(line.seconds for line in answer.breakdown) == pytest.approx(answer.tpot_s, rel=1e-6)
    physical = answer.tpot_s / answer.calibration["tpot_factor"]
    learnt = sum(line.seconds for line in answer.breakdown if line.op == "calibration")
    assert learnt == pytest.approx(answer.tpot_s - physical, rel=1e-6, abs=1e-12)
    assert sum(share for _, share in answer.bottleneck) == pytest.approx(1.0)
    assert all(share >= 0 for _, share in answer.bottleneck)
    # Little's law: requests in the system are arrivals per second times time in the system.
    assert answer.request_throughput * answer.e2el_s == pytest.approx(answer.concurrency)
    assert answer.running <= answer.concurrency
    assert answer.memory_bytes <= answer.memory_capacity_bytes
    spans = {name: span for name, span in answer.interval.items() if isinstance(span, list)}
    assert spans.keys() == {*LATENCIES, *RATES}
    for name, (low, high) in spans.items():
        assert low <= getattr(answer, name) * (1 + 1e-9)
        assert high >= getattr(answer, name) * (1 - 1e-9)
        if name in answer.bounds:
            best = low / answer.bounds[name] if name in LATENCIES else answer.bounds[name] / high
            assert best >= 1 - 1e-9


def _faster(hardware, compute=1.0, memory=1.0, links=1.0):
    processor = hardware.device.processor
    processor = replace(
        processor,
        peak_flops_per_s={k: v * compute for k, v in processor.peak_flops_per_s.items()},
        bandwidth_bytes_per_s={k: v * memory for k, v in processor.bandwidth_bytes_per_s.items()},
    )

    def link(old):
        fits = {
            kind: tuple(
                replace(
                    f,
                    busbw_bytes_per_s=f.busbw_bytes_per_s * links,
                    small_busbw_bytes_per_s=f.small_busbw_bytes_per_s and f.small_busbw_bytes_per_s * links,
                )
                for f in table
            )
            for kind, table in old.collectives.items()
        }
        return replace(old, bandwidth_bytes_per_s=old.bandwidth_bytes_per_s * links, collectives=fits)

    device = replace(hardware.device, processors=(processor, *hardware.device.processors[1:]))
    return replace(
        hardware,
        device=device,
        scale_up=link(hardware.scale_up),
        scale_out=link(hardware.scale_out),
        exchanges=_exchanges(
            hardware, lambda leg: replace(leg, rate_bytes_per_s=leg.rate_bytes_per_s * links)
        ),
    )


def _exchanges(hardware, change, **floor):
    """Every exchange of a machine with its legs changed."""

    def way(old):
        return replace(old, up=change(old.up), out=change(old.out) if old.out else None, **floor)

    return {
        name: replace(old, dispatch=way(old.dispatch), combine=way(old.combine))
        for name, old in hardware.exchanges.items()
    }


@settings(max_examples=30, deadline=None)
@given(questions(), st.sampled_from(["compute", "memory", "links"]))
def test_better_hardware_is_never_slower(question, part):
    before = ask(question)
    if before is None:
        return
    after = ask(question, hardware=_faster(question[1], **{part: 2.0}))
    assert after.tpot_s <= before.tpot_s * (1 + 1e-9)
    assert after.ttft_s <= before.ttft_s * (1 + 1e-9)
    assert after.tpot_s >= before.tpot_s / 2 * (1 - 1e-9)


@settings(max_examples=20, deadline=None)
@given(questions())
def test_twice_as_fast_in_everything_is_twice_as_fast(question):
    """With no latencies and floors left, time scales with the machine."""
    model, hardware, layout, workload, engine = question
    bare = _without_latency(hardware)
    before, after = (
        ask((model, machine, layout, workload, engine), calibration=PHYSICS)
        for machine in (bare, _faster(bare, 2.0, 2.0, 2.0))
    )
    if before is None:
        return
    assert after.tpot_s == pytest.approx(before.tpot_s / 2, rel=1e-9)
    assert after.ttft_s == pytest.approx(before.ttft_s / 2, rel=1e-9)


def _without_latency(hardware):
    processor = replace(
        hardware.device.processor,
        efficiency={"default": Efficiency(((1.0, 0.7),), ((1.0, 0.8),))},
        kernels={
            key: replace(surface, floor_s=0.0) for key, surface in hardware.device.processor.kernels.items()
        },
    )
    device = replace(hardware.device, processors=(processor,))

    def link(old):
        fits = {
            k: tuple(replace(f, alpha_s=0.0, bulk_alpha_s=f.bulk_alpha_s and 0.0) for f in v)
            for k, v in old.collectives.items()
        }
        return replace(old, latency_s=0.0, collectives=fits)

    return replace(
        hardware,
        device=device,
        scale_up=link(hardware.scale_up),
        scale_out=link(hardware.scale_out),
        exchanges=_exchanges(hardware, lambda leg: replace(leg, latency_s=0.0, scan_s=0.0), floor_s=0.0),
    )


@settings(max_examples=20, deadline=None)
@given(questions(), st.integers(2, 6))
def test_more_requests_never_lower_throughput_much_nor_latency(question, factor):
    """Interpolation and tiles may ripple; the trend may not."""
    model, hardware, layout, workload, engine = question
    more = replace(workload, concurrency=workload.concurrency * factor)
    few = ask(question, calibration=PHYSICS)
    many = ask((model, hardware, layout, more, engine), calibration=PHYSICS)
    if few is None:
        return
    assert many.output_throughput >= few.output_throughput * 0.93
    assert many.ttft_s >= few.ttft_s * 0.999
    assert many.tpot_s >= few.tpot_s * 0.999


def test_a_sweep_is_many_predictions():
    model, hardware = MODELS["gpt-oss-20b"], MACHINES["h200-sxm-8"]
    layouts = [ms.Parallelism(dp=8, ep=8), ms.Parallelism(tp=8, ep=8)]
    workloads = [ms.Workload(i, o, c) for i in (128, 4096) for o in (64, 512) for c in (1, 33, 900)]
    table = sweep(model, hardware, layouts, workloads)
    for i, layout in enumerate(layouts):
        for j, workload in enumerate(workloads):
            one = ms.predict(model, hardware, layout, workload)
            for metric in ("ttft_s", "tpot_s", "output_throughput", "request_throughput"):
                assert table[metric][i, j] == pytest.approx(getattr(one, metric), rel=1e-9)


def test_a_sweep_marks_what_does_not_fit():
    model, hardware = MODELS["deepseek-v3"], ms.load_hardware("h100-sxm-8", nodes=4)
    table = sweep(
        model, hardware, [ms.Parallelism(tp=8), ms.Parallelism(dp=32, ep=32)], [ms.Workload(512, 512, 8)]
    )
    assert table.feasible[:, 0].tolist() == [False, True]
    assert np.isnan(table["tpot_s"][0, 0])


def test_the_order_of_questions_does_not_matter():
    model, hardware = MODELS["qwen3-30b-a3b"], MACHINES["b200-sxm-8"]
    layout = ms.Parallelism(dp=16, ep=16)
    sizes = [3, 700, 64, 9, 2000]
    first = {c: ms.predict(model, hardware, layout, ms.Workload(100, 100, c)).tpot_s for c in sizes}
    again = replace(hardware)
    second = {c: ms.predict(model, again, layout, ms.Workload(100, 100, c)).tpot_s for c in reversed(sizes)}
    assert first == second


@pytest.mark.parametrize("name", ["deepseek-v3", "gpt-oss-20b"])
def test_interpolation_between_drawn_batch_sizes_is_close(name):
    """Times at sizes off the grid, drawn exactly, against those the grid gives."""
    hardware, layout = MACHINES["h200-sxm-8"], ms.Parallelism(dp=8, ep=8)
    deployment = deployment_of(MODELS[name], hardware, layout, ms.Engine(), None, None, 0)
    deployment.step(ms_batch(64.0))
    step = deployment._experts[0, 1]
    errors = []
    for octave in range(4, 14):
        size = round(2 ** (octave + 0.5 / PER_OCTAVE))
        grid = step.at(np.array([float(size)]))
        exact = dict(zip(grid, step._replay(size), strict=True))
        errors.append(abs(float(grid["experts_s"][0]) / exact["experts_s"] - 1))
    assert np.median(errors) < 0.02
    # Tiles and waves come in steps, which a grid smooths.
    assert max(errors) < 0.08


def ms_batch(sequences):
    from moesim.ops import Batch

    return Batch.decode(sequences, 100.0)


def test_load_arrays_keep_the_order_of_workloads():
    load = load_of([ms.Workload(1, 2, 3), ms.Workload(4, 5, 6)], ms.Engine())
    assert (load.input_len.tolist(), load.output_len.tolist(), load.concurrency.tolist()) == (
        [1, 4],
        [2, 5],
        [3, 6],
    )
