"""One step in time: its pieces on streams and links, one after the other or as two overlapping halves.

`moesim.engine.step` adds up what runs alike; here the same seconds are laid out, and end when it says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from moesim.engine.deployment import Deployment
from moesim.engine.memory import stage_edges
from moesim.engine.pieces import Cut, Piece, in_turn, phase_of
from moesim.engine.routing import Array
from moesim.engine.step import StepTimes
from moesim.engine.streams import two_stream_layers
from moesim.engine.timeline import Task, finish_times, makespan
from moesim.ops import Batch

_TASK = re.compile(r"([a-z]+)(\d+)([ab])")


@dataclass(frozen=True, slots=True, eq=False)
class Unrolled:
    """A step in time.

    Parameters
    ----------
    pieces
        What happens; those of a stream of a stage do not overlap.
    seconds
        Of the step, drafting included.
    ranks, stages
        Expert-parallel ranks of a pipeline stage, and stages.
    scale
        Of experts' seconds: the mean batch over the drawn one.
    overlap
        Of `moesim.engine.deployment.OVERLAPS`: ``none`` where an engine would switch it off.
    stretch
        Of layers whose two streams fill the memory together.
    """

    pieces: tuple[Piece, ...]
    seconds: float
    ranks: int
    stages: int
    scale: float
    overlap: str
    stretch: float = 1.0

    @property
    def expert_s(self) -> Array:
        """Seconds that each rank spends in its experts, ``[ranks]``."""
        found = np.zeros(self.ranks)
        for piece in self.pieces:
            if piece.rank_s is not None:
                found += piece.rank_s
        return found


def unroll(deployment: Deployment, step: StepTimes, draft_s: float = 0.0) -> Unrolled:
    """Lay a step out in time.

    Parameters
    ----------
    deployment
        What timed it.
    step
        Of one batch.
    draft_s
        Seconds of drafting, which follow it.

    Returns
    -------
    Unrolled
        Its last piece ends after `seconds`.

    Raises
    ------
    ValueError
        If `step` is of several batches.
    """
    if len(step.seconds) != 1:
        raise ValueError(f"a step of one batch is laid out, not of {len(step.seconds)}")
    cut = Cut.of(deployment, step)
    waiting = float(np.broadcast_to(step.waiting_s, 1)[0])
    busy, overlap, stretch = float(step.seconds[0]) - waiting, "none", 1.0
    pieces = in_turn(cut.sequence())
    # The same sum in another order differs in its last digits.
    if busy < (1.0 - 1e-9) * pieces[-1].end_s:
        overlap = deployment.overlap
        pieces, stretch = _halves(cut, busy)
    last = deployment.layout.pp - 1
    after = (
        Piece("host", "waiting for launches", "host", waiting, last),
        Piece("compute", "draft", "draft", draft_s, last),
    )
    pieces += in_turn(((p,) for p in after if p.seconds > 0), max(piece.end_s for piece in pieces))
    ranks = deployment.layout.ep if cut.groups else 1
    return Unrolled(
        tuple(pieces),
        float(step.seconds[0]) + draft_s,
        ranks,
        deployment.layout.pp,
        cut.scale,
        overlap,
        stretch,
    )


def _halves(cut: Cut, busy_s: float) -> tuple[list[Piece], float]:
    """Two half batches beside each other, and by how much a full memory stretches them.

    The layers around the experts come first, those with experts take the mean layer's time, as in the model.
    """
    deployment, phase = cut.deployment, phase_of(cut.step)
    batch = cut.step.work.batch.half()
    half = Cut.of(deployment, deployment.sequential(batch, phase))
    if deployment.overlap == "streams":
        tasks, parts = _fastest(deployment, batch, phase)
        dense, other = deployment.around_layers(deployment.sequential(cut.step.work.batch, phase), 1)
    else:
        tasks, parts = deployment.two_batch_tasks(half.step), None
        dense, other = deployment.around_layers(half.step, 2)
    host, span = deployment.traits.host_s, float(makespan(tasks)[0])
    before = (
        Piece("host", "host", "host", host),
        Piece("compute", "layers without experts", "attention", float(dense[0])),
    )
    pieces = in_turn((piece,) for piece in before if piece.seconds > 0)
    start = host + float(dense[0])
    after = float(other[0]) - host
    stretch = (busy_s - start - after) / span
    pieces += _Halves(half, stretch, parts).pieces(tasks, start)
    ends = Piece("compute", "embedding, head, sampling", "other", after, deployment.layout.pp - 1)
    return pieces + in_turn([(ends,)], busy_s - after), stretch


def _fastest(deployment: Deployment, half: Batch, phase: int) -> tuple[list[Task], tuple[float, ...]]:
    """Tasks with the best split of the cores, and seconds of dispatch, experts and combine in a layer."""
    layers, best = len(deployment.model.moe_layer_ids), None
    for split in deployment.splits:
        attention, *rest = deployment.stream_parts(half, split, phase)
        tasks = list(two_stream_layers(layers, attention, np.sum(rest, axis=0)))
        found = float(makespan(tasks)[0]), tasks, tuple(float(part[0]) for part in rest)
        best = found if best is None or found[0] < best[0] else best
    assert best is not None
    return best[1], best[2]


@dataclass(frozen=True, slots=True, eq=False)
class _Halves:
    """Makes pieces of the tasks of half batches.

    Parameters
    ----------
    half
        A half batch, cut.
    stretch
        Of all seconds.
    parts
        Seconds of dispatch, experts and combine where they are one task of a stream of their own.
    """

    half: Cut
    stretch: float
    parts: tuple[float, ...] | None

    def pieces(self, tasks: list[Task], start_s: float) -> list[Piece]:
        """Every task where the timeline has it."""
        done = finish_times(tasks)
        found = []
        for task in tasks:
            seconds = self.stretch * float(task.seconds[0])
            begin = start_s + self.stretch * float(done[task.name][0]) - seconds
            found += [replace(piece, start_s=begin + piece.start_s) for piece in self._pieces(task, seconds)]
        return found

    def _pieces(self, task: Task, seconds: float) -> list[Piece]:
        """One task, from 0."""
        matched = _TASK.fullmatch(task.name)
        assert matched is not None
        block, position, which = matched[1], int(matched[2]), matched[3]
        model, pp = self.half.deployment.model, self.half.deployment.layout.pp
        layer = model.moe_layer_ids[position]
        stage = int(np.searchsorted(stage_edges(model.num_layers, pp), layer, side="right")) - 1
        if block == "attention":
            return [Piece(task.stream, f"attention {which}", "attention", seconds, stage, layer)]
        if block != "experts":
            return self._travels(block, position, which, stage, seconds)
        if self.parts is None:
            return [self._experts(task.stream, position, which, stage, seconds)]
        there, work, back = (self.stretch * part for part in self.parts)
        found = self._travels("dispatch", position, which, stage, there, task.stream)
        found += [replace(self._experts(task.stream, position, which, stage, work), start_s=there)]
        away = self._travels("combine", position, which, stage, back, task.stream)
        return found + [replace(piece, start_s=there + work) for piece in away]

    def _travels(
        self, way: str, position: int, which: str, stage: int, seconds: float, stream: str = ""
    ) -> list[Piece]:
        """Tokens on links, and on the stream whose cores send them."""
        found = [
            replace(piece, name=f"{way} {which}", seconds=seconds)
            for together in self.half.exchange(way, position, stage)
            for piece in together
        ]
        if stream and found:
            found.append(replace(found[0], stream=stream, facts={}))
        return found

    def _experts(self, stream: str, position: int, which: str, stage: int, seconds: float) -> Piece:
        """The block of the experts: ranks differ in the routed ones, which are a part of it."""
        rank_s = self.half.rank_s
        part = rank_s.max(axis=1).sum() / float(self.half.step.block_seconds()["experts"][0])
        shares = 1.0 - part + part * rank_s[position] / rank_s[position].max()
        layer = self.half.deployment.model.moe_layer_ids[position]
        return Piece(
            stream, f"experts {which}", "experts", seconds, stage, layer,
            seconds * shares, self.half.rank_pairs[position],
        )  # fmt: skip
