"""A step in time ends when the prediction says, and shows whom ranks wait for."""

import json
from dataclasses import replace

import numpy as np
import pytest
from timeline_checker import check

from moesim.correction import shipped
from moesim.engine.unroll import unroll
from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.layout import Disaggregated, Parallelism, Workers
from moesim.model import load_model
from moesim.ops import Batch
from moesim.prediction import Engine, Workload, predict, step_timeline
from moesim.prediction.served import Served
from moesim.reporting import figures

SMALL = ("gpt-oss-20b", "h100-sxm-8", 1)
LARGE = ("deepseek-v3", "h200-sxm-8", 4)
CASES = {
    "experts on every rank": (*SMALL, Parallelism(dp=8, ep=8), Engine()),
    "tensors alone": (*SMALL, Parallelism(tp=8), Engine(backend="trtllm")),
    "without graphs": (*SMALL, Parallelism(dp=2, ep=2), Engine(enforce_eager=True)),
    "dense layers first, two links": (*LARGE, Parallelism(dp=32, ep=32), Engine(backend="sglang")),
    "two halves": (*LARGE, Parallelism(dp=32, ep=32), Engine(backend="sglang", overlap="two-batch")),
    "a pipeline with drafts": (
        *LARGE,
        Parallelism(tp=8, pp=2, dp=2, ep=16),
        Engine(speculative_tokens=1, acceptance_rate=0.8),
    ),
    "two streams": (
        "deepseek-v2-lite",
        "cloudmatrix384",
        4,
        Parallelism(dp=64, ep=64),
        Engine(overlap="streams", dtype="int8"),
    ),
    "a dense model": ("llama-3.1-8b", "h100-sxm-8", 1, Parallelism(tp=2), Engine()),
}
pytestmark = pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")
LOAD = Workload(input_len=1024, output_len=1024, concurrency=1024)


def asked(case):
    model, hardware, nodes, layout, engine = CASES[case]
    return load_model(model), load_hardware(hardware, nodes=nodes), layout, engine


@pytest.mark.parametrize("case", CASES)
def test_a_step_ends_when_the_prediction_says(case, tmp_path):
    model, hardware, layout, engine = asked(case)
    answer = predict(model, hardware, layout, LOAD, engine=engine)
    found = step_timeline(model, hardware, layout, LOAD, engine=engine)
    decode = found.steps[1]
    assert decode.unrolled.seconds == pytest.approx(
        float(answer.decode.seconds[0]) + answer.draft_s, rel=1e-12
    )
    for passed in found.steps:
        assert max(p.end_s for p in passed.unrolled.pieces) == pytest.approx(
            passed.unrolled.seconds, rel=1e-9
        )
        assert min(p.start_s for p in passed.unrolled.pieces) == 0.0
        # The drawn batch is one of those whose mean was predicted.
        assert passed.unrolled.scale == pytest.approx(1.0, abs=0.1)
    found.write(tmp_path / "step.json.gz")
    checked = check(tmp_path / "step.json.gz")
    last = max(s.end for mine in checked.tracks.values() for s in mine)
    whole = sum(p.unrolled.seconds for p in found.steps)
    assert last == pytest.approx(whole * 1e9, abs=2)
    assert checked.of("steps", "steps")[1].end == last


def test_a_full_step_of_prefill_is_that_of_the_steady_state():
    model, hardware, layout, engine = asked("dense layers first, two links")
    answer = predict(model, hardware, layout, Workload(20_000, 100, 64), engine=engine)
    prefill = step_timeline(model, hardware, layout, Workload(20_000, 100, 64), engine=engine).steps[0]
    chunks = 20_000 / prefill.facts["tokens_per_prompt"]
    per_prompt = prefill.unrolled.seconds * chunks / prefill.facts["prompts"]
    assert per_prompt == pytest.approx(answer.prefill_s, rel=1e-9)


