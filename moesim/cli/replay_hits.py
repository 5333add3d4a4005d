"""What `moesim replay` counts: checked, replayed, shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from json import dumps
from typing import TYPE_CHECKING, Any

from moesim.cli.common import SCHEMA_VERSION, print_json, print_table, stderr

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from moesim.errors import Fault
    from moesim.model import Model
    from moesim.policy import Residency, Steps
    from moesim.residency import Replayed
    from moesim.trace import Routing, RoutingTrace

FRACTION = 0.25


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of a replay as they were given; `moesim.cli.replay` says what they mean."""

    policy: str | None = None
    compare: str | None = None
    parameter: tuple[str, ...] = ()
    cache_fraction: float | None = None
    cache_slots: int | None = None
    pool: str = "layer"
    ep: int | None = None
    lookup: str = "sequential"
    cold: str = "charge"
    reset: str = "never"
    start: str = "empty"
    popular: str | None = None
    concurrency: int = 1
    expert_bytes: str | None = None
    output: str | None = None
    seed: int = 0

    @property
    def rules(self) -> list[str]:
        """Rules to replay, each once, the first asked for first."""
        named = [] if self.compare is None else [name.strip() for name in self.compare.split(",")]
        first = self.policy if self.policy is not None else None if named else "lru"
        return list(dict.fromkeys([*([first] if first is not None else []), *named]))

    def beside(self, option: str, flags: Mapping[str, bool]) -> list[Fault]:
        """What is asked for and has no part in what `option` does, flags too."""
        from moesim.errors import Fault

        given = {
            f"--{field.name.replace('_', '-')}": getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("cache_fraction", "seed") and getattr(self, field.name) != field.default
        }
        given |= {flag: True for flag, on in flags.items() if on}
        return [Fault(f"has no part in {option}", name, value) for name, value in given.items()]


def replay_hits(
    path: str,
    asked: Asked,
    model: str | None,
    num_experts: int | None,
    *,
    curve: bool = False,
    consistency: bool = False,
    timed: Mapping[str, object] | None = None,
    json: bool,
) -> None:
    """Replay, and print a table or one JSON document; with `curve` or `consistency` what they say.

    `timed` are options of replays with time, which have no part here.

    Raises
    ------
    ConfigError
        With every fault of the options and of the files they name.
    """
    from moesim.errors import ConfigError, Fault
    from moesim.trace import RoutingTrace

    faults, residencies = question(asked)
    found_model, routing, popular = _read(path, asked, model, num_experts, faults)
    faults += _fit(asked, routing, popular)
    if curve and consistency:
        faults.append(Fault("cannot stand beside --curve", "--consistency"))
    elif curve or consistency:
        from moesim.cli.replay_curve import CONSISTENCY, CURVE

        option, takes = ("--curve", CURVE) if curve else ("--consistency", CONSISTENCY)
        faults += [fault for fault in asked.beside(option, {}) if fault.where not in takes]
        if curve and asked.pool == "device":
            faults.append(Fault("has no curve", "--pool", asked.pool, "layer, global"))
        if asked.cache_fraction is not None:
            faults.append(Fault(f"has no part in {option}", "--cache-fraction", asked.cache_fraction))
    for option, value in (timed or {}).items():
        if value is not None:
            faults.append(Fault("is for --system or --optimise", option, value))
    if faults or not isinstance(routing, RoutingTrace):
        raise ConfigError(faults)
    for warning in routing.warnings:
        stderr(f"warning: {warning}")
    if curve or consistency:
        from moesim.cli.replay_curve import consistency_answer, curve_answer

        if curve:
            answer = curve_answer(_steps(asked, routing), residencies[0])
        else:
            answer = consistency_answer(routing, asked.seed)
        whole = {"trace": path, **answer.document}
        kind = "replay-curve" if curve else "replay-consistency"
        if asked.output is not None:
            _write(asked.output, whole, kind, [path], asked.seed)
        if json:
            print_json(whole, kind=kind, inputs=[path], seed=asked.seed)
        else:
            answer.show()
        return
    found = run(asked, residencies, routing, found_model, popular)
    whole = document(path, found, asked) | {"moe_layer_ids": list(routing.moe_layer_ids)}
    inputs = [path, *([asked.popular] if asked.popular else [])]
    if asked.output is not None:
        _write(asked.output, whole, "replay", inputs, asked.seed)
    if json:
        print_json(whole, kind="replay", inputs=inputs, seed=asked.seed)
    else:
        _show(found)


