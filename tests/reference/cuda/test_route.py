"""Kernels around the experts, emulated, against numpy in float64 and by sorting."""

import numpy as np
import pytest
from grouped_products import from_bf16
from hypothesis import given, settings
from hypothesis import strategies as st
from routed_batch import (
    arrays,
    check_layer,
    check_plan,
    expected_choice,
    expected_plan,
    expected_sum,
    ids_of,
    launch,
    normal_bf16,
    plan_step,
    sizes,
)

from moesim.errors import ConfigError
from moesim.reference.cuda.emulate import build, guarded, source
from moesim.reference.cuda.routing import PROGRAM_FILES, Routing, Step

pytestmark = pytest.mark.emulation

LAWS = ("uniform", "skewed", "half empty", "one-hot")
# tokens, experts, top-k, rows of a tile
PLANS = [
    (1, 1, 1, 16),
    (1, 8, 2, 16),
    (19, 512, 16, 16),
    (1, 128, 8, 8),
    (13, 8, 1, 64),
    (37, 60, 4, 16),
    (67, 128, 8, 32),
    (301, 64, 6, 64),
]


@pytest.fixture(scope="session")
def emulation():
    return build(source(PROGRAM_FILES))


@pytest.mark.parametrize(
    ("tokens", "experts", "hidden", "order"),
    [(1, 8, 64, 0), (5, 130, 704, 1), (70, 64, 192, 2), (129, 33, 128, 0)],
)
def test_logits_are_the_product(emulation, tokens, experts, hidden, order):
    routing = sizes(tokens, experts, 1, hidden)
    batch = arrays(routing)
    batch["x"][:] = normal_bf16((tokens, hidden))
    batch["router"][:] = normal_bf16((experts, hidden), 1, hidden**-0.5)
    launch(emulation, routing.before()[0], batch, order)
    x, router = (from_bf16(batch[name]).astype(np.float64) for name in ("x", "router"))
    got = batch["logits"].astype(np.float64)
    assert got.shape[0] == routing.slabs
    np.testing.assert_allclose(got.sum(0)[:, :experts], x @ router.T, atol=2e-6)
    assert not got[:, :, experts:].any()
    step = routing.hidden // 64 // routing.slabs * 64
    if step * routing.slabs == hidden:  # slabs are equal: each is the product of its part
        parts = [x[:, i : i + step] @ router[:, i : i + step].T for i in range(0, hidden, step)]
        np.testing.assert_allclose(got[:, :, :experts], parts, atol=2e-6)


