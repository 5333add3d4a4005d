"""Tables of step times against the engine's model of a step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.engine.deployment import Deployment
from moesim.engine.eager import LAUNCH_S
from moesim.engine.speculation import Speculation
from moesim.engine.timeline import makespan, two_batch_layers
from moesim.engine.traits import Traits
from moesim.hardware import load_hardware
from moesim.layout.parallelism import Parallelism
from moesim.model import load_model
from moesim.ops import Batch, Precision
from moesim.prediction import Engine
from moesim.requests import RequestTrace
from moesim.serving.check import engine_seconds, errors_of, random_batches, seconds_of_all
from moesim.serving.grids import octaves, refined
from moesim.serving.kernel.overlap import two_batch_s
from moesim.serving.kernel.price import seconds_of
from moesim.serving.parts import DECODE, PREFILL, Parts, exchanged_s
from moesim.serving.pricing import constant_prices, padded_of, prices_of, step_table, vllm_graph_sizes
from moesim.serving.settings import Scheduler
from moesim.serving.simulate import simulate
from moesim.serving.state import CONTEXT, LOADS, PAIRS, PROMPTS, QUERIES, SEQUENCES, STORED
from moesim.serving.state import PREFILL as READ
from moesim.serving.tables import unpacked

BUDGET, MOST, LONGEST = 4096, 256, 20_000

CASES = {
    "dense": ("qwen2.5-7b", "h100-sxm-8", Parallelism(), {}),
    "dense-tp2": ("llama-2-70b", "h100-sxm-8", Parallelism(tp=4), {"traits": Traits(1e-3, 2.0)}),
    "windows": ("gpt-oss-120b", "h100-sxm-8", Parallelism(tp=2, ep=2), {}),
    "one-kernel": ("qwen3-30b-a3b", "rtx-pro-6000-8", Parallelism(tp=2, ep=2), {"backend": "vllm"}),
    "lanes": ("deepseek-v3", "h200-sxm-8", Parallelism(dp=16, ep=16), {}),
    "two-batch": ("deepseek-v3", "h200-sxm-8", Parallelism(dp=16, ep=16), {"overlap": "two-batch"}),
    "drafts": ("deepseek-v3", "h200-sxm-8", Parallelism(dp=16, ep=16), {"speculation": Speculation(2)}),
    "eager": ("deepseek-v3", "h200-sxm-8", Parallelism(tp=8, ep=8), {"launch_s": LAUNCH_S}),
    "stages": ("mixtral-8x7b", "h100-sxm-8", Parallelism(tp=2, pp=2, dp=2), {}),
}


def deployment(name, **changes):
    model, hardware, layout, rest = CASES[name]
    model = load_model(model)
    nodes = max(1, -(-layout.world // 8))
    precision = Precision.of(model, "auto", "auto")
    return Deployment(model, load_hardware(hardware, nodes=nodes), layout, precision, **(rest | changes))


@pytest.mark.parametrize("name", CASES)
def test_tables_are_near_the_engine_off_their_points(name):
    found = step_table(deployment(name), BUDGET, MOST, LONGEST, Scheduler(), checked=400)
    assert found.checked == 400
    assert found.error_median < 0.01
    assert found.error_worst < 0.03
    assert found.error_worst > 0.0


def test_the_check_notices_a_wrong_table():
    one = deployment("dense")
    prices = prices_of(one, BUDGET, MOST, LONGEST, Scheduler())
    wrong = prices._replace(data=prices.data.copy())
    unpacked(wrong).decode_s[:] *= 2.0
    errors = errors_of(wrong, one, BUDGET, MOST, LONGEST, 200, 0)
    assert errors.max() > 0.3


#: One of every kind of attention and of feed-forward block in the catalogue.
KINDS = [
    "deepseek-v3", "deepseek-v3.2", "deepseek-v4-flash", "gpt-oss-20b", "jamba-v0.1", "minimax-m1",
    "minimax-m2.5", "qwen3-next-80b-a3b", "qwen2-57b-a14b", "llama-4-scout", "step-3", "qwen3-8b",
]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_parts_add_up_to_a_step(name):
    """Whatever an operation depends on is found out by changing a batch: no operation is lost or doubled."""
    model = load_model(name)
    layout = Parallelism(dp=8, ep=8) if model.moe is not None else Parallelism(dp=8)
    one = Deployment(model, load_hardware("h200-sxm-8"), layout, Precision.of(model, "auto", "auto"))
    parts = Parts(one, 2.0)
    s, c, n, chunk, past = (
        np.array(x) for x in ([7.0, 64.0], [900.0, 31.0], [3.0, 1.0], [50.0, 777.0], [0.0, 123.0])
    )
    tokens = 2.0 * s + n * chunk
    total = parts.dense(tokens).sum(axis=0) + parts.heads(2.0 * s + n)
    total += parts.decoding(s, c) + parts.reading(n, n * chunk, past + chunk / 2.0)
    total += exchanged_s(one, 8.0 * tokens, PREFILL).sum(axis=0)
    batch = Batch.of(s, c, n, chunk, past, queries=2.0)
    np.testing.assert_allclose(total, one.step(batch).seconds, rtol=1e-9)
    decode = parts.dense(2.0 * s).sum(axis=0) + parts.heads(2.0 * s) + parts.decoding(s, c)
    decode += exchanged_s(one, 16.0 * s, DECODE).sum(axis=0)
    np.testing.assert_allclose(decode, one.step(Batch.of(s, c, queries=2.0)).seconds, rtol=1e-9)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 9000)), min_size=1, max_size=6))
def test_unequal_prompts_count_as_equal_ones(prompts):
    """As many tokens, pairs and cached tokens; and at least one prompt, at most one to a token."""
    chunks, past = np.array(prompts, dtype=float).T
    load = prompts_load(chunks, past)
    tokens, pairs, stored = load[0, [READ, PAIRS, STORED]]
    n = (stored - tokens / 2.0) * tokens / pairs
    assert 1.0 - 1e-9 <= n <= tokens * (1.0 + 1e-9)
    chunk = tokens / n
    before = stored / n - chunk
    assert n * chunk * (before + chunk / 2.0) == pytest.approx(pairs)
    one = deployment("dense")
    prices = prices_of(one, BUDGET * 2, MOST, LONGEST, Scheduler())
    engine = one.step(Batch.prefill(n, chunk, before))
    # The head alone sees how many there are.
    head = sum(e.seconds[0] for e in engine.entries() if e.op in ("lm_head", "sampling"))
    real = sum(
        e.seconds[0]
        for e in one.step(Batch.prefill(float(len(chunks)), 1.0)).entries()
        if e.op in ("lm_head", "sampling")
    )
    assert seconds_of(prices, load, 0) == pytest.approx(engine.seconds[0] - head + real, rel=0.03)


def prompts_load(chunks, past):
    load = np.zeros((1, LOADS))
    load[0, [PROMPTS, READ, STORED]] = len(chunks), chunks.sum(), (chunks + past).sum()
    load[0, PAIRS] = (chunks * (past + chunks / 2.0)).sum()
    return load


def test_graphs_run_more_tokens_than_there_are():
    one = deployment("lanes")
    plain = prices_of(one, BUDGET, MOST, LONGEST, Scheduler())
    sizes = (1, 2, 4, *range(8, 129, 8))
    graphs = prices_of(one, BUDGET, MOST, LONGEST, Scheduler(graph_sizes=sizes))

    def load(*sequences):
        rows = np.zeros((16, LOADS))
        rows[: len(sequences), SEQUENCES] = rows[: len(sequences), QUERIES] = sequences
        rows[:, CONTEXT] = rows[:, SEQUENCES] * 500.0
        return rows

    # A batch of a graph's size costs what it costs; one more costs nearly what the next graph does.
    full = load(*[16] * 16)
    assert seconds_of(graphs, full, 0) == seconds_of(plain, full, 0)
    one_more = load(*[17] * 16)
    assert seconds_of(plain, one_more, 0) < seconds_of(graphs, one_more, 0)
    assert seconds_of(graphs, one_more, 0) == pytest.approx(seconds_of(plain, load(*[24] * 16), 0), rel=0.03)
    # All lanes run the graph of the fullest one, and beyond the largest graph none is run.
    assert seconds_of(graphs, load(17), 0) > seconds_of(plain, load(17), 0)
    assert seconds_of(graphs, load(130), 0) == seconds_of(plain, load(130), 0)
    assert padded_of(()).tolist() == []


def test_vllm_pads_to_its_own_sizes():
    sizes = vllm_graph_sizes(256)
    table = padded_of(sizes)
    assert (table >= np.arange(len(table))).all()
    assert [int(table[n]) for n in (1, 3, 9, 255, 257, 512)] == [1, 4, 16, 256, 272, 512]


def test_the_host_hides_behind_devices_or_adds_to_them():
    slow = deployment("dense", traits=Traits(host_s=1.0))
    load = np.zeros((1, LOADS))
    load[0, [SEQUENCES, QUERIES, CONTEXT]] = 4.0, 4.0, 400.0
    adds = prices_of(slow, BUDGET, MOST, LONGEST, Scheduler())
    hides = prices_of(slow, BUDGET, MOST, LONGEST, Scheduler(asynchronous=True))
    device = seconds_of(prices_of(deployment("dense"), BUDGET, MOST, LONGEST, Scheduler()), load, 0)
    assert seconds_of(adds, load, 0) == pytest.approx(1.0 + device)
    assert seconds_of(hides, load, 0) == 1.0


def test_tables_are_kept():
    one = deployment("dense")
    first = prices_of(one, BUDGET, MOST, LONGEST, Scheduler())
    again = prices_of(one, BUDGET - 5, MOST, LONGEST - 100, Scheduler(asynchronous=True))
    assert again.data is first.data
    assert prices_of(deployment("dense"), BUDGET, MOST, LONGEST, Scheduler()).data is not first.data


seconds = st.floats(1e-6, 1e-2)


@given(st.integers(1, 90), seconds, seconds | st.just(0.0), seconds, seconds | st.just(0.0))
def test_two_batches_take_turns_as_on_the_timeline(layers, attention, there, experts, back):
    engine = makespan(two_batch_layers(layers, *(np.array([x]) for x in (attention, there, experts, back))))
    assert two_batch_s(layers, attention, there, experts, back) == pytest.approx(engine[0], rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_no_step_beats_its_bound(name):
    one = deployment(name)
    prices = prices_of(one, BUDGET, MOST, LONGEST, Scheduler())
    rng = np.random.default_rng(7)
    for reads in (False, True):
        loads, batch = random_batches(rng, one, BUDGET, MOST, LONGEST, 200, reads)
        assert (seconds_of_all(prices, loads) >= one.step(batch).bound_s * (1.0 - 1e-3)).all()


@pytest.mark.parametrize("name", ["dense", "windows", "lanes", "two-batch"])
def test_more_work_is_never_cheaper(name):
    """One more sequence, longer contexts, one more prompt, more tokens read."""
    one = deployment(name)
    prices = prices_of(one, BUDGET, MOST, LONGEST, Scheduler())
    rng = np.random.default_rng(3)
    loads, _ = random_batches(rng, one, BUDGET // 2, MOST // 2, LONGEST // 2, 400, True)
    before = seconds_of_all(prices, loads)
    room = 1.0 + 0.5 * (name in ("lanes", "two-batch"))  # in percent: hit experts are drawn batch by batch
    for change in ("sequence", "context", "prompt", "chunk"):
        more = loads.copy()
        lane = more[:, 0]
        if change == "sequence":
            lane[:, SEQUENCES] += 1.0
            lane[:, QUERIES] += 1.0
            lane[:, CONTEXT] += 100.0
        elif change == "context":
            lane[:, CONTEXT] *= 2.0
        elif change == "prompt":
            lane[:, PROMPTS] += 1.0
            lane[:, READ] += 100.0
            lane[:, PAIRS] += 5000.0
            lane[:, STORED] += 100.0
        else:
            lane[:, STORED] += lane[:, READ]
            lane[:, PAIRS] *= 2.0
            lane[:, PAIRS] += lane[:, READ] ** 2 / np.maximum(lane[:, PROMPTS], 1.0)
            lane[:, READ] *= 2.0
        assert (seconds_of_all(prices, more) >= before * (1.0 - room / 100.0)).all(), change


@pytest.mark.parametrize("name", ["dense", "lanes"])
def test_faster_memory_never_makes_a_step_slower(name):
    one = deployment(name)
    device = one.hardware.device
    twice = {memory: 2.0 * x for memory, x in device.processor.bandwidth_bytes_per_s.items()}
    main = replace(device.processor, bandwidth_bytes_per_s=twice)
    device = replace(device, processors=(main, *device.processors[1:]))
    quick = Deployment(one.model, replace(one.hardware, device=device), one.layout, one.precision)
    loads, _ = random_batches(np.random.default_rng(5), one, BUDGET, MOST, LONGEST, 200, True)
    slow_s = seconds_of_all(prices_of(one, BUDGET, MOST, LONGEST, Scheduler()), loads)
    quick_s = seconds_of_all(prices_of(quick, BUDGET, MOST, LONGEST, Scheduler()), loads)
    assert (quick_s <= slow_s * 1.01).all()
    assert quick_s.sum() < 0.95 * slow_s.sum()


def test_constant_prices():
    load = np.zeros((3, LOADS))
    load[1, [SEQUENCES, QUERIES, CONTEXT]] = 5.0, 5.0, 100.0
    assert seconds_of(constant_prices(0.25), load, 0) == 0.25


def test_refined_finds_a_bend_and_leaves_a_line_alone():
    (line,), _ = refined(lambda x: 3.0 * x + 1.0, (octaves(1.0, 1000.0),), 0.1, 1e-3, (False,))
    assert len(line) == len(octaves(1.0, 1000.0))
    (bent,), values = refined(lambda x: np.maximum(x, 300.0), (octaves(1.0, 1000.0),), 0.1, 1e-3, (False,))
    assert len(bent) > len(line)
    x = np.linspace(1.0, 1000.0, 2000)
    np.testing.assert_allclose(np.interp(x, bent, values), np.maximum(x, 300.0), rtol=0.02)


def test_engine_seconds_has_drafts():
    with_drafts, without = deployment("drafts"), deployment("lanes")
    batch = Batch.of(sequences=np.array([8.0]), context=100.0, queries=3.0)
    drafted = engine_seconds(with_drafts, batch) - without.step(batch).seconds
    assert drafted[0] == pytest.approx(with_drafts.decode(np.array([128.0]), np.array([100.0])).draft_s[0])


def test_the_loops_price_chunks_as_the_engine_does():
    """A lone prompt in chunks of 1000: each is read behind those before it."""
    one = deployment("dense")
    requests = RequestTrace(np.zeros(1), np.array([2500]), np.array([1]))
    engine = Engine(chunk_tokens=1000.0)
    outcome = simulate(one.model, one.hardware, one.layout, requests, engine=engine, traits=Traits())
    steps = one.step(Batch.prefill(1.0, np.array([1000.0, 1000.0, 500.0]), np.array([0.0, 1000.0, 2000.0])))
    assert outcome.ttft_s[0] == pytest.approx(steps.seconds.sum(), rel=0.01)
