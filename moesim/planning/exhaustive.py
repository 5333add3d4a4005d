"""The cheapest plan by simulating everything: what a search has to find, on spaces small enough to try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

from moesim.layout.disaggregated import Disaggregated, Workers
from moesim.planning.candidates import Shape
from moesim.planning.confirm import MOST_REPLICAS
from moesim.planning.launch import unsupported
from moesim.planning.pools import splits
from moesim.planning.search import Question
from moesim.planning.types import CONFIRMED, Assessment, Candidate
from moesim.prediction import Engine

#: Of the least cost so far: candidates of one more rental each time, alternatives of equal cost together.
Steps = Callable[[float], Iterator[Iterable[Candidate]]]


def exhaustive(asked: Question) -> Sequence[Assessment]:
    """All plans of the least cost that hold in the simulator.

    Every configuration is simulated with 1, 2, 3, ... times what is rented together, until it holds, the
    budget is spent, or it costs more than what was found. Two pools of any two layouts are simulated on 1, 2,
    3, ... nodes, with every division of their devices among workers. Neither bounds nor the steady state are
    asked.

    Parameters
    ----------
    asked
        As `moesim.planning.search.question` makes it.

    Returns
    -------
    sequence of Assessment
        Equally cheap; empty if nothing holds.
    """
    tariff, judge = asked.tariff, asked.judge
    found: list[Assessment] = []
    least = float("inf")
    for steps in _configurations(asked):
        for alternatives in steps(least):
            held = False
            fits = True
            for candidate in alternatives:
                verdict = judge.verdict(candidate)
                if not verdict.holds:
                    # What does not fit fits no better if there is more of it.
                    fits = fits and (verdict.metrics["attainment"] > 0 or "ttft_s" in verdict.metrics)
                    continue
                held = True
                cost, usd = tariff.cost(candidate), tariff.usd(candidate)
                if cost < least * (1.0 - 1e-12):
                    least, found = cost, []
                found.append(Assessment(candidate, CONFIRMED, "", verdict.metrics, verdict.interval, usd))
            if held or not fits:
                break
    return found


def _configurations(asked: Question) -> Iterator[Steps]:
    space = asked.space
    valid = [shape for shape in asked.shapes if not unsupported(shape.candidate(shape.engine, 1))]
    if "aggregated" in space.modes:
        for shape in valid:
            for engine in shape.settings(space):
                yield _alone(asked, shape, engine)
    if "disaggregated" in space.modes:
        for prefill, decode in product(valid, valid):
            if not prefill.redundant and _alike(prefill) == _alike(decode):
                for engine in decode.settings(space):
                    yield _pools(asked, prefill, decode, engine)


def _alike(shape: Shape) -> tuple[object, ...]:
    """What workers of two pools have in common."""
    return id(shape.model), shape.hardware.name, shape.engine


def _alone(asked: Question, shape: Shape, engine: Engine) -> Steps:
    each = shape.per_rental

    def steps(least: float) -> Iterator[Iterable[Candidate]]:
        room = min(asked.tariff.replicas_within(shape, least, asked.space), MOST_REPLICAS) // each
        for rentals in range(1, room + 1):
            yield [shape.candidate(engine, rentals * each)]

    return steps


def _pools(asked: Question, prefill: Shape, decode: Shape, engine: Engine) -> Steps:
    first, second = prefill.layout, decode.layout

    def steps(least: float) -> Iterator[Iterable[Candidate]]:
        room = min(asked.tariff.nodes_within(decode, least, asked.space), MOST_REPLICAS)
        for nodes in range(1, min(room, decode.hardware.max_nodes or room) + 1):
            machine = decode.hardware.with_nodes(nodes)
            divided = splits(first.world, second.world, nodes * machine.devices_per_node)
            yield [
                Candidate(
                    decode.model,
                    machine,
                    Disaggregated(Workers(first, many), Workers(second, others)),
                    1,
                    engine,
                    decode.redundant,
                )
                for many, others in divided
            ]

    return steps
