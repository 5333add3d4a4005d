"""What real routing does to time: skew, distinct experts, labels, placements, memory bandwidth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import moesim as ms
from moesim.correction import calibration_of
from moesim.errors import ConfigError, InfeasibleError, TraceError
from moesim.files import data_dir
from moesim.layout import ExpertMap
from moesim.trace.types import LoadCounts, RoutingTrace

MODEL = ms.load_model("qwen3-30b-a3b")
HARDWARE = ms.load_hardware("h100-sxm-8")
LAYOUT = ms.Parallelism(dp=8, ep=8)
PHYSICS = calibration_of("none")
LAYERS, EXPERTS, K = len(MODEL.moe_layer_ids), MODEL.num_experts, MODEL.top_k


def _loads(counts):
    table = np.broadcast_to(np.asarray(counts, dtype=float), (1, LAYERS, EXPERTS)).copy()
    return LoadCounts(table, MODEL.moe_layer_ids, top_k=K)


def _skewed(sigma, seed=0):
    return np.random.default_rng(seed).lognormal(0.0, sigma, (1, LAYERS, EXPERTS))


def _one_hot():
    counts = np.zeros(EXPERTS)
    counts[:K] = 1.0
    return counts


def _tpot(trace, concurrency=4096, layout=LAYOUT, **kwargs):
    engine = ms.Engine(routing="uniform")
    return ms.predict(
        MODEL, HARDWARE, layout, ms.Workload(128, 512, concurrency), trace=trace, engine=engine, **kwargs
    ).tpot_s


def test_with_many_tokens_skew_costs_time():
    """Uniform, mildly skewed, strongly skewed, all on one rank: each slower than the one before."""
    routings = [None, _loads(_skewed(0.4)), _loads(_skewed(1.0)), _loads(_one_hot())]
    times = [_tpot(r) for r in routings]
    assert times == sorted(times)
    assert times[-1] > 2.0 * times[0]


def test_with_few_tokens_on_one_device_skew_saves_weights():
    """Memory-bound decode reads only the experts that are hit: the opposite order."""
    alone = ms.Parallelism()
    times = [_tpot(r, concurrency=16, layout=alone) for r in (_loads(_one_hot()), _loads(_skewed(1.5)), None)]
    assert times == sorted(times)


def _token_trace(seed=0, tokens=5000):
    rng = np.random.default_rng(seed)
    weights = rng.lognormal(0.0, 1.0, (LAYERS, EXPERTS))
    noise = rng.gumbel(size=(tokens, LAYERS, EXPERTS)) + np.log(weights)
    ids = np.argpartition(-noise, K, axis=2)[:, :, :K].astype(np.uint8)
    zeros = np.zeros(tokens, dtype=np.int32)
    return RoutingTrace(ids, zeros, EXPERTS, MODEL.moe_layer_ids, zeros, np.ones(tokens, dtype=np.int8))


def test_relabelling_experts_changes_nothing_under_a_relabelled_placement():
    trace = _token_trace()
    relabel = np.stack([np.random.default_rng(i).permutation(EXPERTS) for i in range(LAYERS)])
    ids = relabel[np.arange(LAYERS)[None, :, None], trace.topk_ids.astype(int)].astype(np.uint8)
    plan = ExpertMap.contiguous(LAYERS, EXPERTS, 8, 16)
    moved = ExpertMap(np.take_along_axis(relabel, plan.physical_to_logical, axis=1), EXPERTS, 8)
    before = ms.predict(MODEL, HARDWARE, LAYOUT, ms.Workload(500, 100, 300), trace=trace, plan=plan)
    after = ms.predict(
        MODEL, HARDWARE, LAYOUT, ms.Workload(500, 100, 300), trace=replace(trace, topk_ids=ids), plan=moved
    )
    for name in ("ttft_s", "tpot_s", "output_throughput", "load_imbalance"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-12)


def test_relabelling_loads_changes_nothing_either():
    loads = _loads(_skewed(0.8))
    relabel = np.random.default_rng(5).permutation(EXPERTS)
    counts = np.empty_like(loads.counts)
    counts[:, :, relabel] = loads.counts
    plan = ExpertMap.contiguous(LAYERS, EXPERTS, 8)
    moved = ExpertMap(relabel[plan.physical_to_logical], EXPERTS, 8)
    before, after = _tpot(loads, plan=plan), _tpot(replace(loads, counts=counts), plan=moved)
    assert after == pytest.approx(before, rel=1e-12)


def test_a_trace_and_its_loads_agree_where_correlation_does_not_matter():
    trace = _token_trace()
    assert _tpot(trace.load_counts()) == pytest.approx(_tpot(trace), rel=0.03)


def test_doubling_memory_bandwidth_halves_what_memory_bounds(tmp_path):
    """An edited copy of a hardware file moves a memory-bound decode by the factor that closed forms say."""
    text = (data_dir("hardware") / "h100-sxm-8.yaml").read_text(encoding="utf-8")
    assert text.count("bandwidth: 3.35 TB/s") == 1
    edited = tmp_path / "double.yaml"
    edited.write_text(text.replace("bandwidth: 3.35 TB/s", "bandwidth: 6.70 TB/s"), encoding="utf-8")
    model, layout = ms.load_model("llama-3.1-70b"), ms.Parallelism(tp=8)
    # One request: no prefill of others, next to no compute; all that is left is memory, launch and links.
    workload = ms.Workload(16, 64, 1)
    before = ms.predict(model, HARDWARE, layout, workload)
    after = ms.predict(model, ms.load_hardware(edited), layout, workload)
    shares = dict(before.bottleneck)
    assert shares["memory"] > 0.5
    saved = before.tpot_s - after.tpot_s
    assert saved == pytest.approx(before.tpot_s * shares["memory"] / 2, rel=0.1)
    assert before.bounds["tpot_s"] / after.bounds["tpot_s"] == pytest.approx(2.0)


def test_redundant_experts_cost_weights_where_tokens_are_few():
    loads = _loads(_skewed(0.3))
    plain = ms.place(loads, MODEL, ep=8).expert_map
    spare = ms.place(loads, MODEL, ep=8, redundant=64).expert_map
    few = [_tpot(loads, concurrency=64, plan=p) for p in (plain, spare)]
    assert few[1] > few[0]


def test_faults_of_a_foreign_trace_are_named():
    ids = np.zeros((10, 24, 4), dtype=np.uint8)
    zeros = np.zeros(10, dtype=np.int32)
    trace = RoutingTrace(ids, zeros, 32, tuple(range(24)), zeros, np.zeros(10, dtype=np.int8), source="x.npz")
    with pytest.raises(TraceError) as error:
        _tpot(trace)
    text = str(error.value)
    assert all(part in text for part in ("x.npz", "24 MoE layers", "32 experts", "4 top-k", "48", "128", "8"))


def test_all_faults_of_a_question_at_once():
    with pytest.raises(ConfigError) as error:
        ms.predict(
            MODEL,
            HARDWARE,
            ms.Parallelism(tp=3, dp=4, ep=5),
            ms.Workload(0, 10, -1),
            engine=ms.Engine(overlap="triple", memory_utilisation=2.0),
        )
    assert len(error.value.faults) >= 6


def test_what_does_not_fit_says_what_would():
    with pytest.raises(InfeasibleError) as error:
        ms.predict(
            ms.load_model("deepseek-v3"),
            HARDWARE,
            ms.Parallelism(tp=8),
            ms.Workload(4096, 1024, 64),
            engine=ms.Engine(dtype="bf16"),
        )
    found = error.value
    assert found.resource == "memory hbm"
    assert found.needed > found.available == pytest.approx(0.9 * 80e9)
    nodes = found.details["fewest_nodes"]
    tp, pp, dp, ep = (int(part.split("=")[1]) for part in str(found.details["fewest_nodes_layout"]).split())
    layout = ms.Parallelism(tp, pp, dp, ep)
    cluster = ms.load_hardware("h100-sxm-8", nodes=nodes)
    answer = ms.predict(
        ms.load_model("deepseek-v3"),
        cluster,
        layout,
        ms.Workload(4096, 1024, 64),
        engine=ms.Engine(dtype="bf16"),
    )
    assert answer.feasible
    # One node fewer cannot hold the weights, however they are laid out.
    assert (nodes - 1) * 8 * 72e9 < 1.342e12 + (nodes - 1) * 8 * 1.9e9


def test_requests_beyond_the_cache_wait():
    model, hardware = ms.load_model("llama-3.1-70b"), ms.load_hardware("h100-sxm-8")
    layout = ms.Parallelism(tp=4)
    fits = ms.predict(model, hardware, layout, ms.Workload(8192, 1024, 8))
    full = ms.predict(model, hardware, layout, ms.Workload(8192, 1024, 800))
    assert fits.running == 8
    assert full.running < 800
    assert full.ttft_s > 10 * fits.ttft_s
    assert any("wait" in note for note in full.warnings)
    more = ms.predict(model, hardware, layout, ms.Workload(8192, 1024, 1600))
    assert more.running == full.running
    assert more.output_throughput == pytest.approx(full.output_throughput, rel=0.02)


def test_the_less_is_known_of_a_machine_the_wider_the_interval():
    model, known = ms.load_model("deepseek-r1"), ms.load_hardware("h200-sxm-8")
    device = known.device
    # One machine whose own kernels were measured, and one for whose kernels those of a relative stand.
    named = [
        replace(
            known,
            device=replace(device, name=name, processors=(replace(device.processor, measured_on=whose),)),
        )
        for name, whose in (("mine", "mine"), ("yours", "h200-sxm"))
    ]

    def ask(hardware):
        engine = ms.Engine(backend="sglang")
        return ms.predict(model, hardware, ms.Parallelism(tp=8), ms.Workload(1024, 1024, 64), engine=engine)

    answers = [ask(known)]
    for hardware in named:
        with pytest.warns(ms.OutOfDomainWarning, match=f"on {hardware.device.name}"):
            answers.append(ask(hardware))
    width = [a.interval["ttft_s"][1] / a.interval["ttft_s"][0] for a in answers]
    assert width[1] < width[2]
    assert [a.calibration["novelty"] for a in answers] == ["layout known", "system new", "all new"]
    assert all(
        any(hardware.device.name in note for note in a.warnings)
        for hardware, a in zip(named, answers[1:], strict=True)
    )


@pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")
def test_racks_and_supernodes_exchange_tokens_inside_one_domain():
    model = ms.load_model("deepseek-v3")
    rack = ms.predict(
        model, ms.load_hardware("gb200-nvl72"), ms.Parallelism(dp=64, ep=64), ms.Workload(1024, 256, 4096)
    )
    assert "scale-out" not in dict(rack.bottleneck)
    nodes = ms.predict(
        model,
        ms.load_hardware("b200-sxm-8", nodes=8),
        ms.Parallelism(dp=64, ep=64),
        ms.Workload(1024, 256, 4096),
    )
    assert dict(nodes.bottleneck)["scale-out"] > 0.1


def test_requests_that_are_looked_for_seldom_wait_half_of_the_interval():
    workload = ms.Workload(512, 256, 64)
    one, many = (
        ms.predict(
            MODEL,
            HARDWARE,
            LAYOUT,
            workload,
            engine=ms.Engine(scheduler_recv_interval=n),
            calibration=PHYSICS,
        )
        for n in (1, 31)
    )
    assert many.ttft_s == pytest.approx(one.ttft_s + 15 * one.tpot_s)
    assert many.tpot_s == one.tpot_s


def test_ranks_that_only_spares_make_divide():
    loads = _loads(_skewed(0.5))
    placed = ms.place(loads, MODEL, ms.load_hardware("h100-sxm-8", nodes=3), ep=24, redundant=16)
    assert placed.expert_map.slots_per_rank == 6
    assert "balanced" not in placed.predicted
    assert placed.predicted["after"].tpot_s <= placed.predicted["before"].tpot_s


def test_a_lone_prompt_is_prefilled_by_one_rank():
    """Data parallelism serves more prompts, not a single one faster."""
    model, hardware = ms.load_model("llama-3.1-8b"), ms.load_hardware("h100-sxm-8")
    one, eight = (
        ms.predict(
            model, hardware, ms.Parallelism(dp=n), ms.Workload(4096, 64, 1), calibration=PHYSICS
        ).ttft_s
        for n in (1, 8)
    )
    assert eight == pytest.approx(one)


def test_the_busiest_rank_has_whole_sequences():
    model, hardware = ms.load_model("llama-3.1-8b"), ms.load_hardware("h100-sxm-8")
    steps = [
        ms.predict(model, hardware, ms.Parallelism(dp=8), ms.Workload(4096, 2048, n)).decode.seconds[0]
        for n in (8, 9, 16, 17)
    ]
    assert steps[1] == pytest.approx(steps[2])
    assert steps[0] < steps[1] < steps[3]