def test_operations_of_a_step_sum_to_the_breakdown():
    model, hardware, layout, engine = asked("dense layers first, two links")
    answer = predict(model, hardware, layout, LOAD, engine=engine)
    pieces = step_timeline(model, hardware, layout, LOAD, engine=engine).steps[1].unrolled.pieces
    for entry in answer.decode.entries():
        # An exchange over both links is drawn on both.
        streams = {p.stream for p in pieces if p.name == entry.op}
        for stream in streams:
            drawn = sum(p.seconds for p in pieces if p.name == entry.op and p.stream == stream)
            assert drawn == pytest.approx(float(entry.seconds[0]), rel=1e-9), entry.op
        assert streams or float(entry.seconds[0]) == 0.0


def test_layers_run_in_order_and_experts_between_dispatch_and_combine():
    model, hardware, layout, engine = asked("dense layers first, two links")
    pieces = step_timeline(model, hardware, layout, LOAD, engine=engine).steps[1].unrolled.pieces
    assert [p.layer for p in pieces if p.layer is not None] == sorted(
        p.layer for p in pieces if p.layer is not None
    )
    layer = model.moe_layer_ids[5]
    names = [p.name for p in pieces if p.layer == layer]
    order = ["norm", "router", "top_k", "dispatch", "experts", "combine", "weighted_sum"]
    assert [n for n in dict.fromkeys(names) if n in order] == order
    dense = {p.name for p in pieces if p.layer == 0}
    assert "experts" not in dense
    assert {p.stream for p in pieces if p.name == "dispatch"} == {"scale-up", "scale-out"}


def test_ranks_wait_for_the_slowest(tmp_path):
    model, hardware, layout, engine = asked("experts on every rank")
    answer = predict(model, hardware, layout, LOAD, engine=engine)
    found = step_timeline(model, hardware, layout, LOAD, engine=engine)
    decode = found.steps[1].unrolled
    per_layer = np.array([p.rank_s for p in decode.pieces if p.rank_s is not None])
    assert per_layer.shape == (len(model.moe_layer_ids), layout.ep)
    waits = (per_layer.max(axis=1)[:, None] - per_layer).sum() / layout.ep
    line = {line.op: line.seconds for line in answer.breakdown}
    # One drawn batch against the mean of many.
    assert waits == pytest.approx(line["expert_imbalance"], rel=0.35)
    found.write(tmp_path / "t.json")
    checked = check(tmp_path / "t.json")
    for rank in range(layout.ep):
        mine = checked.of(f"expert rank {rank}", "compute")
        drawn = sum(
            s.end - s.start for s in mine if s.name == "experts" and s.start >= found.steps[1].start_s * 1e9
        )
        assert drawn == pytest.approx(decode.expert_s[rank] * 1e9, abs=len(per_layer))
        ends = {s.end for s in mine if s.name == "experts" or s.kind == "wait"}
        slowest = {
            s.end for s in checked.of("expert rank 0", "compute") if s.name == "experts" or s.kind == "wait"
        }
        assert max(ends) == max(slowest)


def test_halves_hide_each_others_messages():
    model, hardware, layout, engine = asked("two halves")
    decode = step_timeline(model, hardware, layout, LOAD, engine=engine).steps[1].unrolled
    assert decode.overlap == "two-batch"
    computing = [(p.start_s, p.end_s) for p in decode.pieces if p.stream == "compute"]
    hidden = [
        p
        for p in decode.pieces
        if p.stream == "scale-up" and any(a < (p.start_s + p.end_s) / 2 < b for a, b in computing)
    ]
    assert len(hidden) > len(model.moe_layer_ids)
    busy = sum(p.seconds for p in decode.pieces if p.stream in ("compute", "scale-up", "host"))
    assert busy > decode.seconds * 1.05


def test_two_streams_share_a_device():
    model, hardware, layout, engine = asked("two streams")
    load = Workload(input_len=1024, output_len=1024, concurrency=8192)
    decode = step_timeline(model, hardware, layout, load, engine=engine).steps[1].unrolled
    assert decode.overlap == "streams"
    assert {p.stream for p in decode.pieces} >= {"attention", "experts", "compute"}
    attention = [p for p in decode.pieces if p.stream == "attention"]
    experts = [p for p in decode.pieces if p.stream == "experts"]
    both = sum(
        max(0.0, min(a.end_s, e.end_s) - max(a.start_s, e.start_s)) for a in attention for e in experts
    )
    assert both > 0.3 * decode.seconds


