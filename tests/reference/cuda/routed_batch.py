"""A batch routed by the emulated kernels, and the same by numpy."""

from __future__ import annotations

import numpy as np
from grouped_products import from_bf16, to_bf16

from moesim.reference.cuda.emulate import Emulation, guarded
from moesim.reference.cuda.routing import Routing, Step

NULL = np.int64(0)


def sizes(tokens, experts, top_k, hidden=64, rows=16, **more) -> Routing:
    return Routing(tokens, experts, top_k, hidden, rows, multiprocessors=4, **more)


def arrays(routing: Routing) -> dict[str, np.ndarray]:
    """Poisoned and guarded; every expert in the slot of its own number, no block has yet come."""
    made = {name: guarded(shape, kind) for name, (shape, kind) in routing.arrays().items()}
    made["ticket"][:] = 0
    made["slot_of_expert"][:] = np.arange(routing.num_experts)
    return made


def launch(emulation: Emulation, step: Step, batch: dict[str, np.ndarray], order: int = 0) -> None:
    args = [NULL if a == "null" else batch[a] if isinstance(a, str) else a for a in step.args]
    emulation.launch(step.kernel, step.grid, step.threads, args, step.shared_bytes, order)


def plan_step(routing: Routing) -> Step:
    """The kernel `plan`, for any number of tokens."""
    args = ("ids", "slot_of_expert", "rank", "base", "counts", "offsets", "tiles", "num_tiles", "ticket")
    shared = routing.chunk // 32 * routing.num_experts * 2
    numbers = (routing.pairs, routing.num_experts, routing.rows)
    return Step("plan", routing.chunks, routing.chunk, shared, (*args, *numbers))


def ids_of(law: str, tokens: int, experts: int, top_k: int, seed: int = 0) -> np.ndarray:
    """Distinct experts of each token, int32 [tokens, top_k]."""
    random = np.random.default_rng(seed)
    popularity = {
        "uniform": np.ones(experts),
        "skewed": np.arange(1, experts + 1) ** -1.5,
        "half empty": np.where(np.arange(experts) % 2, 0.0, 1.0),
        "one-hot": np.where(np.arange(experts) < top_k, 1.0, 0.0),
    }[law]
    with np.errstate(divide="ignore"):
        keys = np.log(popularity) + random.gumbel(size=(tokens, experts))
    return np.argsort(-keys, axis=1)[:, :top_k].astype(np.int32)


def expected_plan(ids, slots, rows: int):
    """Rows of pairs, counts, offsets and the list of tiles, by sorting."""
    experts = len(slots)
    flat = ids.ravel()
    place = np.empty(flat.size, np.int32)
    place[np.argsort(flat, kind="stable")] = np.arange(flat.size)
    counts = np.bincount(flat, minlength=experts)
    offsets = np.concatenate([[0], counts.cumsum()])
    tiles = [
        (slots[e], first, offsets[e + 1], e)
        for e in range(experts)
        if slots[e] >= 0
        for first in range(offsets[e], offsets[e + 1], rows)
    ]
    return place.reshape(ids.shape), counts, offsets, np.array(tiles, np.int32).reshape(-1, 4)


def check_plan(batch, routing: Routing) -> None:
    """Everything that the plan writes, against sorting."""
    place, counts, offsets, tiles = expected_plan(batch["ids"], batch["slot_of_expert"], routing.rows)
    np.testing.assert_array_equal(batch["counts"], counts)
    np.testing.assert_array_equal(batch["offsets"], offsets)
    assert batch["num_tiles"].tolist() == [len(tiles)]
    assert len(tiles) <= routing.max_tiles
    np.testing.assert_array_equal(batch["tiles"][: len(tiles)], tiles)
    pairs = np.arange(routing.pairs)
    rows = batch["base"][pairs // routing.chunk, batch["ids"].ravel()] + batch["rank"]
    np.testing.assert_array_equal(rows, place.ravel())


def expected_choice(logits, top_k: int, renormalise: bool, forced=None):
    """Ids, ties to the lower one, and weights in float64; logits float32 [tokens, experts]."""
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :top_k] if forced is None else forced
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    chosen = np.take_along_axis(powers, ids, 1)
    return ids, chosen / (chosen if renormalise else powers).sum(axis=1, keepdims=True)


def normal_bf16(shape, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return to_bf16(np.random.default_rng(seed).normal(size=shape) * scale)


def expected_sum(batch):
    """Of the rows of y, in float64; pairs whose expert has no slot left out."""
    y = np.nan_to_num(from_bf16(batch["y"]).astype(np.float64))[batch["place"]]
    there = batch["slot_of_expert"][batch["ids"]] >= 0
    return np.einsum("tk,tkh->th", np.where(there, batch["weights"], 0.0), y)


def check_layer(emulation: Emulation, routing: Routing, order: int = 0) -> None:
    """A whole batch, but for the experts: each array against what it must be, as soon as it is written.

    A quarter of the experts has no slot.
    """
    tokens, experts, top_k, hidden = routing.tokens, routing.num_experts, routing.top_k, routing.hidden
    batch = arrays(routing)
    batch["x"][:] = normal_bf16((tokens, hidden))
    batch["router"][:] = normal_bf16((experts, hidden), 1, hidden**-0.5)
    batch["router"][1::5] = batch["router"][::5][: len(batch["router"][1::5])]  # ties
    batch["slot_of_expert"][::4] = -1
    logits_step, *choice = routing.before()
    launch(emulation, logits_step, batch, order)
    x, router = (from_bf16(batch[name]).astype(np.float64) for name in ("x", "router"))
    logits = np.zeros((tokens, experts), np.float32)
    for slab in batch["logits"]:
        logits += slab[:, :experts]
    np.testing.assert_allclose(logits, x @ router.T, atol=1e-5)

    for step in choice:
        launch(emulation, step, batch, order)
    ids, weights = expected_choice(logits, top_k, routing.renormalise)
    np.testing.assert_array_equal(batch["ids"], ids)
    np.testing.assert_allclose(batch["weights"], weights, rtol=1e-5)
    check_plan(batch, routing)

    launch(emulation, routing.permute(), batch, order)
    place = expected_plan(ids, batch["slot_of_expert"], routing.rows)[0]
    np.testing.assert_array_equal(batch["place"], place)
    np.testing.assert_array_equal(batch["xp"][place], np.repeat(batch["x"][:, None], top_k, 1))

    there = batch["slot_of_expert"][ids] >= 0
    batch["y"][place[there]] = normal_bf16((int(there.sum()), hidden), 8)
    launch(emulation, routing.combine(), batch, order)
    np.testing.assert_allclose(from_bf16(batch["out"]), expected_sum(batch), rtol=2**-7, atol=1e-6)

    batch["slot_of_expert"][:] = np.arange(experts)[::-1]
    launch(emulation, routing.list_tiles(), batch, order)
    check_plan(batch, routing)
