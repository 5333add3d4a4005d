"""A step of prefill and one of decode at the load that was asked for, as a timeline and as a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from moesim.chrome import Event, name_process, name_track, nanoseconds, span, write_events
from moesim.correction import Calibration, shipped
from moesim.engine.deployment import Deployment
from moesim.engine.pieces import STREAMS, Piece
from moesim.engine.prefill import full_chunks
from moesim.engine.unroll import Unrolled, unroll
from moesim.errors import ConfigError, Fault
from moesim.hardware.types import Hardware
from moesim.layout.disaggregated import Disaggregated
from moesim.layout.expert_map import ExpertMap
from moesim.layout.parallelism import Parallelism
from moesim.model.types import Model
from moesim.ops import Batch
from moesim.prediction.predict import settle
from moesim.prediction.question import Engine, Workload, check
from moesim.prediction.served import Served
from moesim.trace.types import LoadCounts, RoutingTrace

#: Ranks that are drawn, unless more are asked for.
MOST_RANKS = 32
_STEPS = 1


class Slice(NamedTuple):
    """What one rank does for a while; the fields are those of `moesim.reporting.figures.Slice`."""

    track: str
    name: str
    start_s: float
    seconds: float
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """A step and when it passes.

    Parameters
    ----------
    name, pool
        ``prefill`` or ``decode``, and whose: the deployment's, or a worker's of one of two pools.
    facts
        Tokens and sequences of it.
    start_s
        A step of the same ranks may come before.
    unrolled
        What is in it.
    """

    name: str
    pool: str
    facts: dict[str, float]
    start_s: float
    unrolled: Unrolled

    def slices(self, rank: int | None = None, stage: int = 0) -> list[Slice]:
        """What a rank does, by stream; that with most expert work by default."""
        rank = int(self.unrolled.expert_s.argmax()) if rank is None else rank
        found = []
        for piece in self.unrolled.pieces:
            if piece.stage == stage:
                own, wait = _own(piece, rank)
                found.append(Slice(piece.stream, piece.name, piece.start_s, own, piece.kind))
                if wait > 0:
                    found.append(Slice(piece.stream, "wait", piece.start_s + own, wait, "wait"))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class StepTimeline:
    """Steps of one configuration in time.

    Parameters
    ----------
    title
        Model, machine, layout.
    steps
        Of prefill and of decode.
    """

    title: str
    steps: tuple[Passed, ...]

    def write(self, path: str | os.PathLike[str], ranks: int = MOST_RANKS) -> int:
        """Write Chrome-trace JSON for Perfetto, compressed if the name ends in ``.gz``.

        Parameters
        ----------
        path
            The file to write.
        ranks
            Expert-parallel ranks of a stage that are drawn at most: those with least and most expert work,
            and others evenly between.

        Returns
        -------
        int
            Events written.

        Raises
        ------
        ConfigError
            If the path cannot be written, or no rank is to be drawn.
        """
        if ranks < 1:
            raise ConfigError(Fault("must be at least 1", "--timeline-ranks", ranks, "1, 2, 3, ..."))
        about = {
            "title": self.title,
            "steps": [
                {
                    "name": p.name,
                    "pool": p.pool,
                    "seconds": p.unrolled.seconds,
                    "overlap": p.unrolled.overlap,
                    "mean_over_drawn_expert_seconds": p.unrolled.scale,
                    "stretched_by_memory": p.unrolled.stretch,
                    **p.facts,
                }
                for p in self.steps
            ],
        }
        return write_events(path, self._events(ranks), about)

    def _events(self, most: int) -> Iterator[Event]:
        yield from name_process(_STEPS, "steps")
        process = _STEPS
        for number, pool in enumerate(dict.fromkeys(p.pool for p in self.steps)):
            yield from name_track((_STEPS, number), pool or "steps")
            mine = [p for p in self.steps if p.pool == pool]
            for p in mine:
                start, end = nanoseconds([p.start_s, p.start_s + p.unrolled.seconds]).tolist()
                yield span((_STEPS, number), f"{p.name} step", start, end, "step", p.facts)
            shape = mine[0].unrolled
            shown = _shown(mine[-1].unrolled.expert_s, most)
            for stage in range(shape.stages):
                for rank in shown:
                    process += 1
                    yield from name_process(process, _rank_name(pool, shape, stage, rank))
                    yield from _rank(process, mine, stage, rank)


def step_timeline(
    model: Model,
    hardware: Hardware,
    layout: Parallelism | Disaggregated,
    workload: Workload,
    *,
    trace: RoutingTrace | LoadCounts | None = None,
    plan: ExpertMap | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> StepTimeline:
    """Lay out in time what `moesim.predict` adds up: a full step of prefill, and the step that decodes.

    Parameters
    ----------
    model, hardware, layout, workload, trace, plan, engine, seed, calibration
        As for `moesim.predict`, with its errors. What measured runs say beyond physics is not in steps.

    Examples
    --------
    >>> import moesim as ms
    >>> question = (
    ...     ms.load_model("gpt-oss-20b"),
    ...     ms.load_hardware("h100-sxm-8"),
    ...     ms.Parallelism(dp=8, ep=8),
    ...     Workload(input_len=1024, output_len=1024, concurrency=256),
    ... )
    >>> prefill, decode = step_timeline(*question).steps
    >>> answer = ms.predict(*question)
    >>> bool(decode.unrolled.seconds == answer.decode.seconds[0])
    True
    >>> sorted({s.track for s in decode.slices()})
    ['compute', 'host', 'scale-up']
    """
    engine = engine or Engine()
    calibration = shipped() if calibration is None else calibration
    check(model, hardware, layout, [workload], trace, plan, engine)
    served = Served.of(model, hardware, layout, engine, calibration, trace, plan, seed)
    load = settle(served, workload)
    first = _prefill(served.deployments[0], load.input_len, engine.chunk_tokens)
    state, _ = served.answer(load)
    decode = state.decode
    batch = decode.step.work.batch
    facts = {
        "sequences": float(batch.sequences[0] * min(float(batch.ranks[0]), served.decode.layout.dp)),
        "context_tokens": float(batch.context[0]),
        "tokens_per_sequence": decode.tokens,
    }
    unrolled = unroll(served.decode, decode.step, float(decode.draft_s[0]))
    second = Passed("decode", "", facts, first.unrolled.seconds, unrolled)
    if served.prefill is not None:
        first, second = (
            replace(first, pool="prefill worker"),
            replace(second, pool="decode worker", start_s=0.0),
        )
    return StepTimeline(f"{model.name} on {hardware.name}, {layout}", (first, second))


def _prefill(deployment: Deployment, input_len: Any, chunk_tokens: float) -> Passed:  # noqa: ANN401 - an array
    """A step whose data-parallel ranks are all full of prompts, or of chunks of them."""
    _, chunk, past, packed = full_chunks(input_len, chunk_tokens)
    step = deployment.step(Batch.of(prompts=packed, chunk=chunk, past=past))
    facts = {
        "prompts": float(packed[0]) * deployment.layout.dp,
        "tokens_per_prompt": float(chunk[0]),
        "tokens_before": float(past[0]),
    }
    return Passed("prefill", "", facts, 0.0, unroll(deployment, step))


def _rank(process: int, steps: Sequence[Passed], stage: int, rank: int) -> Iterator[Event]:
    """Tracks of one rank, a stream each."""
    pieces = [
        (passed.start_s, piece)
        for passed in steps
        for piece in passed.unrolled.pieces
        if piece.stage == stage
    ]
    for number, stream in enumerate(STREAMS):
        mine = sorted(
            ((start, piece) for start, piece in pieces if piece.stream == stream),
            key=lambda item: item[0] + item[1].start_s,
        )
        if not mine:
            continue
        track = (process, number)
        yield from name_track(track, stream)
        if stream == "compute":
            yield from _layers(track, pieces)
        starts = nanoseconds([start + piece.start_s for start, piece in mine]).tolist()
        ends = nanoseconds([start + piece.end_s for start, piece in mine]).tolist()
        # Sums in another order may differ by a nanosecond.
        ends = [min(end, later) for end, later in zip(ends, [*starts[1:], ends[-1]], strict=True)]
        for (_, piece), start, end in zip(mine, starts, ends, strict=True):
            own = min(start + int(nanoseconds(_own(piece, rank)[0])), end)
            facts = dict(piece.facts)
            if piece.layer is not None:
                facts["layer"] = piece.layer
            if piece.rank_pairs is not None:
                facts["token_expert_pairs"] = float(piece.rank_pairs[rank])
            yield span(track, piece.name, start, own, piece.kind, facts)
            if own < end and piece.rank_s is not None:
                yield span(track, f"wait for rank {int(piece.rank_s.argmax())}", own, end, "wait")


def _layers(track: tuple[int, int], pieces: Sequence[tuple[float, Piece]]) -> Iterator[Event]:
    """A slice around each layer, where layers do not overlap."""
    ends: dict[tuple[float, int], tuple[float, float]] = {}
    for start, piece in pieces:
        if piece.layer is not None:
            low, high = ends.get((start, piece.layer), (np.inf, 0.0))
            ends[start, piece.layer] = (min(low, start + piece.start_s), max(high, start + piece.end_s))
    found = sorted((*nanoseconds(times).tolist(), layer) for (_, layer), times in ends.items())
    crossed = {a for a, b in pairwise(found) if b[0] < a[1]} | {b for a, b in pairwise(found) if b[0] < a[1]}
    for start, end, layer in (each for each in found if each not in crossed):
        yield span(track, f"layer {layer}", start, end, "layer")


def _own(piece: Piece, rank: int) -> tuple[float, float]:
    """Seconds that a rank works on a piece, and that it waits for the slowest one."""
    if piece.rank_s is None:
        return piece.seconds, 0.0
    own = min(float(piece.rank_s[rank]), piece.seconds)
    return own, piece.seconds - own


def _shown(work_s: Any, most: int) -> list[int]:  # noqa: ANN401 - an array
    """Ranks from the least to the most loaded, evenly; the busiest if there is one alone."""
    order = np.argsort(work_s, kind="stable")[::-1]
    chosen = np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))
    return sorted(order[chosen].tolist())


def _rank_name(pool: str, shape: Unrolled, stage: int, rank: int) -> str:
    words = [pool] if pool else []
    if shape.stages > 1:
        words.append(f"stage {stage}")
    words.append(f"expert rank {rank}" if shape.ranks > 1 else "every rank")
    return ", ".join(words)
