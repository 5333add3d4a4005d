"""Offloaded layers compute what layers do whose experts are all there, bit for bit, however streams run."""

from types import SimpleNamespace

import numpy as np
import pytest

from moesim.reference.cuda import CudaRunner
from moesim.reference.cuda.backend import download
from moesim.reference.cuda.emulated import EmulatedBackend
from moesim.reference.cuda.layer import Layer, Pool, Workspace
from moesim.reference.cuda.offload import HostExperts, OffloadedLayer
from moesim.reference.exact import inputs
from moesim.reference.layer import Case, LayerShape
from moesim.reference.routings import route

SHAPE = LayerShape("eight", num_experts=8, top_k=2, hidden=64, width=64)


class Cells:
    """Decisions at random that memory allows, of the form of `moesim.reference.slots`."""

    def __init__(self, slots: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.content = np.full(slots, -1)
        self.content[: slots - 1] = self.rng.permutation(SHAPE.num_experts)[: slots - 1]
        self.start = self.where()

    def where(self):
        found = np.full(SHAPE.num_experts, -1, np.int32)
        for slot, expert in enumerate(self.content):
            if expert >= 0:
                found[expert] = slot
        return found

    def load(self, expert: int, slot: int):
        self.content[self.content == expert] = -1
        self.content[slot] = expert
        return SimpleNamespace(expert=int(expert), slot=int(slot))

    def cell(self, ids):
        asked = list(self.rng.permutation(np.unique(ids)))
        ahead, rounds = [], []
        missing = [expert for expert in asked if self.where()[expert] < 0]
        free = [slot for slot, expert in enumerate(self.content) if expert not in asked]
        if missing and free and self.rng.random() < 0.5:
            ahead.append(self.load(missing.pop(), free.pop()))
        waiting = list(asked)
        while waiting:
            runs = [expert for expert in waiting if self.where()[expert] >= 0]
            free = [slot for slot, expert in enumerate(self.content) if expert not in runs]
            loads = [self.load(expert, slot) for expert, slot in zip(missing, free, strict=False)]
            missing = missing[len(loads) :]
            runs += [load.expert for load in loads]
            waiting = [expert for expert in waiting if expert not in runs]
            slots = self.where()
            others = [expert for expert in asked if expert not in runs]
            slots[others] = -1
            rounds.append(
                SimpleNamespace(loads=tuple(loads), slot_of_expert=slots, runs=np.array(runs, np.int32))
            )
        return SimpleNamespace(fill=(), ahead=tuple(ahead), rounds=tuple(rounds))


@pytest.fixture(scope="module")
def batches():
    """Batches of one layer with their outputs, every expert being there."""
    made = []
    with CudaRunner(backend=EmulatedBackend((8, 0))) as device:
        for seed, (tokens, routing) in enumerate([(1, "uniform"), (6, "uniform"), (40, "zipf:1")]):
            case = Case(SHAPE, tokens, routing, dtype="bf16")
            prepared = device.prepare(case, route(case, draw=seed))
            prepared.run(parts=False)
            made.append((case, prepared.ids, prepared.output()))
            prepared.close()
    return made


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("slots", [2, 3, 6])
def test_any_decisions_give_the_same_bits(batches, slots, seed):
    case, ids, wanted = batches[seed % 3]
    backend = EmulatedBackend((8, 0), seed=seed)
    given = inputs(case)
    layer = Layer(Workspace(backend, SHAPE, case.tokens), given.x, given.router, ids)
    host = HostExperts(backend, given)
    offloaded = OffloadedLayer(layer, Pool.empty(backend, slots, SHAPE), host)
    cells = Cells(slots, seed)
    offloaded.restore(cells.start)
    number = set()
    for _ in range(3):
        cell = cells.cell(ids)
        number.add(len(cell.rounds))
        backend.fill(layer.out, 0xFF)
        timing = offloaded.run(cell)
        assert (download(backend, layer.out) == bits_of(wanted)).all()
        copied = bool(cell.ahead or any(part.loads for part in cell.rounds))
        assert (timing.parts["copy"] > 0) == copied
    assert slots > 2 or case.tokens == 1 or max(number) > 1
    backend.close()


def bits_of(values):
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def outcomes(monkeypatch, method: str, batch) -> set[bool]:
    """Whether bits are right, for several orders of the streams, without the waits of one kind."""
    case, ids, wanted = batch

    def right(seed: int) -> bool:
        backend = EmulatedBackend((8, 0), seed=seed)
        given = inputs(case)
        layer = Layer(Workspace(backend, SHAPE, case.tokens), given.x, given.router, ids)
        offloaded = OffloadedLayer(layer, Pool.empty(backend, 2, SHAPE), HostExperts(backend, given))
        cells = Cells(2, 0)
        offloaded.restore(cells.start)
        real = backend.wait

        def wait(event, stream=None):
            if (stream is None) == (method == "kernels"):
                return
            real(event, stream)

        monkeypatch.setattr(backend, "wait", wait)
        offloaded.run(cells.cell(ids))
        return bool((download(backend, layer.out) == bits_of(wanted)).all())

    return set(map(right, range(6)))


@pytest.mark.parametrize("who", ["kernels", "copies"])
def test_a_wait_left_out_shows(monkeypatch, batches, who):
    assert False in outcomes(monkeypatch, who, batches[1])


def test_residents_run_while_copies_are_under_way():
    backend = EmulatedBackend((8, 0))
    case = Case(SHAPE, 6, dtype="bf16")
    given, ids = inputs(case), np.array([[0, 1]] * 6, np.int32)
    layer = Layer(Workspace(backend, SHAPE, 6), given.x, given.router, ids)
    offloaded = OffloadedLayer(layer, Pool.empty(backend, 3, SHAPE), HostExperts(backend, given))
    resident = np.full(8, -1, np.int32)
    resident[0] = 1
    offloaded.restore(resident)
    calls = []
    launch, wait = backend.launch, backend.wait

    def started(made, stream=None):
        calls.append(made.kernel)
        launch(made, stream)

    def waited(event, stream=None):
        calls.append("wait" if stream is None else "copies wait")
        wait(event, stream)

    backend.launch, backend.wait = started, waited
    slots = np.array([1, 2] + [-1] * 6, np.int32)
    part = SimpleNamespace(
        loads=(SimpleNamespace(expert=1, slot=2),), slot_of_expert=slots, runs=np.array([0, 1], np.int32)
    )
    offloaded.run(SimpleNamespace(fill=(), ahead=(), rounds=(part,)))
    products = ["list_tiles", "experts_up", "experts_down"]
    before = ["copies wait", "router_logits", "route_small", "permute"]
    assert calls == [*before, *products, "wait", *products, "combine"]
