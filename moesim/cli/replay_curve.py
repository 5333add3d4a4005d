"""`moesim replay --curve` and `--consistency`: hits of every capacity, and local routing consistency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moesim.cli.common import print_table, stderr

if TYPE_CHECKING:
    from moesim.policy import Residency, Steps
    from moesim.residency import Consistency, Curve
    from moesim.trace import RoutingTrace

#: Options that have a part in each.
CURVE = ("--pool", "--lookup", "--cold", "--reset", "--concurrency", "--output")
CONSISTENCY = ("--output",)
#: Parts of a pool that the table shows; JSON has every capacity.
_SHOWN = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A document for JSON, and what prints it for people."""

    document: dict[str, Any]
    show: Callable[[], None]


def curve_answer(steps: Steps, conditions: Residency) -> Answer:
    """Hit ratio by capacity, least recently used and Belady's rule, under the given conditions."""
    from dataclasses import replace

    from moesim.residency import curve

    rules = ("lru", "belady")
    found = {rule: curve(steps, replace(conditions, rule=rule, parameters={})) for rule in rules}
    return Answer(
        {"curves": {rule: one.to_dict() for rule, one in found.items()}}, lambda: _show_curve(found)
    )


def consistency_answer(routing: RoutingTrace, seed: int) -> Answer:
    """Segment routing and segment cache hit rates, as in arXiv 2505.16056."""
    from moesim.residency import consistency

    found = consistency(routing, seed=seed)
    return Answer({"consistency": found.to_dict()}, lambda: _show_consistency(found, routing))


def _show_curve(found: dict[str, Curve]) -> None:
    lru, best = found["lru"], found["belady"]
    objects = len(lru.capacities) - 1
    sizes = sorted({max(1, round(part * objects)) for part in _SHOWN})
    unit = "one pool of all layers" if lru.residency.pool == "global" else "a pool per layer"
    rows = [
        [
            c,
            f"{c / objects:.1%}",
            *(f"{one.hit_ratio[c]:.4f}" for one in found.values()),
            f"{best.hit_ratio[c] - lru.hit_ratio[c]:.4f}",
        ]
        for c in sizes
    ]
    title = f"Hit ratio by capacity, {unit}, {objects} experts"
    print_table(["slots", "part", *found, "left to gain"], rows, title=title)
    seconds = sum(one.seconds for one in found.values())
    stderr(f"{int(lru.accesses.sum()):,} accesses, two rules, {objects} capacities: {seconds:.2f} s")


def _show_consistency(found: Consistency, routing: RoutingTrace) -> None:
    rows = [
        [
            m,
            _text(found.srp.model[i]),
            _span(found.srp.model_interval[:, i]),
            _text(found.cache_ratio.model[i]),
        ]
        for i, m in enumerate(found.lengths)
    ]
    print_table(
        ["window", "SRP", "95 %", "experts per choice"],
        rows,
        title=f"Segment routing best performance of the model, {found.samples} samples",
    )
    k, experts, layers = routing.top_k, routing.num_experts, routing.topk_ids.shape[1]
    sizes = sorted({min(k, experts), min(2 * k, experts), experts // 4, experts // 2} - {0})
    rows = [
        [
            name,
            *(_text(rates.layers[:, c].mean()) for c in sizes),
            *(_text(rates.model[c * layers]) for c in sizes),
        ]
        for name, rates in found.hit_rates.items()
    ]
    print_table(
        ["rule", *(f"{c} a layer" for c in sizes), *(f"{c * layers} in all" for c in sizes)],
        rows,
        title="Hit rates: slots of each layer, and one pool of all layers "
        f"({found.pool_samples} of {found.samples} samples)",
    )


def _text(value: float) -> str:
    return "" if value != value else f"{value:.4f}"


def _span(ends: Any) -> str:  # noqa: ANN401
    return "" if ends[0] != ends[0] else f"{ends[0]:.4f} to {ends[1]:.4f}"
