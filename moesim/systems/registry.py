"""Every row there is: each module of `moesim.systems.rows` lists its own as ``ROWS``."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Sequence
from importlib import import_module

from moesim.errors import ConfigError, Fault, nearest
from moesim.systems import rows as folder
from moesim.systems.headlines import headlines
from moesim.systems.row import Row


@functools.cache
def rows() -> tuple[Row, ...]:
    """All rows: systems in the order of the headline table, the headline of each first."""
    found: list[Row] = []
    for module in pkgutil.iter_modules(folder.__path__):
        found += import_module(f"{folder.__name__}.{module.name}").ROWS
    order = {system: place for place, system in enumerate(headlines())}
    return tuple(sorted(found, key=lambda row: (order[row.system], not row.headline)))


def systems() -> tuple[str, ...]:
    """Names of the systems that have rows."""
    return tuple(dict.fromkeys(row.system for row in rows()))


def find(names: Sequence[str]) -> tuple[str, ...]:
    """Systems by name, however it is written, or by what only one starts with: ``MoE Infinity``, ``moe-inf``.

    Raises
    ------
    ConfigError
        Listing every name that is unknown, with the nearest ones.
    """
    known = {_fold(name): name for name in systems()}
    # Faster MoE is not FasterMoE.
    exact = {name.lower(): name for name in systems()}
    faults, found = [], []
    for name in names:
        if name.lower() in exact:
            found.append(exact[name.lower()])
            continue
        folded = _fold(name)
        starts = [other for other in known if folded and other.startswith(folded)]
        if folded in known or len(starts) == 1:
            found.append(known[folded if folded in known else starts[0]])
        else:
            near = [known[n] for n in nearest(_fold(name), list(known))]
            hint = f"; nearest: {', '.join(near)}" if near else ""
            faults.append(Fault("unknown system" + hint, "NAME", name, ", ".join(systems())))
    if faults:
        raise ConfigError(faults)
    return tuple(dict.fromkeys(found))


def _fold(name: str) -> str:
    # Two systems differ in the sign alone, so that it stays.
    return "".join(c for c in name.lower() if c.isalnum() or c == "+")
