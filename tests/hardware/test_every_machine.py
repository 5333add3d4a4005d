"""A question that every machine of the catalogue must answer, if only with why it cannot."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from dataclasses import replace

import pytest

from moesim.cost import peak_of, peak_together
from moesim.errors import InfeasibleError
from moesim.hardware import KINDS, load_hardware, names
from moesim.hardware.describe import grouped
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.prediction import Workload, predict

#: The machines of a test are asked about, not measured.
pytestmark = pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")

MODEL = "gpt-oss-20b"
ONE = Workload(input_len=64, output_len=64, concurrency=1)
#: Least number of machines of each kind.
LEAST = {"cpu-gpu": 6, "near-data": 4, "wafer": 3, "supernode": 3, "memory": 2, "edge": 4}


def widest(name: str) -> int:
    """Devices that take part: the largest power of two of one node or domain, at most eight."""
    machine = load_hardware(name)
    most = min(8, machine.num_devices)
    return 1 << int(math.log2(most))


@pytest.mark.parametrize("name", names())
def test_predict_answers_or_says_what_is_short(name):
    machine, model, width = load_hardware(name), load_model(MODEL), widest(name)
    for layout in {Parallelism(dp=width, ep=width), Parallelism(tp=width), Parallelism()}:
        try:
            answer = predict(model, machine, layout, ONE)
        except InfeasibleError as error:
            answer = error
        if isinstance(answer, InfeasibleError):
            assert answer.needed > answer.available > 0
            assert answer.resource == f"memory {machine.device.memory.name}"
            continue
        document = answer.to_dict()
        assert 0 < answer.bounds["tpot_s"] <= answer.tpot_s < 10
        assert 0 < answer.bounds["ttft_s"] <= answer.ttft_s < 100
        assert document["hardware"] == name
        assert sum(line["seconds"] for line in document["breakdown"]) == pytest.approx(answer.tpot_s)


@pytest.mark.parametrize("name", names())
def test_every_machine_has_a_peak_for_every_kind_of_work(name):
    """Also where its file does not say how fast its vector units are: they are then taken as the others."""
    device = load_hardware(name).device
    for kind, dtype in (
        ("gemm", "bf16"),
        ("gemm", "int8"),
        ("attention_decode", "bf16"),
        ("elementwise", "bf16"),
    ):
        assert peak_together(device, kind, dtype) >= peak_of(device.processor, kind, dtype) > 0


def test_most_machines_hold_the_model():
    model = load_model(MODEL)
    answered = 0
    for name in names():
        width = widest(name)
        with contextlib.suppress(InfeasibleError):
            predict(model, load_hardware(name), Parallelism(dp=width, ep=width), ONE)
            answered += 1
    assert answered >= len(names()) - 8


def test_the_catalogue_has_machines_of_every_kind():
    groups = grouped(load_hardware(name) for name in names())
    assert list(groups) == [kind for kind in KINDS if kind != "cpu"]  # calibrated where they stand
    counts = Counter({kind: len(members) for kind, members in groups.items()})
    assert counts["gpu"] + counts["npu"] + counts["tpu"] >= 20
    assert all(counts[kind] >= least for kind, least in LEAST.items()), counts


@pytest.mark.parametrize(
    "name",
    ["h100-duplex-4", "dojo-wafer", "tpu-v5e-256", "sn40l-8", "cloudmatrix384", "dgx-spark", "cent-32"],
)
def test_a_faster_memory_never_slows_any_kind_of_machine(name):
    model, machine, width = load_model("olmoe-1b-7b"), load_hardware(name), widest(name)
    before = predict(model, machine, Parallelism(dp=width, ep=width), ONE)
    after = predict(model, twice_the_bandwidth(machine), Parallelism(dp=width, ep=width), ONE)
    assert after.tpot_s < before.tpot_s
    assert after.bounds["tpot_s"] < before.bounds["tpot_s"]


def twice_the_bandwidth(machine):
    device, main = machine.device, machine.device.memory.name
    processors = tuple(
        replace(
            p,
            bandwidth_bytes_per_s={
                m: b * (2 if m == main else 1) for m, b in p.bandwidth_bytes_per_s.items()
            },
        )
        for p in device.processors
    )
    return replace(machine, device=replace(device, processors=processors))
