"""CGOPipe on its clocks, beside a task graph laid out by hand and its bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.throughput import cgopipe
from moesim.throughput.cgopipe import AHEAD, Pieces, decode_seconds

SECONDS = st.floats(0.0, 10.0)
PIECES = st.builds(Pieces, SECONDS, SECONDS, SECONDS, st.floats(0.01, 10), *[SECONDS] * 6)
SIZES = (st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))


def by_graph(layers: int, micro_batches: int, steps: int, p: Pieces) -> float:
    """The same schedule as named tasks on streams, each waiting for named others."""
    done: dict[tuple[str, int], float] = {}
    free: dict[str, float] = {}

    def run(name: str, number: int, stream: str, seconds: float, *after: tuple[str, int]) -> None:
        start = max([free.get(stream, 0.0), *(done.get(task, 0.0) for task in after)])
        done[name, number] = free[stream] = start + seconds

    total, ahead = layers * micro_batches * steps, min(AHEAD, micro_batches)
    # Page i is for micro-batch i; those below zero are of the first layer.
    for i in range(-micro_batches, 0):
        run("stage", i, "copier", p.stage)
        run("memory", i, "memory", p.memory)
        run("page", i, "in", p.page, ("stage", i), ("memory", i))
    for i in range(-ahead, total):
        if i >= 0:
            before = ("attend", i) if p.cpu_attention > 0 else ("post", i - micro_batches)
            run("receive", i, "in", p.receive, before)
            run("stage", i, "copier", p.stage, ("page", i - micro_batches))
            run("memory", i, "memory", p.memory, ("page", i - micro_batches))
            run("page", i, "in", p.page, ("stage", i), ("memory", i))
            layer = i // micro_batches
            head = p.head if (i + 1) % (layers * micro_batches) == 0 else 0.0
            last_page = ("page", layer * micro_batches - 1)
            run("post", i, "gpu", p.gpu_attention + p.post + head, ("receive", i), last_page)
        j = i + ahead
        if j < total:
            run("pre", j, "gpu", p.pre, ("post", j - micro_batches))
            run("send", j, "out", p.send, ("pre", j))
            if p.cpu_attention > 0:
                run("attend", j, "cpu", p.cpu_attention, ("send", j))
    return max(done.values())


@settings(max_examples=200, deadline=None)
@given(*SIZES, PIECES, st.booleans())
def test_the_clocks_are_those_of_the_task_graph(layers, micro_batches, steps, pieces, on_gpu):
    if on_gpu:
        pieces = replace(pieces, cpu_attention=0.0)
    seconds = decode_seconds(layers, micro_batches, steps, pieces)
    assert seconds == pytest.approx(by_graph(layers, micro_batches, steps, pieces))


@settings(max_examples=200, deadline=None)
@given(*SIZES, PIECES)
def test_no_resource_works_longer_than_the_schedule(layers, micro_batches, steps, p):
    seconds = decode_seconds(layers, micro_batches, steps, p) * (1 + 1e-12)
    count = layers * micro_batches * steps
    assert seconds >= count * (p.post + p.pre + p.gpu_attention) + steps * p.head
    assert seconds >= count * (p.page + p.receive)
    assert seconds >= count * p.send
    assert seconds >= count * p.cpu_attention
    assert seconds >= count * p.memory


@settings(max_examples=100, deadline=None)
@given(*SIZES, PIECES, st.sampled_from(Pieces.__slots__), st.floats(1.0, 4.0))
def test_slower_pieces_never_make_it_faster(layers, micro_batches, steps, pieces, name, factor):
    slower = replace(pieces, **{name: getattr(pieces, name) * factor})
    before = decode_seconds(layers, micro_batches, steps, pieces)
    assert decode_seconds(layers, micro_batches, steps, slower) >= before * (1 - 1e-12)


def test_paging_hides_transfers_that_whole_layers_at_once_would_not():
    """With as many pages as micro-batches, hidden states slip in between pages."""
    pieces = Pieces(1.0, 0.1, 0, 0.5, 0.01, 0.01, page=1.0, stage=0.0, head=0)
    paged = decode_seconds(8, 8, 4, pieces)
    # One page of everything, before the first micro-batch's hidden state can come.
    lump = replace(pieces, page=0.0, receive=pieces.receive)
    assert paged < decode_seconds(8, 8, 4, lump) + 8 * 8 * 4 * 1.0
    assert paged < 1.15 * 8 * 8 * 4 * (1.0 + 0.1)


def test_long_runs_go_on_as_their_last_half_went(monkeypatch):
    pieces = Pieces(1.0, 0.2, 0, 0.7, 0.1, 0.1, 0.9, 0.3, 0.5)
    exact = decode_seconds(4, 5, 200, pieces)
    monkeypatch.setattr(cgopipe, "MOST", 4 * 5 * 20)
    assert decode_seconds(4, 5, 200, pieces) == pytest.approx(exact, rel=1e-9)
