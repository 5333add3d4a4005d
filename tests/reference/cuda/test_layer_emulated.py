"""The whole layer, run by the very kernels of the GPU on the host, against float64."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError, InfeasibleError, UnknownNameError
from moesim.reference.cuda import CudaRunner, runner
from moesim.reference.cuda.check import (
    BATCHES,
    LIMIT,
    SHAPES,
    check_case,
    check_kernels,
    check_paths,
    distance,
    usable,
)
from moesim.reference.cuda.emulated import EmulatedBackend
from moesim.reference.cuda.variants import VARIANTS, by_name
from moesim.reference.exact import bf16_round, bf16_values, router
from moesim.reference.layer import Case, LayerShape
from moesim.reference.routings import route
from tests.reference.cuda.fake_gpu import run

pytestmark = pytest.mark.emulation

SMALL = LayerShape("small", num_experts=8, top_k=2, hidden=128, width=64)
OLDER = (8, 0)


@pytest.mark.parametrize("variant", [variant.name for variant in VARIANTS])
def test_every_kernel_is_right_with_every_variant(variant):
    backend, variants = EmulatedBackend(), [by_name(variant)]
    # Every other batch with each shape: threads of the host are slow.
    checks = check_kernels(backend, shapes=SHAPES[:1], batches=BATCHES[::2], variants=variants)
    checks += check_kernels(backend, shapes=SHAPES[1:], batches=BATCHES[1::2], variants=variants)
    assert {check.name.split()[0] for check in checks} == {
        "router", "weights", "plan", "place", "permute", "experts_up", "experts_down", "combine", "layer",
    }  # fmt: skip
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("capability", [(9, 0), OLDER], ids=["hopper", "older"])
@pytest.mark.parametrize("tokens", [1, 3, 16, 64])
def test_the_router_chooses_and_the_layer_follows(capability, tokens):
    case = Case(SMALL, tokens, dtype="bf16", seed=tokens)
    with CudaRunner(backend=EmulatedBackend(capability, seed=tokens)) as device:
        prepared = device.prepare(case)
        ids, weights = router(prepared.inputs(), SMALL.top_k, SMALL.renormalise)
        assert (prepared.ids == ids).all()
        assert np.allclose(prepared.weights, weights, atol=1e-6)
        assert (prepared.counts == np.bincount(ids.ravel(), minlength=8)).all()
        assert prepared.variant.startswith("sm90" if capability == (9, 0) else "mma")
        assert [check for check in check_case(prepared) if not check.passed] == []


def as_stored(given, ids, weights):
    """The layer in float64, rounded to bf16 where the kernels write bf16 to memory: token by token."""

    def kept(values):
        return bf16_round(np.asarray(values, np.float32)).astype(np.float64)

    x, gate_up, down = (bf16_values(a).astype(np.float64) for a in (given.x, given.gate_up, given.down))
    out = np.zeros_like(x)
    for token, row in enumerate(x):
        for expert, weight in zip(ids[token], weights[token], strict=True):
            gate, up = np.split(gate_up[expert] @ row, 2)
            out[token] += weight * kept(down[expert] @ kept(gate / (1 + np.exp(-gate)) * up))
    return kept(out)


@pytest.mark.parametrize("routing", ["uniform", "one-hot", "ragged", "zipf:1.5"])
@pytest.mark.parametrize("variant", ["sm90_64x128", "sm90_swap_16", "mma_64x128"])
def test_a_layer_is_what_float64_makes_of_it_with_the_same_roundings(variant, routing):
    case = Case(LayerShape("twelve", 12, 3, 64, 128), 24, routing, dtype="bf16")
    with CudaRunner(backend=EmulatedBackend(), variant=variant) as device:
        prepared = device.prepare(case, route(case))
        prepared.run()
        wanted = as_stored(prepared.inputs(), prepared.ids, prepared.weights)
        assert distance(prepared.output(), wanted) < LIMIT


def test_a_graph_and_repetitions_change_no_bit():
    case = Case(SMALL, 9, "zipf:1", dtype="bf16")
    outputs, kernels = [], []
    for graph_tokens in (0, 9):
        backend = EmulatedBackend(OLDER)
        with CudaRunner(backend=backend, graph_tokens=graph_tokens) as device:
            prepared = device.prepare(case)
            assert prepared.graph == (graph_tokens == 9)
            for _ in range(2):
                before = backend.launches
                timing = prepared.run(parts=False)
                kernels.append(backend.launches - before)
                outputs.append(prepared.output())
            assert timing.seconds > 0
            assert not timing.parts
    assert all((output == outputs[0]).all() for output in outputs)
    # Router, best experts, plan, permutation, two products, sum; and what empties the cache.
    assert kernels == [8] * 4


def test_every_way_to_run_a_layer_gives_the_same_bits():
    checks = check_paths(EmulatedBackend(seed=3))
    assert len(checks) == 8
    assert all(check.passed for check in checks)


def test_parts_are_those_of_the_contract():
    ticks = iter(range(10_000))
    backend = EmulatedBackend(clock=lambda: float(next(ticks)))
    with CudaRunner(backend=backend) as device:
        prepared = device.prepare(Case(SMALL, 2, dtype="bf16"))
        timing = prepared.run()
    assert [launch.kernel for launch in prepared.launches()] == [
        "router_logits", "route_small", "permute", "experts_up", "experts_down", "combine",
    ]  # fmt: skip
    names = ("router", "top_k", "permute", "up", "down", "weighted_sum")
    assert timing.parts == {**dict.fromkeys(names, 1.0), "experts": 3.0}
    assert timing.seconds == 1.0


def test_cases_share_weights_and_room():
    backend = EmulatedBackend()
    with CudaRunner(backend=backend) as device:
        free = [backend.memory()[0]]
        cases = [Case(SMALL, 8, routing, dtype="bf16") for routing in ("uniform", "one-hot")]
        prepared = [device.prepare(case, route(case)) for case in cases]
        free.append(backend.memory()[0])
        again = device.prepare(cases[0], route(cases[0]))
        # x, router, ids (given and taken), weights, output, slots, tiles and their number: no experts.
        assert free[1] - backend.memory()[0] < 8 * 128 * 2 * 2 + 8 * 128 * 2 + 1000
        alone = []
        for one in (*prepared, again):
            one.run()
            alone.append(one.output())
        assert (alone[0] == alone[2]).all()
        assert (alone[0] != alone[1]).any()
        for one in (*prepared, again):
            one.close()
        other = LayerShape("other", 4, 1, 64, 64)
        device.prepare(Case(other, 1, dtype="bf16"))
        assert backend.memory()[0] > free[1]  # the weights before are gone
    assert backend.memory()[0] == backend.memory()[1]


def test_experts_that_are_alike_are_drawn_once():
    case = Case(SMALL, 4, dtype="bf16")
    with CudaRunner(backend=EmulatedBackend(), alike=True) as device:
        prepared = device.prepare(case)
        assert (prepared.inputs().down == prepared.inputs().down[0]).all()
        assert len(prepared.inputs().router) == 8
        assert [check for check in check_case(prepared) if not check.passed] == []


def test_wrong_layouts_are_seen(monkeypatch):
    monkeypatch.setattr(runner, "interleave", lambda gate_up: gate_up)
    with CudaRunner(backend=EmulatedBackend(OLDER)) as device:
        checks = check_case(device.prepare(Case(SMALL, 4, dtype="bf16")))
    assert [check.name for check in checks if not check.passed] == ["experts_up", "layer"]


def test_all_faults_of_a_case_at_once():
    with CudaRunner(backend=EmulatedBackend()) as device:
        odd = LayerShape("odd", 8, 9, 100, 68)
        with pytest.raises(ConfigError) as caught:
            device.prepare(Case(odd, 4, dtype="fp32"), np.zeros((4, 2), np.int32))
    found = str(caught.value)
    for where in ("hidden", "width", "top_k", "dtype", "ids"):
        assert f"\n  {where}:" in found


def test_a_layer_too_large_says_what_is_short_and_leaves_nothing():
    backend = EmulatedBackend(memory_bytes=300_000)
    with CudaRunner(backend=backend) as device:
        free = backend.memory()[0]
        with pytest.raises(
            InfeasibleError, match=r"memory of emulated is full: .* more are needed for small 16 "
        ):
            device.prepare(Case(SMALL, 16, dtype="bf16"))
        device.forget_all()
        assert backend.memory()[0] == free


def test_unknown_kernels():
    with pytest.raises(UnknownNameError, match="nearest: sm90_128x256"):
        CudaRunner(backend=EmulatedBackend(), variant="sm90_128x265")
    assert all(variant.source == "gemm_mma.cuh" for variant in usable((8, 6)))


def test_the_device_and_its_emulation_compute_the_same():
    """The layer through the driver's interface, on a driver without a GPU."""
    pytest.importorskip("cuda.bindings")
    code = """
from moesim.reference.cuda import CudaRunner
from moesim.reference.cuda.check import check_case
from moesim.reference.cuda.emulated import EmulatedBackend
from moesim.reference.layer import Case, LayerShape
case = Case(LayerShape("small", 8, 2, 128, 64), 9, "zipf:1", dtype="bf16")
outputs = []
for backend in (open_backend(), EmulatedBackend()):
    with CudaRunner(backend=backend) as device:
        prepared = device.prepare(case)
        assert prepared.graph
        assert all(check.passed for check in check_case(prepared))
        timing = prepared.run()
        outputs.append(prepared.output())
        away = device.prepare(Case(case.shape, 9, "zipf:1", 0.5, dtype="bf16"), prepared.ids)
        for _ in range(2):
            copied = away.run()
            assert away.loads > 0 and copied.parts["copy"] > 0
            assert (away.output() == outputs[-1]).all()
        if not backend.emulated:
            # The fake clock counts events: a microsecond from each to the next.
            assert abs(timing.seconds - 1e-6) < 1e-9
            assert all(abs(timing.parts[name] - 1e-6) < 1e-9 for name in ("router", "up", "weighted_sum"))
    backend.close()
assert (outputs[0] == outputs[1]).all()
assert fake.fake_blocks() == 0
print(prepared.variant)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["sm90_swap_8"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_layers_of_any_size_are_right(data):
    """Sizes are the kernels' arguments: what is compiled once is right for all that are allowed."""
    experts = data.draw(st.integers(1, 40))
    shape = LayerShape(
        "any",
        num_experts=experts,
        top_k=data.draw(st.integers(1, min(experts, 16))),
        hidden=64 * data.draw(st.integers(1, 4)),
        width=8 * data.draw(st.integers(1, 20)),
        renormalise=data.draw(st.booleans()),
    )
    routing = data.draw(st.sampled_from(["uniform", "zipf:1", "one-hot"]))
    case = Case(
        shape, data.draw(st.integers(1, 40)), routing, dtype="bf16", seed=data.draw(st.integers(0, 99))
    )
    name = data.draw(st.sampled_from(["sm90_swap_8", "sm90_64x128", "mma_16x128"]))
    backend = EmulatedBackend(multiprocessors=data.draw(st.integers(1, 5)), seed=data.draw(st.integers(0, 9)))
    with CudaRunner(backend=backend, variant=name) as device:
        checks = check_case(device.prepare(case, route(case)))
    assert [check for check in checks if not check.passed] == []
