"""`moesim replay --curve` and `--consistency`: hits of every capacity, and local routing consistency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moesim.cli.common import print_json, print_table, stderr

if TYPE_CHECKING:
    from moesim.policy import Residency
    from moesim.trace import RoutingTrace

#: Parts of a pool that the table shows; JSON has every capacity.
_SHOWN = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)


def show_curve(trace: str, routing: RoutingTrace, conditions: Residency, json: bool) -> None:
    """Hit ratio by capacity, least recently used and Belady's rule, under the given conditions."""
    from dataclasses import replace

    from moesim.policy import token_steps
    from moesim.residency import curve

    steps = token_steps(routing)
    found = {rule: curve(steps, replace(conditions, rule=rule, parameters={})) for rule in ("lru", "belady")}
    if json:
        document: dict[str, Any] = {
            "trace": trace,
            "curves": {rule: c.to_dict() for rule, c in found.items()},
        }
        print_json(document, inputs=[trace])
        return
    objects = len(found["lru"].capacities) - 1
    sizes = sorted({max(1, round(part * objects)) for part in _SHOWN})
    unit = "pool of all layers" if conditions.pool == "global" else "pool per layer"
    print_table(
        ["slots", "part", "lru", "belady", "left to gain"],
        [
            [c, f"{c / objects:.1%}", *(f"{found[r].hit_ratio[c]:.4f}" for r in found),
             f"{found['belady'].hit_ratio[c] - found['lru'].hit_ratio[c]:.4f}"]
            for c in sizes
        ],
        title=f"Hit ratio by capacity, {unit} of {objects} experts",
    )  # fmt: skip
    accesses, seconds = int(found["lru"].accesses.sum()), sum(c.seconds for c in found.values())
    stderr(f"{accesses:,} accesses, {objects} capacities of two rules in {seconds:.2f} s")


def show_consistency(trace: str, routing: RoutingTrace, seed: int, json: bool) -> None:
    """Segment routing and segment cache hit rates, as in arXiv 2505.16056."""
    from moesim.residency import consistency

    found = consistency(routing, seed=seed)
    if json:
        print_json({"trace": trace, "consistency": found.to_dict()}, inputs=[trace], seed=seed)
        return
    print_table(
        ["window", "SRP", "95 %", "experts per choice"],
        [
            [m, _text(found.srp.model[i]), _span(found.srp.model_interval[:, i]),
             _text(found.cache_ratio.model[i])]
            for i, m in enumerate(found.lengths)
        ],
        title=f"Segment routing best performance of the model, {found.samples} samples",
    )  # fmt: skip
    k, experts, layers = routing.top_k, routing.num_experts, routing.topk_ids.shape[1]
    sizes = sorted({min(k, experts), min(2 * k, experts), experts // 4, experts // 2} - {0})
    print_table(
        ["rule", *(f"{c} a layer" for c in sizes), *(f"{c * layers} in all" for c in sizes)],
        [
            [name, *(_text(rates.layers[:, c].mean()) for c in sizes),
             *(_text(rates.model[c * layers]) for c in sizes)]
            for name, rates in found.hit_rates.items()
        ],
        title="Hit rates: each layer its own slots, and one pool of all "
        f"({found.pool_samples} samples of {found.samples})",
    )  # fmt: skip


def _text(value: float) -> str:
    return "" if value != value else f"{value:.4f}"


def _span(ends: Any) -> str:  # noqa: ANN401
    return "" if ends[0] != ends[0] else f"{ends[0]:.4f} to {ends[1]:.4f}"
