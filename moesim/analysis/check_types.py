"""What a check says: findings, their severity, and the list of everything that is looked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is looked for.

    Parameters
    ----------
    severity
        Of a finding, unless the finding says otherwise.
    unit
        What its count counts.
    action
        What to do about it.
    """

    severity: str
    unit: str
    action: str


RULES = {
    "refused": Rule(
        ERROR,
        "faults",
        "every other command refuses this file: repair the recording, or name the model it is really of",
    ),
    "id-out-of-range": Rule(
        ERROR, "selections", "name the right model, or drop the tokens whose ids are markers of a hole"
    ),
    "physical-ids": Rule(
        ERROR,
        "selections",
        "map ids through the deployment's physical-to-logical map, or record again without redundant experts",
    ),
    "shared-expert": Rule(
        ERROR, "layers", "record without fusing shared experts into the router, or drop that slot"
    ),
    "duplicate-ids": Rule(
        ERROR, "rows", "a router never chooses an expert twice: look for padding, or for a wrong top-k"
    ),
    "padding-tokens": Rule(
        ERROR, "tokens", "drop these tokens: a recorder's buffer was filled with zeros and never written"
    ),
    "dense-layer": Rule(
        ERROR, "layers", "leave dense layers out: name the model with --model, so that the reader knows them"
    ),
    "cyclic-routing": Rule(
        ERROR, "layers", "record real traffic: this is a dummy router, as benchmarks of kernels use"
    ),
    "balanced-load": Rule(
        ERROR, "layers", "switch off forced balancing (or the uniform dummy router) and record again"
    ),
    "copied-layer": Rule(ERROR, "layers", "one layer was recorded under several names: check the recorder"),
    "unknown-layer": Rule(
        ERROR, "layers", "number layers as the decoder does, from 0 and with dense layers included"
    ),
    "other-model": Rule(ERROR, "differences", "name the model that the trace is of"),
    "missing-layer": Rule(
        WARNING,
        "layers",
        "results speak of the layers that are there: record the others for whole-model answers",
    ),
    "dummy-rows": Rule(
        WARNING, "tokens", "drop them: engines warm up with dummy tokens before the first request"
    ),
    "collapsed-router": Rule(
        WARNING, "layers", "check the checkpoint and the prompts: one expert takes nearly every token"
    ),
    "unused-expert": Rule(
        WARNING,
        "experts",
        "check that the recording covers the traffic you plan for, and the number of experts",
    ),
    "idle-rank": Rule(WARNING, "ranks", "place experts by load (moesim place), or use fewer ranks"),
    "repeated-request": Rule(
        WARNING, "requests", "drop copies: they count the same traffic twice and make predictors look good"
    ),
    "template-prefix": Rule(
        WARNING,
        "tokens",
        "an engine with a prefix cache computes these tokens once: leave them out of prefill load, and "
        "split by request before learning a predictor",
    ),
    "position-gap": Rule(
        WARNING, "tokens", "tokens are missing or out of order: statistics of consecutive tokens jump here"
    ),
    "phase-order": Rule(
        WARNING, "tokens", "a request was preempted and prefilled again, or phases are mislabelled"
    ),
    "phase-missing": Rule(INFO, "requests", "expect nothing of the other phase from this trace"),
    "repeated-step": Rule(WARNING, "steps", "the recorder dumped one step several times: drop the copies"),
    "uneven-layers": Rule(
        WARNING,
        "layers",
        "every layer sees the same tokens: the recorder missed some, or layers were dropped",
    ),
    "note": Rule(INFO, "notes", "see whether it is what you meant"),
}


@dataclass(frozen=True, slots=True)
class Example:
    """Where one instance of a finding is.

    Parameters
    ----------
    request, position
        The token; None where the finding is not about a token.
    layer
        Decoder index.
    value
        What stands there.
    """

    request: int | None = None
    position: int | None = None
    layer: int | None = None
    value: str = ""

    def __str__(self) -> str:
        named = (("request", self.request), ("position", self.position), ("layer", self.layer))
        place = ", ".join(f"{name} {value}" for name, value in named if value is not None)
        return ": ".join(part for part in (place, self.value) if part)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a check found.

    Parameters
    ----------
    code
        A name of `RULES`.
    count
        How often, in the rule's unit.
    message
        What was found.
    layers
        Decoder indices concerned; empty when the finding is not about layers.
    example
        One instance.
    severity
        ``error``, ``warning`` or ``info``; the rule's own unless the circumstances make it milder.
    """

    code: str
    count: int
    message: str
    layers: tuple[int, ...] = ()
    example: Example | None = None
    severity: str = ""

    def __post_init__(self) -> None:
        if not self.severity:
            object.__setattr__(self, "severity", RULES[self.code].severity)

    @property
    def unit(self) -> str:
        """What `count` counts."""
        return RULES[self.code].unit

    @property
    def action(self) -> str:
        """What to do about it."""
        return RULES[self.code].action


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a check found, worst first.

    Parameters
    ----------
    findings
        Worst first, in the order of `RULES`.
    kind, format, model
        Of the trace; empty when it could not be read.
    tokens
        Tokens of a routing trace; None for load counts.
    examined_tokens
        Tokens whose order was examined; later ones of a huge trace are only counted.
    """

    findings: tuple[Finding, ...]
    kind: str = ""
    format: str = ""
    model: str = ""
    tokens: int | None = None
    examined_tokens: int | None = None

    def of(self, severity: str) -> tuple[Finding, ...]:
        """Findings of one severity."""
        return tuple(f for f in self.findings if f.severity == severity)

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not self.of(ERROR)

    def find(self, code: str) -> Finding | None:
        """The first finding of a code, or None."""
        return next((f for f in self.findings if f.code == code), None)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings ordered by severity, then as `RULES` lists them."""
    order = list(RULES)
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), order.index(f.code))))


def ranges(ids: Iterable[int]) -> str:
    """Layer ids in short.

    >>> ranges((0, 3, 4, 5, 9))
    '0, 3-5, 9'
    """
    parts: list[list[int]] = []
    for i in sorted(ids):
        if parts and i == parts[-1][-1] + 1:
            parts[-1].append(i)
        else:
            parts.append([i])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