def question(asked: Asked) -> tuple[list[Fault], list[Residency]]:
    """Residencies of the rules, and what is wrong with the options before any file is read."""
    from moesim.errors import ConfigError, Fault
    from moesim.files import check_writable
    from moesim.policy import Residency
    from moesim.residency.kernels.table import KERNELS

    faults: list[Fault] = []
    values: dict[str, float] = {}
    for text in asked.parameter:
        name, _, value = text.partition("=")
        try:
            values[name.strip()] = float(value)
        except ValueError:
            faults.append(Fault("is no NAME=VALUE with a number", "--parameter", text, "as in keep=1"))
    residencies: list[Residency] = []
    unused = set(values)
    for rule in asked.rules:
        takes = KERNELS[rule].parameters if rule in KERNELS else {}
        unused -= set(takes)
        try:
            residencies.append(
                Residency(
                    rule,
                    asked.pool,
                    asked.lookup,
                    asked.cold,
                    asked.reset,
                    asked.start,
                    {**takes, **{name: value for name, value in values.items() if name in takes}},
                )
            )
        except ConfigError as error:
            for fault in error.faults:
                option = "--compare" if rule != asked.policy and asked.compare else "--policy"
                where = option if fault.where == "rule" else f"--{fault.where}"
                named = Fault(fault.message, where, fault.value, fault.allowed)
                if named not in faults:
                    faults.append(named)
    known = sorted({name for rule in asked.rules if rule in KERNELS for name in KERNELS[rule].parameters})
    faults += [
        Fault("is no parameter of these rules", "--parameter", name, ", ".join(known) or "none")
        for name in sorted(unused)
    ]
    if asked.cache_fraction is not None and asked.cache_slots is not None:
        faults.append(Fault("cannot stand beside --cache-fraction", "--cache-slots", asked.cache_slots))
    if asked.cache_fraction is not None and not 0 <= asked.cache_fraction <= 1:
        faults.append(Fault("is no part of the experts", "--cache-fraction", asked.cache_fraction, "0 to 1"))
    if asked.cache_slots is not None and asked.cache_slots < 0:
        faults.append(Fault("is below 0", "--cache-slots", asked.cache_slots))
    if (asked.pool == "device") != (asked.ep is not None):
        message = "is needed for --pool device" if asked.ep is None else "is for --pool device"
        faults.append(Fault(message, "--ep", asked.ep))
    elif asked.ep is not None and asked.ep < 1:
        faults.append(Fault("is below 1", "--ep", asked.ep))
    if (asked.start == "popular") != (asked.popular is not None):
        message = "is needed for --start popular" if asked.popular is None else "is for --start popular"
        faults.append(Fault(message, "--popular", asked.popular))
    if asked.concurrency < 1:
        faults.append(Fault("is below 1", "--concurrency", asked.concurrency))
    if asked.output is not None:
        faults += check_writable(asked.output, "--output")
    return faults, residencies


def _read(
    path: str, asked: Asked, model: str | None, num_experts: int | None, faults: list[Fault]
) -> tuple[Model | None, Routing | None, Routing | None]:
    """What the options name, as far as it can be read."""
    from moesim.errors import ConfigError, Fault, TraceError
    from moesim.model import load_model, names
    from moesim.trace import load_trace

    def gather(error: ConfigError | TraceError) -> None:
        faults.extend(
            Fault(f"{error.source}: {fault}" if error.source else str(fault)) for fault in error.faults
        )

    found = None
    try:
        found = load_model(model) if model is not None else None
    except ConfigError as error:
        gather(error)
    if found is not None and found.moe is None:
        faults.append(Fault("is a dense model: it routes nothing", "--model", model, "a model with experts"))
        found = None
    read: list[Routing | None] = []
    for file in (path, asked.popular):
        try:
            read.append(
                None
                if file is None
                else load_trace(
                    file, shape=found, num_experts=num_experts, candidates=lambda: map(load_model, names())
                )
            )
        except (ConfigError, TraceError) as error:
            gather(error)
            read.append(None)
    return found, read[0], read[1]


def _fit(asked: Asked, routing: Routing | None, popular: Routing | None) -> list[Fault]:
    """What is wrong with the options once the trace is known."""
    from moesim.errors import ConfigError, Fault
    from moesim.policy.split import require_disjoint
    from moesim.residency.kernels.table import KERNELS
    from moesim.trace import RoutingTrace

    faults: list[Fault] = []
    if asked.expert_bytes is not None:
        try:
            size_of(asked.expert_bytes)
        except ConfigError as error:
            faults += error.faults
    if routing is None:
        return faults
    if not isinstance(routing, RoutingTrace):
        return [*faults, Fault("needs tokens; these are load counts", "TRACE", routing.source or None)]
    if asked.ep is not None and asked.ep > routing.num_experts:
        faults.append(Fault("is more than the experts", "--ep", asked.ep, f"1 to {routing.num_experts}"))
    if popular is not None:
        layers = len(popular.moe_layer_ids)
        shape, wanted = (layers, popular.num_experts), (routing.topk_ids.shape[1], routing.num_experts)
        if shape != wanted:
            faults.append(
                Fault(
                    "is of another model", "--popular", f"{shape[0]} layers, {shape[1]} experts", str(wanted)
                )
            )
        elif isinstance(popular, RoutingTrace):
            try:
                require_disjoint(popular, routing)
            except ConfigError as error:
                faults += [Fault(f.message, "--popular", f.value, f.allowed) for f in error.faults]
    if routing.topk_weights is None:
        # Rules that weigh by the router say so themselves; all are named here, before any is replayed.
        need = [rule for rule in asked.rules if rule in KERNELS and KERNELS[rule].weights]
        faults += [Fault("needs router weights, which the trace has not", "--policy", rule) for rule in need]
    return faults


