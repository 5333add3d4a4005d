"""`moesim simulate --offload` and `--attention-workers`: answers, what they are made of, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from moesim.engine.deployment import Deployment
from moesim.files import data_dir
from moesim.hardware import load_hardware
from moesim.layout import Apart, Parallelism
from moesim.model import load_model
from moesim.offload import Box
from moesim.ops import Precision
from moesim.requests import generate_requests
from moesim.serving.attention_ffn import Pools, serve_pools
from moesim.serving.offloaded import prepare_offloaded
from moesim.serving.settings import Scheduler
from moesim.serving.state import LOG_START
from moesim.systems.compositions import named
from moesim.trace import load_trace, write_trace

TRACE = str(data_dir("traces") / "gpt-oss-20b-synthetic.npz")
COUNTS = str(data_dir("traces") / "deepseek-v3-synthetic.json")
TRAFFIC = (
    *("--concurrency", "2", "--input-len", "64", "--output-len", "24", "--num-requests", "24"),
    *("--warmup", "none", "--cooldown", "none"),
)
HOME = ("simulate", "--model", "gpt-oss-20b", "--hardware", "rtx-3060-desktop", *TRAFFIC)
LRU = (*HOME, "--trace", TRACE, "--offload", "lru", "--cache-fraction")
RACK = ("simulate", "--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", *TRAFFIC)
APART = (*RACK, "--attention-workers", "2", "--expert-workers", "4")


def document(moesim, *words):
    code, out, err = moesim(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_more_on_the_device_is_found_more_often_and_faster(moesim):
    little, more = (document(moesim, *LRU, share) for share in ("0.15", "0.45"))
    assert 0 < little["offload"]["hit_ratio"] < more["offload"]["hit_ratio"] < 1
    assert little["offload"]["moved_bytes"] > more["offload"]["moved_bytes"] > 0
    assert little["tpot_s"] > more["tpot_s"]
    assert little["kv_cache"]["blocks"] > more["kv_cache"]["blocks"]
    assert little["completed"] == 24
    assert little["devices"] == 1
    assert little["offload"]["slots"] == round(0.15 * 24 * 32)


def test_bytes_are_those_of_the_experts_that_were_not_found(moesim):
    """A lone request: what its steps ask for is known, each decode step four experts of each layer."""
    found = document(moesim, *LRU, "0.3", "--concurrency", "1", "--output-len", "200")
    told = found["offload"]
    each = Box.of(load_hardware("rtx-3060-desktop"), load_model("gpt-oss-20b")).widths[0].bytes
    decoded = 199 * 24 * 4
    # A prompt asks for no more than all experts.
    least, most = decoded, decoded + 24 * 32
    misses = 1 - told["hit_ratio"]
    assert least * misses * each * 0.98 < told["moved_bytes_per_request"] < most * misses * each * 1.02


def test_the_answer_is_that_of_the_library(moesim):
    found = document(moesim, *LRU, "0.3", "--calibration", "none", "--seed", "4")
    model, trace = load_model("gpt-oss-20b"), load_trace(TRACE)
    box = Box.of(load_hardware("rtx-3060-desktop"), model, context=88.0)
    slots = round(0.3 * 24 * 32)
    requests = generate_requests(24, "closed:2", 64, 24, seed=4)
    ready, tables = prepare_offloaded(
        replace(box, expert_bytes=(slots + 1) * box.widths[0].bytes),
        named("lru", trace, slots).composition, trace, requests,
        scheduler=Scheduler.of("vllm"), slots=slots, seed=4,
    )  # fmt: skip
    outcome = ready.serve(requests)
    log = outcome.state.tally.log[: int(outcome.state.tally.logged[0])]
    assert found["tpot_s"] == pytest.approx(np.nanmean(outcome.tpot_s), rel=1e-12)
    assert found["offload"]["hit_ratio"] == pytest.approx(tables.hit_ratio(log), rel=1e-12)
    moved = tables.during(log, np.array([0.0, log[-1, LOG_START] + 1.0]))[1]
    assert found["offload"]["moved_bytes_per_request"] == pytest.approx(moved[0] / 24, rel=1e-12)


@pytest.mark.parametrize("system", ["Fiddler", "PreMoe"])
def test_a_system_that_learns_says_so(moesim, system):
    found = document(moesim, *HOME, "--trace", TRACE, "--offload", system, "--cache-fraction", "0.3")
    assert 0 < found["offload"]["hit_ratio"] <= 1
    assert found["completed"] == 24
    assert 0 < found["offload"]["learnt_tokens"] < 3320
    assert any("learnt from" in note for note in found["warnings"])


def test_what_a_system_needs_of_the_machine(moesim):
    code, _, err = moesim(*HOME, "--trace", TRACE, "--offload", "monde", "--cache-fraction", "0.3")
    assert code == 2
    assert "near-data unit" in err


def test_a_system_says_what_it_assumes(moesim):
    found = document(moesim, *HOME, "--trace", TRACE, "--offload", "hybrimoe", "--cache-fraction", "0.3")
    (recall, decay) = found["offload"]["assumed"]
    assert recall["range"][0] <= recall["value"] <= recall["range"][1]
    assert any("assumed " + decay["name"] in note for note in found["warnings"])


def test_people_read_it_too(moesim):
    code, out, err = moesim(*LRU, "0.3", "--replications", "2")
    assert code == 0, err
    assert "experts found on the device" in out
    assert "GB of experts moved per request" in out


def test_what_does_not_fit_beside_the_cache(moesim):
    code, out, err = moesim(*LRU, "0.9", "--json")
    assert code == 1
    assert json.loads(out)["needed"] > json.loads(out)["available"]
    share = err.split("enough for --cache-fraction ")[1].split()[0]
    assert moesim(*LRU, share)[0] == 0


def test_workers_apart_are_counted_and_paid(moesim):
    found = document(moesim, *APART, "--price", "2", "--replicas", "2")
    assert found["completed"] == 24
    assert found["devices"] == 12
    assert found["layout"] == "2 x tp=1 attention, 4 experts, 3 micro-batches"
    assert found["cost"]["usd_per_hour"] == 24.0
    assert found["output_throughput_per_device"] == pytest.approx(found["output_throughput"] / 12)
    assert found["energy"]["busy_j"] > 0
    assert found["offload"] is None


def test_every_micro_batch_reads_the_weights(moesim):
    one, three = (document(moesim, *APART, "--micro-batches", m)["tpot_s"] for m in ("1", "3"))
    assert three > one


def test_workers_are_those_of_the_library(moesim):
    found = document(moesim, *APART, "--calibration", "none", "--tp", "2", "--seed", "2")
    model, hardware = load_model("gpt-oss-20b"), load_hardware("h100-sxm-8")
    precision = Precision.of(model, "auto", "auto")
    sides = [
        Deployment(model, hardware, layout, precision, seed=2, backend="vllm")
        for layout in (Parallelism(tp=2, dp=2), Parallelism(dp=4, ep=4))
    ]
    requests = generate_requests(24, "closed:2", 64, 24, seed=2)
    outcome = serve_pools(Pools(*sides), requests, scheduler=Scheduler.of("vllm"), seed=2)
    assert found["tpot_s"] == pytest.approx(np.nanmean(outcome.tpot_s), rel=1e-12)
    assert outcome.about.devices == found["devices"] == 8
    other = replace(sides[1], hardware=load_hardware("h200-sxm-8"))
    assert serve_pools(Pools(sides[0], other), requests).about is None


def test_experts_that_do_not_fit_their_workers(moesim):
    words = ("simulate", "--model", "deepseek-v3", "--hardware", "h100-sxm-8", *TRAFFIC)
    code, out, _ = moesim(*words, "--attention-workers", "2", "--expert-workers", "4", "--json")
    assert code == 1
    assert json.loads(out)["needed"] > json.loads(out)["available"]


def test_recordings_that_cannot_be_replayed(moesim, tmp_path):
    trace = load_trace(TRACE)
    path = tmp_path / "prompts.npz"
    write_trace(replace(trace, phase=np.zeros_like(trace.phase)), path)
    for words, said in (
        ((*HOME, "--trace", path), "no tokens that were decoded"),
        (("simulate", "--model", "deepseek-v3", *HOME[3:], "--trace", COUNTS), "load counts"),
    ):
        code, _, err = moesim(*words, "--offload", "lru", "--cache-fraction", "0.2")
        assert code == 2
        assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--offload", "lru"), ["needs --cache-fraction", "with --trace"]),
        (("--offload", "hybridmoe", "--cache-fraction", "2"), ["nearest: hybrimoe", "at most 1"]),
        (("--cache-fraction", "0.5"), ["is of --offload"]),
        (
            ("--offload", "lru", "--tp", "2", "--replicas", "2", "--mtbf", "9"),
            ["--tp", "--replicas", "--mtbf"],
        ),
        (("--attention-workers", "2"), ["with --expert-workers"]),
        (("--micro-batches", "2"), ["--expert-workers"]),
        (("--attention-workers", "2", "--expert-workers", "5"), ["--expert-workers", "does not divide"]),
        (("--attention-workers", "0", "--expert-workers", "0"), ["2 faults"]),
        (("--attention-workers", "7", "--expert-workers", "4"), ["11 devices", "--nodes 2"]),
        (("--attention-workers", "2", "--expert-workers", "4", "--micro-batches", "65"), ["1 to 64"]),
        (
            ("--attention-workers", "2", "--expert-workers", "4", "--dp", "2", "--ep", "2", "--pp", "2"),
            ["--dp", "--ep", "--pp"],
        ),
        (
            ("--attention-workers", "2", "--expert-workers", "4", "--prefill-workers", "1"),
            ["--prefill-workers", "does not go with"],
        ),
        (
            (*("--attention-workers", "2", "--expert-workers", "4"), *("--offload", "lru", "--dp", "2")),
            ["--offload: does not go with --attention-workers", "--cache-fraction", "--trace", "--dp"],
        ),
    ],
    ids=str,
)
def test_what_is_refused(moesim, words, said):
    code, out, err = moesim(*RACK, *words)
    assert code == 2, err
    assert out == ""
    for text in said:
        assert text in err


def test_workers_apart_are_laid_out_together():
    layout = Apart(Parallelism(dp=7), Parallelism(dp=8, ep=8))
    model = load_model("gpt-oss-20b")
    # Seven workers of attention cut no experts, which they do not hold.
    assert layout.faults(model, load_hardware("h100-sxm-8", nodes=2)) == []
    assert len(layout.faults(model, load_hardware("h100-sxm-8"))) == 1