def test_a_full_memory_stretches_both_streams():
    model, hardware, layout, engine = asked("two streams")
    deployment = Served.of(model, hardware, layout, engine, shipped()).decode
    step = deployment.step(Batch.decode(64.0, 4096.0))
    plain = unroll(deployment, step)
    slower = replace(step, seconds=1.02 * step.seconds)
    full = unroll(deployment, slower)
    assert plain.overlap == full.overlap == "streams"
    assert plain.stretch == pytest.approx(1.0)
    assert full.stretch > 1.02
    assert max(p.end_s for p in full.pieces) == pytest.approx(float(slower.seconds[0]))


def test_a_step_of_several_batches_is_refused():
    model, hardware, layout, engine = asked("tensors alone")
    deployment = Served.of(model, hardware, layout, engine, shipped()).decode
    with pytest.raises(ValueError, match="one batch"):
        unroll(deployment, deployment.step(Batch.decode(np.array([1.0, 2.0]), 10.0)))


def test_ranks_are_chosen_from_least_to_most_loaded(tmp_path):
    model, hardware, layout, engine = asked("dense layers first, two links")
    found = step_timeline(model, hardware, layout, LOAD, engine=engine)
    found.write(tmp_path / "few.json", ranks=3)
    shown = {process for process, _ in check(tmp_path / "few.json").tracks if process != "steps"}
    work = found.steps[1].unrolled.expert_s
    assert len(shown) == 3
    assert {f"expert rank {work.argmax()}", f"expert rank {work.argmin()}"} < shown
    with pytest.raises(ConfigError, match="at least 1"):
        found.write(tmp_path / "none.json", ranks=0)


def test_pools_are_drawn_beside_each_other(tmp_path):
    pools = Disaggregated(Workers(Parallelism(tp=2), 2), Workers(Parallelism(dp=4, ep=4), 1))
    found = step_timeline(load_model("gpt-oss-20b"), load_hardware("h100-sxm-8"), pools, LOAD)
    found.write(tmp_path / "t.json")
    checked = check(tmp_path / "t.json")
    assert (
        checked.of("steps", "prefill worker")[0].start == checked.of("steps", "decode worker")[0].start == 0
    )
    processes = {process for process, _ in checked.tracks}
    assert processes == {
        "steps",
        "prefill worker, every rank",
        *(f"decode worker, expert rank {r}" for r in range(4)),
    }


def test_the_program_writes_it_and_says_what_is_wrong(moesim, tmp_path):
    question = "predict --model gpt-oss-20b --hardware h100-sxm-8 --dp 8 --ep 8 --concurrency 64".split()
    path = tmp_path / "step.json.gz"
    code, out, _ = moesim(*question, "--timeline", str(path), "--timeline-ranks", "2", "--json")
    assert code == 0
    checked = check(path)
    assert checked.about["steps"][1]["sequences"] == pytest.approx(json.loads(out)["running"])
    assert len({process for process, _ in checked.tracks}) == 3
    first = path.read_bytes()
    moesim(*question, "--timeline", str(path), "--timeline-ranks", "2", "--json")
    assert path.read_bytes() == first
    code, _, err = moesim(*question, "--timeline", str(tmp_path / "x.txt"), "--input-len", "0")
    assert code == 2
    assert "--timeline" in err
    assert "--input-len" in err


def test_slices_are_what_the_figure_takes():
    model, hardware, layout, engine = asked("experts on every rank")
    decode = step_timeline(model, hardware, layout, LOAD, engine=engine).steps[1]
    slices = decode.slices(rank=2)
    figure = figures.timeline([figures.Slice(*one) for one in slices])
    assert set(figure.data["track"]) == {one.track for one in slices}
    own = sum(one.seconds for one in slices if one.name == "experts")
    assert own == pytest.approx(decode.unrolled.expert_s[2])
    waits = sum(one.seconds for one in slices if one.kind == "wait")
    slowest = sum(p.seconds for p in decode.unrolled.pieces if p.rank_s is not None)
    assert own + waits == pytest.approx(slowest)