def size_of(text: str) -> float:
    """Bytes of one expert.

    Examples
    --------
    >>> size_of("88 MB")
    88000000.0
    """
    from moesim.errors import ConfigError, Fault
    from moesim.units import parse

    try:
        found = parse(text, "bytes")
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise ConfigError(Fault("is no size", "--expert-bytes", text, "as in '88 MB' or 88000000"))
    return found


def run(
    asked: Asked,
    residencies: Sequence[Residency],
    trace: RoutingTrace,
    model: Model | None,
    popular: Routing | None,
) -> list[Replayed]:
    """Replay every rule."""
    from moesim.residency import replay

    steps = trace if asked.concurrency == 1 else _steps(asked, trace)
    devices = None if asked.ep is None else blocks(trace.num_experts, asked.ep)
    return [
        replay(
            steps,
            residency,
            slots_of(asked, trace, devices),
            devices=devices,
            popular=None if popular is None else popular.load_counts().totals,
            seed=asked.seed,
            expert_bytes=_bytes(asked, model),
        )
        for residency in residencies
    ]


def _steps(asked: Asked, trace: RoutingTrace) -> Steps:
    """Steps of one token, or of as many as decode together."""
    from moesim.policy import token_steps
    from moesim.policy.batchers import Continuous

    return token_steps(trace) if asked.concurrency == 1 else Continuous(asked.concurrency).form(trace)


def blocks(experts: int, devices: int) -> npt.NDArray[np.int64]:
    """Device of each expert, as engines place them: in blocks, in order.

    Examples
    --------
    >>> blocks(8, 3).tolist()
    [0, 0, 0, 1, 1, 1, 2, 2]
    """
    import numpy as np

    return np.arange(experts) * devices // experts


def slots_of(
    asked: Asked, trace: RoutingTrace, devices: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.int64]:
    """Slots of each pool: so many, or a part of the experts of each layer that are its own."""
    import numpy as np

    layers = trace.topk_ids.shape[1]
    if asked.pool == "layer":
        sizes, times = np.full(layers, trace.num_experts), 1
    else:
        own = np.array([trace.num_experts]) if devices is None else np.bincount(devices)
        sizes, times = own, layers
    if asked.cache_slots is not None:
        return np.full(len(sizes), asked.cache_slots, np.int64)
    fraction = FRACTION if asked.cache_fraction is None else asked.cache_fraction
    return np.array([times * round(fraction * int(size)) for size in sizes], np.int64)


def _bytes(asked: Asked, model: Model | None) -> float | None:
    if asked.expert_bytes is not None:
        return size_of(asked.expert_bytes)
    if model is None or model.moe is None:
        return None
    from moesim.cost import ExpertShape
    from moesim.ops import Precision

    moe = model.moe
    weights = Precision.of(model).weight("expert")
    return float(ExpertShape(model.hidden, moe.intermediate, moe.matrices, weights).weight_bytes)


def document(path: str, found: Sequence[Replayed], asked: Asked) -> dict[str, Any]:
    """The first rule's own fields, and with --compare those of all."""
    whole = {"trace": path, "concurrency": asked.concurrency, **found[0].to_dict()}
    if asked.compare is not None:
        whole["policies"] = [one.to_dict() for one in found]
    return whole


def _write(path: str, whole: dict[str, Any], kind: str, inputs: Sequence[str], seed: int) -> None:
    from moesim.files import atomic_write
    from moesim.provenance import clean, provenance

    full = {"schema_version": SCHEMA_VERSION, "kind": kind, **whole, "provenance": provenance(inputs, seed)}
    with atomic_write(path) as stream:
        stream.write(dumps(clean(full), indent=2, allow_nan=False) + "\n")  # type: ignore[call-overload]


def _show(found: Sequence[Replayed]) -> None:
    from moesim.units import show

    moved = found[0].expert_bytes is not None
    rows = [
        [
            one.residency.rule,
            int(one.slots.sum()),
            int(one.accesses.sum()),
            int(one.hits.sum()),
            f"{one.hit_ratio:.4f}",
            int(one.cold.sum()),
            int(one.evictions.sum()),
            *([show(one.bytes_moved, "bytes")] if moved else []),
            f"{one.accesses.sum() / max(one.seconds, 1e-9) / 1e6:.0f}",
        ]
        for one in found
    ]
    columns = ["policy", "slots", "accesses", "hits", "hit ratio", "cold misses", "evictions"]
    print_table([*columns, *(["moved"] if moved else []), "M accesses/s"], rows)
