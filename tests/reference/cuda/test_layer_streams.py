"""Streams without a device: orders that a device could take, and no other."""

import numpy as np
import pytest

from moesim.errors import MoesimError
from moesim.reference.cuda.backend import KernelError, Launch, download, upload
from moesim.reference.cuda.emulated import EmulatedBackend
from moesim.reference.cuda.graph import Flush, Timed, time
from moesim.reference.cuda.streams import HostEvent, HostStream, Queues

pytestmark = pytest.mark.emulation


def orders(wait: bool) -> set[str]:
    """What two streams of two pieces of work each can become."""

    def drawn(seed: int) -> str:
        queues, done, event = Queues(seed), [], HostEvent()
        other = queues.stream()
        queues.add(lambda: done.append("a"), None)
        queues.record(event, None, lambda: 0.0)
        queues.add(lambda: done.append("b"), None)
        if wait:
            queues.wait(event, other)
        queues.add(lambda: done.append("c"), other)
        queues.add(lambda: done.append("d"), other)
        queues.run()
        return "".join(done)

    return set(map(drawn, range(200)))


def test_streams_run_in_every_order_that_events_allow():
    assert orders(wait=False) == {"abcd", "acbd", "acdb", "cabd", "cadb", "cdab"}
    assert orders(wait=True) == {"abcd", "acbd", "acdb"}


@pytest.mark.parametrize("seed", range(20))
def test_an_event_counts_as_it_was_last_recorded(seed):
    queues, done, event = Queues(seed), [], HostEvent()
    other = queues.stream()
    queues.wait(event, other)  # never recorded: no wait
    queues.record(event, None, lambda: 0.0)
    queues.add(lambda: done.append("a"), None)
    queues.record(event, None, lambda: 0.0)
    queues.wait(event, other)
    queues.add(lambda: done.append("b"), other)
    queues.run()
    assert done == ["a", "b"]


def test_streams_that_wait_for_each_other():
    queues, event = Queues(0), HostEvent()
    event.recorded = 1
    queues.wait(event, HostStream())
    with pytest.raises(MoesimError, match="wait for each other"):
        queues.run()


@pytest.mark.parametrize("seed", [None, 0, 1], ids=["in order", "shuffled 0", "shuffled 1"])
def test_a_copy_on_another_stream_is_waited_for(seed):
    backend = EmulatedBackend(seed=seed)
    held, other = upload(backend, np.zeros(4)), upload(backend, np.ones(4))
    copies, copied = backend.stream(), backend.event()
    backend.copy(held, other, copies)
    backend.record(copied, copies)
    backend.wait(copied)
    result = backend.empty((4,), np.float64)
    backend.copy(result, held)
    assert (download(backend, result) == 1).all()
    backend.close()


def test_a_copy_that_is_not_waited_for_shows():
    found = set()
    for seed in range(20):
        backend = EmulatedBackend(seed=seed)
        held, other = upload(backend, np.zeros(4)), upload(backend, np.ones(4))
        result = backend.empty((4,), np.float64)
        backend.copy(held, other, backend.stream())
        backend.copy(result, held)
        found.add(float(download(backend, result)[0]))
    assert found == {0.0, 1.0}


def test_new_memory_is_poisoned_and_guarded():
    backend = EmulatedBackend()
    assert np.isnan(download(backend, backend.empty((3, 4), np.float32))).all()
    sink = backend.empty((1,), np.uint32)
    magic = upload(backend, np.array([[0x9E3779B9, 0, 0, 0]], np.uint32))
    past = sink.rows(1, 2)
    flush = Flush(backend)
    backend.launch(Launch(flush.launch.program, "read_all", 1, 32, (magic, np.int64(1), sink)))
    with pytest.raises(KernelError, match="read_all wrote outside of a buffer of 4 bytes"):
        backend.launch(Launch(flush.launch.program, "read_all", 1, 32, (magic, np.int64(1), past)))


@pytest.mark.parametrize("graph", [False, True], ids=["calls", "graph"])
def test_a_sequence_is_timed_as_a_whole_and_by_part(graph):
    ticks = iter(range(1000))
    backend = EmulatedBackend(clock=lambda: float(next(ticks)))
    flush = Flush(backend)
    timed = Timed(backend, {"one": [flush.launch], "two": [flush.launch] * 2, "none": []}, graph=graph)
    assert timed.graph == graph
    assert timed.run() == 1.0
    before = backend.launches
    assert timed.run_parts(flush) == {"one": 1.0, "two": 1.0, "none": 1.0}
    assert backend.launches == before + 4
    timed.close()
    assert time(backend, [flush.launch], 3, flush=False, inner=2).tolist() == [0.5] * 3
    backend.close()


def test_a_graph_reads_memory_as_it_is_when_it_runs():
    backend = EmulatedBackend()
    held, result = upload(backend, np.zeros(2)), backend.empty((2,), np.float64)
    graph = backend.capture(lambda stream: backend.copy(result, held, stream))
    for value in (1.0, 2.0):
        backend.copy(held, np.full(2, value))
        graph.launch()
        assert (download(backend, result) == value).all()