def choose(emulation, logits, top_k, *, renormalise=True, forced=None, order=0):
    """Of logits [slabs, tokens, experts]."""
    slabs, tokens, experts = logits.shape
    padded = guarded((slabs, tokens, -(-experts // 4) * 4), np.float32)
    padded[..., :experts] = logits
    batch = {
        "logits": padded,
        "ids": guarded((tokens, top_k), np.int32),
        "weights": guarded((tokens, top_k), np.float32),
        "forced": forced,
    }
    numbers = (tokens, experts, top_k, slabs, int(renormalise))
    given_ids = "null" if forced is None else "forced"
    step = Step("top_k", -(-tokens // 4), 128, 0, ("logits", given_ids, "ids", "weights", *numbers))
    launch(emulation, step, batch, order)
    return batch["ids"], batch["weights"]


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "renormalise"),
    [
        (1, 8, 2, True),
        (9, 8, 8, False),
        (6, 60, 4, True),
        (5, 128, 8, False),
        (3, 512, 16, True),
        (4, 1, 1, True),
    ],
)
def test_best_experts_and_their_weights(emulation, tokens, experts, top_k, renormalise):
    logits = np.random.default_rng(3).normal(size=(3, tokens, experts)).astype(np.float32)
    summed = logits[0] + logits[1] + logits[2]
    ids, weights = choose(emulation, logits, top_k, renormalise=renormalise)
    expected_ids, expected_weights = expected_choice(summed, top_k, renormalise)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(weights, expected_weights, rtol=3e-6)


@settings(max_examples=25)
@given(st.data())
def test_ties_go_to_the_lower_id(emulation, data):
    experts = data.draw(st.integers(1, 140), "experts")
    top_k = data.draw(st.integers(1, min(16, experts)), "top_k")
    few = st.sampled_from([-3.0, -0.0, 0.0, 1.0, 1.0000001, -1e30, 80.0])
    values = data.draw(st.lists(few, min_size=experts, max_size=experts), "logits")
    logits = np.array(values, np.float32)[None, None]
    ids, weights = choose(emulation, logits, top_k, order=data.draw(st.integers(0, 3), "order"))
    expected_ids, expected_weights = expected_choice(logits[0], top_k, renormalise=True)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(weights, expected_weights, rtol=2e-5, atol=1e-30)


def test_forced_ids_get_the_weights_of_the_router(emulation):
    logits = np.random.default_rng(4).normal(size=(2, 7, 40)).astype(np.float32)
    forced = ids_of("skewed", 7, 40, 4)
    for renormalise in (True, False):
        ids, weights = choose(emulation, logits, 4, renormalise=renormalise, forced=forced)
        np.testing.assert_array_equal(ids, forced)
        expected = expected_choice(logits[0] + logits[1], 4, renormalise, forced)[1]
        np.testing.assert_allclose(weights, expected, rtol=3e-6)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("tokens", "experts", "top_k", "rows"), PLANS)
def test_rows_and_tiles_are_those_of_a_stable_sort(emulation, law, tokens, experts, top_k, rows):
    routing = sizes(tokens, experts, top_k, rows=rows)
    batch = arrays(routing)
    batch["ids"][:] = ids_of(law, tokens, experts, top_k)
    batch["slot_of_expert"][:] = np.random.default_rng(5).permutation(experts)
    launch(emulation, plan_step(routing), batch)
    check_plan(batch, routing)


def test_many_chunks_in_any_order_of_threads(emulation):
    routing = sizes(700, 40, 7, rows=32)
    assert routing.chunks == 5
    found = []
    for order in (0, 1, 9):
        batch = arrays(routing)
        batch["ids"][:] = ids_of("skewed", 700, 40, 7)
        for _ in range(2):  # the ticket is left as it was found
            launch(emulation, plan_step(routing), batch, order)
            check_plan(batch, routing)
        found.append({name: batch[name].tobytes() for name in ("rank", "base", "counts", "offsets", "tiles")})
    assert found[0] == found[1] == found[2]


@settings(max_examples=20)
@given(st.data())
def test_tiles_cover_the_rows_of_experts_that_are_there(emulation, data):
    experts = data.draw(st.integers(1, 70), "experts")
    top_k = data.draw(st.integers(1, min(8, experts)), "top_k")
    tokens = data.draw(st.integers(1, 90), "tokens")
    rows = data.draw(st.sampled_from([8, 16, 64, 128]), "rows")
    routing = sizes(tokens, experts, top_k, rows=rows)
    batch = arrays(routing)
    batch["ids"][:] = ids_of(data.draw(st.sampled_from(["uniform", "skewed"]), "law"), tokens, experts, top_k)
    there = np.array(data.draw(st.lists(st.booleans(), min_size=experts, max_size=experts), "there"))
    batch["slot_of_expert"][:] = np.where(there, there.cumsum() - 1, -1)
    launch(emulation, plan_step(routing), batch, data.draw(st.integers(0, 2), "order"))
    check_plan(batch, routing)
    # What is meant by it: each row of an expert that is there is in one tile, and no other row is in any.
    covered = np.zeros(routing.pairs, int)
    for _, first, end, expert in batch["tiles"][: batch["num_tiles"][0]]:
        covered[first : min(first + rows, end)] += 1
        assert there[expert]
    expected = np.repeat(there, batch["counts"]).astype(int)
    np.testing.assert_array_equal(covered, expected)
    # Experts that come later: a list of their own, and both lists together are the whole.
    batch["slot_of_expert"][:] = np.where(there, -1, np.arange(experts))
    launch(emulation, routing.list_tiles(), batch)
    tiles = expected_plan(batch["ids"], batch["slot_of_expert"], rows)[3]
    np.testing.assert_array_equal(batch["tiles"][: batch["num_tiles"][0]], tiles)


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "hidden", "missing"),
    [(1, 8, 2, 64, 0), (1, 64, 8, 2816, 3), (7, 16, 1, 192, 2), (45, 60, 4, 64, 0), (150, 128, 8, 128, 40)],
)
def test_rows_go_there_and_come_back_summed(emulation, tokens, experts, top_k, hidden, missing):
    routing = sizes(tokens, experts, top_k, hidden)
    batch = arrays(routing)
    batch["x"][:] = normal_bf16((tokens, hidden))
    batch["ids"][:] = ids_of("skewed", tokens, experts, top_k)
    batch["weights"][:] = np.random.default_rng(6).random((tokens, top_k))
    gone = np.random.default_rng(7).permutation(experts)[:missing]
    batch["slot_of_expert"][gone] = -1
    launch(emulation, plan_step(routing), batch)
    launch(emulation, routing.permute(), batch, order=1)
    place = expected_plan(batch["ids"], batch["slot_of_expert"], routing.rows)[0]
    np.testing.assert_array_equal(batch["place"], place)
    np.testing.assert_array_equal(batch["xp"][place], np.repeat(batch["x"][:, None], top_k, 1))
    # Rows of experts that are not there were never computed: they stay poison, and must not show.
    rows = np.isin(batch["ids"], gone, invert=True)
    batch["y"][place[rows]] = normal_bf16((int(rows.sum()), hidden), 8)
    launch(emulation, routing.combine(), batch, order=2)
    np.testing.assert_allclose(from_bf16(batch["out"]), expected_sum(batch), rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "hidden"),
    [(1, 128, 8, 2816), (8, 40, 16, 128), (3, 8, 2, 64), (9, 8, 2, 64)],
)
@pytest.mark.parametrize("forced", [False, True], ids=["chosen", "forced"])
def test_from_tokens_to_the_plan(emulation, tokens, experts, top_k, hidden, forced):
    routing = sizes(tokens, experts, top_k, hidden, renormalise=False)
    batch = arrays(routing)
    batch["x"][:] = normal_bf16((tokens, hidden))
    batch["router"][:] = normal_bf16((experts, hidden), 1, hidden**-0.5)
    batch["forced"][:] = ids_of("uniform", tokens, experts, top_k, 11)
    steps = routing.before(forced=forced)
    assert len(steps) == (2 if tokens <= 8 else 3)
    for step in steps:
        launch(emulation, step, batch)
    logits = np.zeros((tokens, experts), np.float32)
    for slab in batch["logits"]:
        logits += slab[:, :experts]
    ids, weights = expected_choice(logits, top_k, False, batch["forced"] if forced else None)
    np.testing.assert_array_equal(batch["ids"], ids)
    np.testing.assert_allclose(batch["weights"], weights, rtol=3e-6)
    check_plan(batch, routing)


