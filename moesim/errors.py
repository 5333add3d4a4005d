"""Every error moesim raises on purpose.

::

    MoesimError
    ├── ConfigError        a description, option or plan is wrong; lists every fault at once
    │   └── UnknownNameError   a catalogue has no such entry
    ├── TraceError         a routing trace or load dump is wrong; lists every fault at once
    └── InfeasibleError    the question is well put, and the answer is that it does not fit

    OutOfDomainWarning     a prediction outside what was calibrated

Anything else that escapes is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with one input.

    Parameters
    ----------
    message
        What is wrong, in a sentence without a full stop.
    where
        Path inside the file, or the option: ``devices.h200.memories.hbm.bandwidth``, ``--ep``.
    value
        The offending value, if there is one.
    allowed
        What would have been accepted.
    """

    message: str
    where: str = ""
    value: object = None
    allowed: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        if self.value is not None:
            text += f" (got {self.value!r})"
        return f"{text}; allowed: {self.allowed}" if self.allowed else text


class MoesimError(Exception):
    """Root of the errors a user can cause."""


class _FaultyInputError(MoesimError):
    """An input with one or more faults, all reported together.

    Parameters
    ----------
    faults
        Everything that is wrong.
    source
        The file or option the faults were found in.
    """

    def __init__(self, faults: Fault | str | Iterable[Fault | str], source: object = "") -> None:
        if isinstance(faults, Fault | str):
            faults = [faults]
        self.faults: tuple[Fault, ...] = tuple(Fault(f) if isinstance(f, str) else f for f in faults)
        self.source = str(source)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults]
        if len(lines) == 1:
            return f"{self.source}: {lines[0]}" if self.source else lines[0]
        head = f"{self.source}: {len(lines)} faults" if self.source else f"{len(lines)} faults"
        return "\n".join([head, *(f"  {line}" for line in lines)])


class ConfigError(_FaultyInputError):
    """A description, an option or a plan is wrong."""


class TraceError(_FaultyInputError):
    """A routing trace or a load dump is wrong."""


class UnknownNameError(ConfigError):
    """A catalogue has no entry of that name.

    Parameters
    ----------
    kind
        What was looked for, as in ``"model"``.
    name
        The name that was not found.
    known
        The names there are; the nearest are suggested.
    hint
        How to see them all.
    """

    def __init__(self, kind: str, name: str, known: Sequence[str], hint: str = "") -> None:
        near = nearest(name, known)
        text = f"unknown {kind} {name!r}"
        if near:
            text += f"; nearest: {', '.join(near)}"
        super().__init__(f"{text}; {hint}" if hint else text)
        self.nearest = near


class InfeasibleError(MoesimError):
    """The request is well formed and cannot be met.

    Parameters
    ----------
    message
        What does not fit and what would.
    resource
        The resource that is short, as in ``"memory hbm"``.
    needed, available
        In the resource's SI unit.
    details
        Machine-readable facts about a way out.
    """

    def __init__(
        self,
        message: str,
        *,
        resource: str,
        needed: float,
        available: float,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.resource = resource
        self.needed = needed
        self.available = available
        self.details = details or {}


class OutOfDomainWarning(UserWarning):
    """A prediction lies outside what was calibrated; its interval is widened."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Names close to `name`, best first.

    >>> nearest("deepseek-v4", ["deepseek-v3", "mixtral-8x7b"])
    ['deepseek-v3']
    """
    folded = {k.lower(): k for k in known}
    wanted = name.lower()
    close = difflib.get_close_matches(wanted, folded, n=n, cutoff=0.55)
    inside = [k for k in folded if wanted and wanted in k and k not in close]
    return [folded[k] for k in (close + sorted(inside))[:n]]
