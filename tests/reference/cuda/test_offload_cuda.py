"""Offloaded layers compute what layers do whose experts are all there, bit for bit, however streams run."""

from types import SimpleNamespace

import numpy as np
import pytest

from moesim.policy import Composition, Residency, Transfer
from moesim.policy.batchers.gather import gather
from moesim.policy.predictors import NoisyOracle
from moesim.reference.cuda import CudaRunner
from moesim.reference.cuda.backend import download
from moesim.reference.cuda.emulated import EmulatedBackend
from moesim.reference.cuda.layer import Layer, Pool, Workspace
from moesim.reference.cuda.layout import interleave
from moesim.reference.cuda.offload import HostExperts, Offloaded
from moesim.reference.exact import inputs
from moesim.reference.layer import Case, LayerShape
from moesim.reference.placed import placed, placed_case
from moesim.reference.routings import route
from moesim.trace.types import RoutingTrace

pytestmark = pytest.mark.emulation

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
    offloaded = Offloaded([layer], [host], Pool.empty(backend, slots, SHAPE))
    cells = Cells(slots, seed)
    offloaded.restore(cells.start)
    number = set()
    for _ in range(3):
        cell = cells.cell(ids)
        number.add(len(cell.rounds))
        backend.fill(layer.out, 0xFF)
        timing = offloaded.run([cell])
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
        offloaded = Offloaded([layer], [HostExperts(backend, given)], Pool.empty(backend, 2, SHAPE))
        cells = Cells(2, 0)
        offloaded.restore(cells.start)
        real = backend.wait

        def wait(event, stream=None):
            if (stream is None) == (method == "kernels"):
                return
            real(event, stream)

        monkeypatch.setattr(backend, "wait", wait)
        offloaded.run([cells.cell(ids)])
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
    offloaded = Offloaded([layer], [HostExperts(backend, given)], Pool.empty(backend, 3, SHAPE))
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
    offloaded.run([SimpleNamespace(fill=(), ahead=(), rounds=(part,))])
    products = ["list_tiles", "experts_up", "experts_down"]
    before = ["copies wait", "router_logits", "route_small", "permute"]
    assert calls == [*before, *products, "wait", *products, "combine"]


@pytest.mark.parametrize("rule", ["lru", "static", "on-demand", "lfu"])
def test_a_case_is_run_as_the_policy_decides(rule):
    outputs, loads = [], []
    for offloaded in (0.0, 0.25, 0.75):
        case = Case(SHAPE, 3, "zipf:0.5", offloaded=offloaded, dtype="bf16")
        ids = route(Case(SHAPE, 3, "zipf:0.5", dtype="bf16"))
        with CudaRunner(backend=EmulatedBackend((8, 0), seed=1), rule=rule) as device:
            prepared = device.prepare(case, ids)
            for _ in range(2):
                timing = prepared.run()
                outputs.append(prepared.output())
            assert (timing.parts.get("copy", 0.0) > 0) == (prepared.loads > 0)
            assert not prepared.graph or not offloaded
            loads.append(prepared.loads)
    assert all((output == outputs[0]).all() for output in outputs)
    hit = len(np.unique(ids))
    assert loads[0] == 0
    assert loads[1:] == [hit, hit] if rule == "on-demand" else 0 <= loads[1] <= loads[2] <= hit


def test_decisions_can_be_given():
    case = Case(SHAPE, 3, "uniform", offloaded=0.5, dtype="bf16")
    asked = []

    def decide(of, ids):
        asked.append(of)
        return placed_case(of, ids, rule="on-demand")

    with CudaRunner(backend=EmulatedBackend((8, 0)), decide=decide) as device:
        prepared = device.prepare(case)
        assert prepared.loads == len(np.unique(prepared.ids))
    assert asked == [case]


@pytest.mark.parametrize("seed", range(4))
def test_layers_share_a_pool_and_fetch_ahead(seed):
    """Three layers, six steps: copies for the next layer run beside the experts of this one."""
    rng = np.random.default_rng(seed)
    layers, steps, tokens = 3, 6, 2
    rows = [
        [[rng.permutation(8)[:2].tolist() for _ in range(tokens)] for _ in range(layers)]
        for _ in range(steps)
    ]
    ids = np.array(rows, np.uint8)
    trace_rows = ids.transpose(0, 2, 1, 3).reshape(steps * tokens, layers, 2)
    numbers = np.arange(len(trace_rows), dtype=np.int32)
    trace = RoutingTrace(trace_rows, numbers * 0, 8, (0, 1, 2), numbers, np.ones(len(numbers), np.int8))
    of = gather(trace, numbers.astype(np.int64), np.arange(steps + 1) * tokens)
    residency = Residency("lru", lookup="token_batch", start="random")
    guess = NoisyOracle(recall=0.8, precision=0.7, wrap=True, seed=seed)
    decided = placed(Composition(residency, Transfer(width=2), predictor=guess), of, 14, spares=2)
    assert decided.counts["prefetched"].sum() > 0
    given = [inputs(Case(SHAPE, tokens, dtype="bf16", seed=n)) for n in range(layers)]
    resident = resident_outputs(given, ids, tokens)
    backend = EmulatedBackend((8, 0), seed=seed)
    space = Workspace(backend, SHAPE, tokens)
    made = [Layer(space, one.x, one.router, ids[0, n].astype(np.int32)) for n, one in enumerate(given)]
    hosts = [HostExperts(backend, one) for one in given]
    offloaded = Offloaded(made, hosts, Pool.empty(backend, decided.slots, SHAPE))
    for step in range(steps):
        for n, layer in enumerate(made):
            layer.choose_instead(ids[step, n].astype(np.int32))
        offloaded.run(decided.cells[step * layers : (step + 1) * layers])
        for n, layer in enumerate(made):
            assert (download(backend, layer.out) == resident[step][n]).all(), (step, n)


def resident_outputs(given, ids, tokens):
    backend = EmulatedBackend((8, 0))
    space = Workspace(backend, SHAPE, tokens)
    outputs = []
    pools = []
    for one in given:
        pool = Pool.empty(backend, 8, SHAPE)
        backend.copy(pool.w13, interleave(one.gate_up))
        backend.copy(pool.w2, one.down)
        pools.append(pool)
    for step in ids:
        outputs.append([])
        for one, pool, rows in zip(given, pools, step, strict=True):
            layer = Layer(space, one.x, one.router, rows.astype(np.int32))
            for launches in layer.parts(pool).values():
                for launch in launches:
                    backend.launch(launch)
            outputs[-1].append(download(backend, layer.out))
            layer.close()
    return outputs