@settings(max_examples=12)
@given(st.data())
def test_a_batch_of_any_size(emulation, data):
    experts = data.draw(st.integers(1, 140), "experts")
    routing = Routing(
        tokens=data.draw(st.integers(1, 40), "tokens"),
        num_experts=experts,
        top_k=data.draw(st.integers(1, min(16, experts)), "top_k"),
        hidden=64 * data.draw(st.integers(1, 9), "hidden / 64"),
        rows=data.draw(st.sampled_from([8, 16, 64, 128]), "rows"),
        multiprocessors=data.draw(st.sampled_from([1, 3, 132]), "multiprocessors"),
        renormalise=data.draw(st.booleans(), "renormalise"),
    )
    check_layer(emulation, routing, data.draw(st.integers(0, 3), "order"))


def test_sizes_that_are_not_taken():
    with pytest.raises(ConfigError) as caught:
        Routing(0, 600, 17, 100, 16, 4)
    assert [fault.where for fault in caught.value.faults] == ["tokens", "num_experts", "top_k", "hidden"]
    with pytest.raises(ConfigError, match="no more than experts"):
        sizes(4, 4, 5)


def test_launches_fit_the_gpu():
    for tokens in (1, 8, 9, 128, 4096, 16384):
        for experts, top_k, hidden in ((8, 2, 4096), (128, 8, 2816), (512, 16, 7168), (16, 1, 64)):
            routing = Routing(tokens, experts, top_k, hidden, 16, multiprocessors=132)
            fixed = 11264  # PlanRoom, as ptxas reports it
            for step in (*routing.before(), routing.permute(), routing.combine(), routing.list_tiles()):
                own = fixed if step.kernel in ("plan", "route_small", "list_tiles") else 0
                assert step.shared_bytes + own <= 48 << 10  # without asking for more
                assert 1 <= step.grid < 2**31
                assert step.threads <= 1024
            steps = hidden // 64
            assert (routing.slabs - 1) * -(-steps // routing.slabs) < steps  # no slab is empty
